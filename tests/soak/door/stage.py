"""A node that guards secrets, attackers' credentials, and what must hold while they are at work.

Tenant `open` has the attacker, who may use `fuzz.>` and nothing else, and a witness whose topics
are `secret.>`; tenant `vault` has the attacker not at all. All that the witnesses say carries a
canary: bytes that nobody else may ever receive.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil

import sira
from sira.kernel.identity import Principal
from sira.kernel.trust import tokens
from sira.testing import Node
from tests.integration.door.keys import CLUSTER, ONLY_CALLS, Keys
from tests.integration.ports import free_port

from .plans import Known

ATTACKER = Principal(CLUSTER, "open", "user", "mallory")
WITNESS = Principal(CLUSTER, "open", "user", "witness")
NEIGHBOUR = Principal(CLUSTER, "vault", "user", "witness")
RULES = f"""{ONLY_CALLS}
[[rule]]
name = "attacker"
effect = "allow"
principals = "{ATTACKER}"
actions = ["publish", "subscribe", "create_topic", "delete_topic", "inspect", "attach"]
topics = ["fuzz.>", "sira.stats", "sira.explain"]
[[rule]]
name = "witnesses"
effect = "allow"
principals = ["{WITNESS}", "{NEIGHBOUR}"]
actions = "*"
topics = [">", "sira.>"]
"""
# gRPC's own words at its start; everything else on stderr is a line of JSON of ours.
_OF_GRPC = re.compile(r"^(WARNING: All log messages before absl|[IW]\d{4} )")
# grpcio prints this when a call whose path it cannot decode is gone before it could say so.
_OF_LOST = re.compile(
    r"Traceback \(most recent call last\):\n"
    r"  File .*_handle_exceptions\n(  File .*_pyx.*\n|  File .*pyx\.pxi.*\n)+"
    r".*ExecuteBatchError: Failed \"execute_batch\".*\n"
)
SETTLE_S = 90.0  # longer than the HTTP listener keeps the client of a caller that left (60 s)


@dataclass(frozen=True, slots=True)
class Sample:
    """What the processes of a node hold: resident bytes and file descriptors, by process."""

    rss_bytes: dict[str, int]
    fds: dict[str, int]


@dataclass(frozen=True, slots=True)
class Stage:
    """The node under attack."""

    node: Node
    keys: Keys
    http_port: int
    tls: bool
    canary: bytes
    _forms: tuple[bytes, ...] = field(repr=False)
    pids: dict[str, int]

    @property
    def ca(self) -> Path | None:
        """The authority that vouches for the node; None: plain."""
        return self.keys.folder / "ca.pem" if self.tls else None

    @property
    def address(self) -> tuple[str, int]:
        """Where gRPC listens."""
        host, _, port = self.node.url.removeprefix("sira://").rpartition(":")
        return host, int(port)

    def client_context(self) -> ssl.SSLContext | None:
        """How one connects to the HTTP port; None: plain."""
        return ssl.create_default_context(cafile=str(self.ca)) if self.ca else None

    def channel(self) -> grpc.Channel:
        """A connection of its own to the gRPC port."""
        target = ":".join(map(str, self.address))
        options = [("grpc.use_local_subchannel_pool", 1)]
        if self.ca is None:
            return grpc.insecure_channel(target, options)
        return grpc.secure_channel(
            target, grpc.ssl_channel_credentials(self.ca.read_bytes()), options
        )

    def connect(self, who: Principal) -> sira.SyncBus:
        """A client of the SDK."""
        security = sira.Security(token=self.keys.token(who), tls_ca=self.ca)
        scheme = "siras" if self.tls else "sira"
        host, port = self.address
        return sira.connect_sync(f"{scheme}://{host}:{port}", security=security)

    def known(self, client_ids: tuple[bytes, ...]) -> Known:
        """What the attacker knows: more than one should."""
        stranger = tokens.new_root_key()
        good = self.keys.token(ATTACKER)
        header = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
        claims = base64.urlsafe_b64encode(
            json.dumps({"sub": "witness", "exp": time.time() + 600}).encode()
        ).rstrip(b"=").decode()  # fmt: skip
        shown = {
            "good": good,
            "narrowed": tokens.narrow(good, topics=["fuzz.a"]),
            "expired": self.keys.token(WITNESS, expires_s=time.time() - 1),
            "foreign root": tokens.mint(stranger, WITNESS),
            "foreign cluster": self.keys.token(Principal("other", "open", "user", "witness")),
            "alg none": f"{header}.{claims}.",
            "cut": good[:-9],
        }
        words = (
            "fuzz.a", "fuzz.a.b", "fuzz.>", "fuzz.*", "secret.flow", "secret.box", "secret.>", ">",
            "*.*", "sira.>", str(WITNESS), str(NEIGHBOUR), "vault", "open", "g",
        )  # fmt: skip
        return Known(shown, words, client_ids)

    def leaks(self, data: bytes) -> bool:
        """Whether bytes carry a secret, as it is or as text may carry it."""
        return any(form in data for form in self._forms)

    def sample(self) -> Sample:
        """What is held now. Raises psutil.NoSuchProcess: one of the processes has ended."""
        processes = {name: psutil.Process(pid) for name, pid in self.pids.items()}
        return Sample(
            {name: each.memory_info().rss for name, each in processes.items()},
            {name: each.num_fds() for name, each in processes.items()},
        )

    def restarts(self) -> list[str]:
        """Processes that are no longer those of the beginning."""
        now = _pids(self.node)
        return [name for name, pid in self.pids.items() if now.get(name) != pid]

    def last_words(self) -> str:
        """The end of the log."""
        return self.node.log_path.read_text(errors="replace")[-2_000:]

    def complaints(self) -> tuple[list[str], int]:
        """Read the log: what no input may cause there, and how often gRPC printed `_OF_LOST`.

        Lines of ours that are errors, tracebacks, and words that nobody knows.
        """
        text, lost = _OF_LOST.subn("", self.node.log_path.read_text(errors="replace"))
        found = []
        for line in text.splitlines():
            try:
                said: dict[str, Any] = json.loads(line)
            except ValueError:
                if line.strip() and not _OF_GRPC.match(line):
                    found.append(line[:300])
                continue
            if said.get("level") in ("error", "critical") or "Traceback" in line:
                found.append(line[:2_000])
        return found, lost


def _pids(node: Node) -> dict[str, int]:
    found = {"supervisor": node.supervisor_pid, "node": node.pid}
    for child in psutil.Process(node.supervisor_pid).children():
        if child.pid != node.pid and "http" in " ".join(child.cmdline()):
            found["http"] = child.pid
    return found


def _forms(canary: bytes) -> tuple[bytes, ...]:
    """The canary as base64 may carry it, at each of three offsets, in hex, and as it is."""
    shifted = (base64.b64encode(b"\0" * pad + canary)[4 if pad else 0 : -4] for pad in range(3))
    return canary, canary.hex().encode(), *shifted


@contextmanager
def opened(folder: Path, *, tls: bool) -> Iterator[Stage]:
    """Run a node with both doors, rules and secrets.

    Args:
        folder: for keys and rules; the caller's to remove.
    """
    keys = Keys.new(folder)
    rules = folder / "rules.toml"
    rules.write_text(RULES)
    port = free_port()
    settings: dict[str, object] = {
        "cluster_name": CLUSTER, "token_keys": folder / "token.pub", "policy": rules,
        "anonymous": "refuse", "http": f"127.0.0.1:{port}",
        # So that what attackers used and left is gone at the end, and what is not is a leak.
        "topic_idle_s": 5, "retry_window_s": 5, "http_idle_s": 5, "handshake_s": 5,
        "publish_block_s": 0.5, "stall_s": 1,
        # Attackers, and those who watch that others are served, come from one address.
        "empty_per_address_s_max": 0,
    }  # fmt: skip
    if tls:
        settings |= {"tls_cert": folder / "node.pem", "tls_key": folder / "node.key"}
    canary = secrets.token_hex(12).encode()
    with ExitStack() as exits:
        node = exits.enter_context(Node(settings=settings))
        yield Stage(node, keys, port, tls, canary, _forms(canary), _pids(node))
