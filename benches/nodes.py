"""Nodes of ours with a door: TLS and tokens, tables of rules, limits; and raw grpcio over TLS.

Keys, certificates and tokens are made by the `sira` command into the folder of the measurement.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

from benches.harness import BenchError, Process, Stage
from benches.systems import GRPC, SIRA, sira_binary, start_node

Limit = dict[str, str | float]
"""Fields of one limit, as a limits file has them."""
DENIED_TOPIC = "bench.denied"
DENYING_RULE = "nobody-speaks-here"
LIMITED_TOPIC = "bench.limited"
"""One message a second may pass here, where there are limits."""
_RULES_BEFORE_OTHERS = 4  # what `_rules` needs to let a measurement run, and one that denies


def _sira(*words: str) -> None:
    """Run our command line.

    Raises:
        BenchError: it failed.
    """
    binary = sira_binary()
    assert binary is not None  # `missing` looked
    done = subprocess.run([binary, *words], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise BenchError(f"sira {' '.join(words)}: {done.stderr[-500:]}")


def _keys(stage: Stage) -> Path:
    """Make an authority, a certificate of the server (ECDSA P-256) and a key of tokens."""
    folder = stage.folder / "keys"
    _sira("tls", "init", str(folder), "--name", "bench", "--ip", "127.0.0.1")
    return folder


def _token(stage: Stage, keys: Path, tenant: str) -> Path:
    """Make a token of `tenant`; its file."""
    path = stage.folder / f"{tenant}.token"
    _sira("token", "create", f"{tenant}/user/bench", f"--key={keys / 'token.key'}", f"--out={path}")
    return path


# ---- TLS -----------------------------------------------------------------------------------------


def _start_tls_node(stage: Stage, port: int) -> Process:
    """Let everybody in who has a token; the participants get one, and who vouches for the node."""
    keys = _keys(stage)
    token = _token(stage, keys, "default")
    stage.shared = {"tls_ca": str(keys / "ca.pem"), "token_file": str(token)}
    return start_node(
        stage,
        port,
        *("--tls-cert", str(keys / "node.pem"), "--tls-key", str(keys / "node.key")),
        *("--token-keys", str(keys / "token.pub")),
    )


def _make_tls_ends(stage: Stage, _port: int) -> None:
    """One of the two ends listens itself, with the same kind of certificate as our node."""
    keys = _keys(stage)
    names = {"tls_ca": "ca.pem", "tls_cert": "node.pem", "tls_key": "node.key"}
    stage.shared = {field: str(keys / name) for field, name in names.items()}


SIRA_TLS = replace(SIRA, name="sira-tls", label="sira over TLS", start=_start_tls_node)
GRPC_TLS = replace(GRPC, name="grpc-tls", label="raw grpcio over TLS", start=_make_tls_ends)


# ---- rules and limits ----------------------------------------------------------------------------


def rules_text(count: int) -> str:
    """Return a table of `count` rules, at least 10, under which a measurement may run.

    Half of the rest speak of our own principal on other topics, half of others on our topics, so
    that neither a principal nor a topic tells at once that they do not matter here.
    """
    rules = [
        'name = "calls"\neffect = "allow"\nprincipals = "*"\nactions = "call"\nmethods = "*"',
        'name = "flows"\neffect = "allow"\nprincipals = "*"\n'
        'actions = ["publish", "subscribe", "create_topic"]\ntopics = "bench.>"',
        'name = "looks"\neffect = "allow"\nprincipals = "*"\nactions = "inspect"\n'
        'topics = [">", "sira.>"]',
        f'name = "{DENYING_RULE}"\neffect = "deny"\nprincipals = "*"\nactions = "publish"\n'
        f'topics = "{DENIED_TOPIC}"',
    ]
    for index in range(count - _RULES_BEFORE_OTHERS):
        who, topic = f"sira://*/default/agent/robot-{index}", "bench.>"
        if index % 2:
            who, topic = "sira://*/default/user/*", f"robots.r{index}.>"
        rules.append(
            f'name = "other-{index}"\neffect = "{"deny" if index % 3 == 0 else "allow"}"\n'
            f'principals = "{who}"\nactions = ["publish", "subscribe"]\ntopics = "{topic}"'
        )
    assert len(rules) == count, count
    return 'format = "sira-policy 1"\ndefault = "deny"\n' + "".join(
        f"\n[[rule]]\n{rule}\n" for rule in rules
    )


def limits_text(*limits: Limit) -> str:
    """Return a table of limits; each by its fields."""
    return 'format = "sira-limits 1"\n' + "".join(
        "\n[[limit]]\n"
        + "".join(f"{field} = {json.dumps(value)}\n" for field, value in one.items())
        for one in limits
    )


_ROOM: Limit = {"messages_per_s": 1e9, "bytes_per_s": 1e13, "held_bytes": 10**13}
"""Of everything that can be limited a message at a time, more than will come."""
WIDE_LIMITS: tuple[Limit, ...] = (
    {"name": "of-tenant", "scope": "tenant", **_ROOM},
    {"name": "of-principal", "scope": "principal", **_ROOM},
    {"name": "of-topic", "scope": "topic", "pattern": "bench.>", **_ROOM},
    {"name": "narrow", "scope": "topic", "pattern": LIMITED_TOPIC, "messages_per_s": 1},
)


def start_ruled(stage: Stage, port: int, *, rules: int, limited: bool) -> Process:
    """Start a node with so many rules (0: everything is allowed), and with limits or without."""
    flags: list[str] = []
    if rules:
        table = stage.folder / "policy.toml"
        table.write_text(rules_text(rules))
        flags += ["--policy", str(table)]
    if limited:
        limits = stage.folder / "limits.toml"
        limits.write_text(limits_text(*WIDE_LIMITS))
        flags += ["--limits-file", str(limits)]
    return start_node(stage, port, *flags)


def start_tenants(
    stage: Stage, port: int, *tenants: str, limits: tuple[Limit, ...]
) -> tuple[Process, list[str]]:
    """Start a plain node that believes tokens; it, and the file of a token for each tenant."""
    keys = _keys(stage)
    files = [str(_token(stage, keys, tenant)) for tenant in tenants]
    flags = ["--token-keys", str(keys / "token.pub")]
    if limits:
        table = stage.folder / "limits.toml"
        table.write_text(limits_text(*limits))
        flags += ["--limits-file", str(table)]
    return start_node(stage, port, *flags), files
