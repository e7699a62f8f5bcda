"""The command against a node with TLS, tokens and rules."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sira.kernel.trust import secrets
from tests.integration.command import (
    check_envelopes,
    finish,
    finish_started,
    node,
    read_line,
    sira,
    start,
    started,
)
from tests.integration.door.keys import CLUSTER, Keys, principal

pytestmark = [pytest.mark.integration, pytest.mark.slow]

RULES = """
format = "sira-policy 1"
default = "allow"
[[rule]]
name = "hidden"
effect = "deny"
principals = ["*"]
actions = ["subscribe", "publish"]
topics = ["lab.secret.>"]
"""
BLIND = """
[[rule]]
name = "blind"
effect = "deny"
principals = ["sira://*/default/user/blind"]
actions = ["inspect"]
topics = [">", "sira.>"]
"""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    keys = Keys.new(tmp_path_factory.mktemp("keys"))
    (keys.folder / "rules.toml").write_text(RULES + BLIND)
    secrets.write_secret(keys.folder / "ann", keys.token(principal("ann")).encode())
    secrets.write_secret(keys.folder / "blind", keys.token(principal("blind")).encode())
    return keys


@pytest.fixture(scope="module")
def url(keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = keys.folder
    words = (
        "--cluster-name", CLUSTER, "--tls-cert", f"{folder}/node.pem",
        "--tls-key", f"{folder}/node.key", "--token-keys", f"{folder}/token.pub",
        "--policy", f"{folder}/rules.toml",
    )  # fmt: skip
    with node(tmp_path_factory.mktemp("node") / "data", *words) as plain:
        yield plain.replace("sira://", "siras://")


@pytest.fixture
def shown(keys: Keys) -> tuple[str, ...]:
    return "--tls-ca", str(keys.folder / "ca.pem"), "--token-file", str(keys.folder / "ann")


def test_explain_takes_an_action_and_a_principal(url: str, shown: tuple[str, ...]) -> None:
    words = ("explain", "--json", *shown)
    ended = sira(*words, "publish", "lab.secret.x", "--as", "default/user/ben", url=url)
    assert (ended.code, ended.data["decision"]) == (1, "deny")
    assert (
        "hidden" in ended.data["rule"]
        and ended.data["principal"] == f"sira://{CLUSTER}/default/user/ben"
    )
    ended = sira(*words, "subscribe", "lab.>", url=url)
    assert ended.code == 0, ended.out
    assert (ended.code, ended.data["cut"]) == (0, ["lab.secret.>"])
    assert ended.data["principal"].endswith("/user/ann")
    ended = sira(*words, "call", "/sira.v1.Kernel/Stats", url=url)
    assert (ended.code, ended.data["matches"], ended.data["kind"]) == (0, [], "")
    assert sira(*words, "fly", "lab.x", url=url).code == 2
    assert sira(*words, "publish", "lab.x", "--action", "publish", url=url).code == 2


def test_sub_says_what_was_cut(url: str, shown: tuple[str, ...]) -> None:
    process, first = started("sub", "lab.>", *shown, url=url)
    warning = json.loads(read_line(process))
    assert (warning["type"], warning["data"]["cut"]) == ("warning", ["lab.secret.>"])
    process.send_signal(signal.SIGINT)
    ended = finish(process, "sub", as_json=False)
    lines = [json.dumps(first), json.dumps(warning), *ended.out.splitlines()]
    assert check_envelopes("sub", lines)[-1]["type"] == "result"
    people = start("sub", "lab.>", "--count", "1", "--timeout", "0.2", *shown, url=url)
    _, err = people.communicate(timeout=60)
    assert "lab.secret.>" in err and "narrowed" in err


def test_events_follow_what_the_node_says(url: str, shown: tuple[str, ...]) -> None:
    process, first = started("events", "sira.topic.>", "--once", *shown, url=url)
    assert sira("topics", "create", "lab.told", *shown, url=url).code == 0
    ended = finish_started(process, "events", first)
    (fact,) = ended.items()
    assert ended.code == 0 and ended.data["facts"] == 1
    assert (fact["topic"], fact["tenant"]) == ("sira.topic.created", "default")
    assert fact["fields"]["topic"] == "lab.told"
    assert "tenant" not in fact["fields"]
    assert sira("events", "lab.>", *shown, url=url).code == 2


def test_a_bench_of_a_guarded_node_shows_the_token_in_both_processes(
    url: str, shown: tuple[str, ...]
) -> None:
    words = ("--size", "256", "--seconds", "0.2", "--rate", "100", "--json", *shown)
    ended = sira("bench", *words, url=url, env={"SIRA_TOKEN": "of somebody else"})
    assert ended.code == 0, ended.out
    assert ended.data["lost"] == 0 and ended.data["messages"] > 0


def test_without_a_token_it_is_said_at_once_how_to_show_one(url: str, keys: Keys) -> None:
    ended = sira("status", "--json", "--tls-ca", str(keys.folder / "ca.pem"), url=url)
    assert (ended.code, ended.data["code"]) == (3, "UNAUTHENTICATED")
    assert "--token-file" in ended.data["help"]


def test_top_lives_on_facts_and_needs_no_other_right(
    url: str, shown: tuple[str, ...], keys: Keys
) -> None:
    """The rules let this one inspect nothing: what `top` shows, it was told."""
    sender, first = started("pub", "lab.busy", "x", "--rate", "100", *shown, url=url)
    blind = (*shown[:2], "--token-file", str(keys.folder / "blind"))
    assert sira("ledger", *blind, url=url).code == 3
    ended = sira("top", "--once", "--json", *blind, url=url)
    assert ended.code == 0
    (picture,) = ended.items()
    assert picture["node"] and picture["uptime_ns"] > 0
    assert [row["principal"] for row in picture["clients"]]
    sender.send_signal(signal.SIGINT)
    finish_started(sender, "pub", first)


def test_doctor_reads_the_nodes_files_and_what_is_shown(
    url: str, shown: tuple[str, ...], keys: Keys, tmp_path: Path
) -> None:
    folder = keys.folder
    words = (
        "doctor", "--json", "--cluster-name", CLUSTER, "--data-dir", str(tmp_path),
        "--tls-cert", f"{folder}/node.pem", "--tls-key", f"{folder}/node.key",
        "--token-keys", f"{folder}/token.pub", "--policy",
    )  # fmt: skip

    def checks(policy: str, *more: str) -> dict[str, dict[str, str]]:
        found = sira(*words, policy, *more, url=url)
        return {each["name"]: each for each in found.items()}

    good = checks(f"{folder}/rules.toml", *shown)
    assert good["door files"]["state"] == "ok" and "policy" in good["door files"]["found"]
    assert good["shown"]["state"] == "ok" and "a token" in good["shown"]["found"]
    assert good["node"]["state"] == "ok"
    broken = tmp_path / "broken.toml"
    broken.write_text('format = "sira-policy 1"\n')
    open_to_all = tmp_path / "token"
    open_to_all.write_text("x")
    open_to_all.chmod(0o644)
    bad = checks(str(broken), *shown[:2], "--token-file", str(open_to_all))
    assert bad["door files"]["state"] == "failed" and "default" in bad["door files"]["found"]
    assert bad["shown"]["state"] == "failed" and "0644" in bad["shown"]["found"]
