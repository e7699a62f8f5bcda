"""Every verb of `sira` against a real node, and the contract of --json for each of them."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest

from sira.cli.verbs import VERBS
from tests.integration.command import (
    Ended,
    check_envelopes,
    finish,
    finish_started,
    read_line,
    sira,
    start,
    started,
)

pytestmark = [pytest.mark.integration, pytest.mark.slow]

# What each verb needs to be run once and end by itself with exit code 0.
ARGUMENTS: dict[str, list[str]] = {
    "status": [],
    "top": ["--once", "--interval", "0.1"],
    "pub": ["lab.any", "hello"],
    "topics list": [],
    "topics create": ["lab.declared"],
    "topics delete": ["lab.declared"],
    "ledger": [],
    "explain": ["lab.any"],
    "mem": [],
    "doctor": [],
    "config show": [],
    "config list": [],
    "config set": ["app.cli", "5"],
    "config get": ["app.cli"],
    "config history": ["app.cli"],
    "config rollback": ["app.cli", "1"],
    "version": [],
    "verbs": [],
    "bench": ["--size", "256", "--seconds", "0.2", "--rate", "100"],
}
NEED_A_PEER = {"up", "sub", "request", "events"}
NEED_AGENTS = {  # test_cli_registry.py; with these arguments here, where no node is
    "find": ["sort numbers"], "call": ["sort numbers", "x"], "agents list": [],
    "agents learned": [], "agents export": ["--a2a", "nobody"],
    "agents import": ["--a2a", "no-file.json"],
}  # fmt: skip
NEED_FILES = {  # test_cli_trust.py
    "tls init", "tls issue", "tls show", "tls revoke",
    "token create", "token narrow", "token show", "token revoke",
}  # fmt: skip


def test_every_verb_is_tested_here() -> None:
    assert set(ARGUMENTS) | NEED_A_PEER | set(NEED_AGENTS) | NEED_FILES == {
        verb.name for verb in VERBS
    }


# ---- the contract of --json ----------------------------------------------------------------------


@pytest.mark.parametrize("verb", ARGUMENTS)
def test_json_is_envelopes_and_nothing_else(verb: str, url: str, tmp_path: Path) -> None:
    if verb == "topics delete":
        assert sira("topics", "create", "lab.declared", url=url).code == 0
    if verb.startswith("config"):
        assert sira("config", "set", "app.cli", "4", url=url).code == 0
    ended = sira(*verb.split(), *ARGUMENTS[verb], "--json", url=url, home=tmp_path)
    assert ended.code == 0, ended
    assert ended.last["type"] == "result"


@pytest.mark.parametrize("verb", ARGUMENTS)
def test_people_get_lines_and_a_clean_exit(verb: str, url: str, tmp_path: Path) -> None:
    if verb == "topics delete":
        assert sira("topics", "create", "lab.declared", url=url).code == 0
    if verb.startswith("config"):
        assert sira("config", "set", "app.cli", "4", url=url).code == 0
    ended = sira(*verb.split(), *ARGUMENTS[verb], url=url, home=tmp_path)
    assert ended.code == 0, ended
    assert ended.out.strip() and '{"v"' not in ended.out


# These say something without one, or what is wrong with a file first.
NEED_NO_NODE = ("doctor", "config show", "agents import")
NEED_A_NODE = [v.name for v in VERBS if v.connects and v.name not in NEED_NO_NODE]


@pytest.fixture(scope="module")
def alone(unused: str) -> dict[str, Ended]:
    """Each verb where no node is, all at once: each looks for one for a while."""
    peers: dict[str, list[str]] = {"sub": ["lab.>"], "request": ["lab.any", "x"], "events": []}
    arguments = {**ARGUMENTS, **peers, **NEED_AGENTS}
    processes = {
        verb: start(*verb.split(), *arguments[verb], "--json", url=unused) for verb in NEED_A_NODE
    }
    return {verb: finish(each, verb, as_json=True) for verb, each in processes.items()}


@pytest.mark.parametrize("verb", NEED_A_NODE)
def test_no_node_is_one_error_that_says_what_to_do(verb: str, alone: dict[str, Ended]) -> None:
    ended = alone[verb]
    assert ended.code == 4
    assert ended.last["type"] == "error"
    assert ended.data["code"] == "UNREACHABLE" and "sira up" in ended.data["help"]
    assert ended.data["exit_code"] == 4


def test_for_people_an_error_is_one_line(unused: str) -> None:
    ended = sira("status", "--wait", "0.1", url=unused)
    assert (ended.code, ended.out) == (4, "")
    (line,) = ended.err.splitlines()
    assert line.startswith("sira status: ") and "[UNREACHABLE]" in line and "sira up" in line


def test_url_comes_before_the_environment(url: str, unused: str) -> None:
    assert sira("status", "--url", url, url=unused).code == 0


ENDLESS: dict[str, list[str]] = {
    "sub": ["lab.>"],
    "events": [],
    "top": ["--interval", "30"],
    "pub": ["lab.any", "x", "--rate", "50"],
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("verb", ENDLESS)
def test_a_signal_ends_an_endless_verb_with_a_result(
    verb: str, number: signal.Signals, url: str
) -> None:
    process, first = started(verb, *ENDLESS[verb], url=url)
    process.send_signal(number)
    ended = finish_started(process, verb, first)
    assert (ended.code, ended.last["type"]) == (0, "result"), ended


def test_sigint_ends_other_verbs_with_an_error(url: str) -> None:
    process, first = started("bench", "--seconds", "60", "--rate", "10", url=url)
    process.send_signal(signal.SIGINT)
    ended = finish_started(process, "bench", first)
    assert (ended.code, ended.data["code"]) == (130, "INTERRUPTED")


def test_sigint_ends_a_request_that_waits_with_an_error(url: str) -> None:
    holder, holding = started("sub", "lab.held", url=url)
    process, first = started("request", "lab.held", "x", "--timeout", "60", url=url)
    assert json.loads(read_line(holder))["type"] == "item"  # it was asked
    process.send_signal(signal.SIGINT)
    ended = finish_started(process, "request", first)
    assert (ended.code, ended.data["code"]) == (130, "INTERRUPTED")
    holder.kill()
    holder.communicate()
    assert holding["type"] == "start"


# A function of cli/main.py, in a traceback: neither its imports nor `main` of `site`.
IN_MAIN = re.compile(r'/main\.py", line \d+, in (?!<module>)')


def test_sigint_at_any_moment_ends_with_one_envelope(url: str) -> None:
    """Python itself may be hit before it runs `main`; from there on the contract holds."""
    for delay_s in (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.8):
        process = start("sub", "lab.>", "--json", url=url)
        try:
            process.wait(delay_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        if not out and not IN_MAIN.search(err):
            continue
        assert "Traceback" not in err, err
        check_envelopes("sub", out.splitlines())


def test_a_reader_that_goes_away_is_no_traceback(url: str) -> None:
    process, _ = started("top", "--interval", "0.05", url=url)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr is not None and "Traceback" not in process.stderr.read()
    process.stderr.close()
