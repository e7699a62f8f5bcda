"""`sira VERB` of verbs that a service in a process of its own has brought."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import sira.testing
from sira.cli.spec import completion

from .command import TIMEOUT_S, start, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sira.testing.Node]:
    """A node that starts the echo service, once."""
    file = tmp_path_factory.mktemp("verbs") / "sira.toml"
    file.write_text(
        f'[services.echo]\nrun = "tests.services.echo:make"\nrestart = "never"\nfolder = "{ROOT}"\n'
    )
    with sira.testing.Node(settings={"config": file}) as found:
        wait_until("the service is there", lambda: ran(found, "verbs", "--json")[1][1:-1])
        yield found


def ran(node: sira.testing.Node, *words: str, stdin: str = "") -> tuple[int, list[Any], str]:
    """Run a command; return its exit code, its lines (of JSON, where asked for) and its errors."""
    process = start(*words, url=node.url, stdin=bool(stdin))
    try:
        out, err = process.communicate(stdin or None, timeout=TIMEOUT_S)
    finally:
        process.kill()
    told = out.splitlines()
    return process.returncode, [json.loads(x) for x in told] if "--json" in words else told, err


def test_a_verb_of_a_service_is_listed_and_runs_like_any_other(node: sira.testing.Node) -> None:
    code, told, _ = ran(node, "verbs", "--json")
    rows = {each["data"]["name"]: each["data"] for each in told if each["type"] == "item"}
    assert code == 0 and set(rows) == {"echo say", "echo fail", "echo count"}
    code, told, _ = ran(node, "echo", "say", "--text", "hello", "--json")
    (result,) = told
    assert (code, result["type"], result["data"]["text"]) == (0, "result", "hello")
    jsonschema.validate(result["data"], rows["echo say"]["response_schema"])
    code, told, _ = ran(node, "echo", "say", "--text", "hello")
    assert code == 0 and told[0] == "text: hello"
    code, told, _ = ran(node, "echo", "say", "--json-body", "-", stdin='{"text": "from stdin"}')
    assert code == 0 and told[0] == "text: from stdin"


def test_a_stream_of_replies_comes_as_items(node: sira.testing.Node) -> None:
    code, told, _ = ran(node, "--json", "echo", "count", "--count", "40")
    kinds = [each["type"] for each in told]
    assert code == 0 and kinds == ["start", *["item"] * 40, "result"]
    assert [int(each["data"]["text"]) for each in told[1:-1]] == list(range(40))
    assert told[-1]["data"] == {"count": 40}


def test_help_and_completion_come_from_the_nodes_table(
    node: sira.testing.Node, tmp_path: Path
) -> None:
    code, told, _ = ran(node, "echo", "say", "--help")
    text = "\n".join(told)
    assert code == 0 and "--text" in text and "Says it again." in text and "Exit codes" in text
    command = tmp_path / "sira"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sira.cli "$@"\n')
    command.chmod(0o755)
    for line, wanted in {
        "sira ech": {"echo"}, "sira echo ": {"say", "fail", "count"},
        "sira echo say --te": {"--text"},
        "sira topics cr": {"create"},
    }.items():  # fmt: skip
        words = " ".join(f"'{word}'" for word in line.split(" "))
        script = (
            f"{completion('bash')}\nCOMP_WORDS=({words}); "
            f"COMP_CWORD={len(line.split(' ')) - 1}\n"
            '_sira; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        shown = subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, check=True, timeout=TIMEOUT_S,
            env=os.environ | {"SIRA_URL": node.url, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        )  # fmt: skip
        assert wanted <= set(shown.stdout.split()) <= wanted | {"--help"}, line


def test_what_a_service_refuses_and_wrong_arguments_have_their_exit_codes(
    node: sira.testing.Node,
) -> None:
    for words, wanted, name in (
        (("echo", "fail", "--text", "a\x1b[2Jb"), 3, "NOT_FOUND"),
        (("echo", "fail"), 3, "HANDLER_FAILED"),
        (("echo", "say", "--count", "-1"), 2, "USAGE"),
        (("echo", "say", "--nope", "1"), 2, "USAGE"),
        (("echo",), 2, "NO_VERB"),
        (("nope", "at", "all"), 2, "NO_VERB"),
    ):
        code, told, err = ran(node, *words)
        assert (code, told) == (wanted, []) and f"[{name}]" in err, (words, err)
        assert "\x1b" not in err and len(err.splitlines()) == 1
        code, told, _ = ran(node, *words, "--json")
        assert (code, told[-1]["data"]["code"]) == (wanted, name)


def test_nobody_answers_is_said_as_such(node: sira.testing.Node) -> None:
    code, told, _ = ran(node, "echo", "say", "--url", "sira://127.0.0.1:9", "--json")
    assert (code, told[-1]["data"]["code"]) == (4, "UNREACHABLE")
    assert "'echo' is no verb of this command" in told[-1]["data"]["message"]


def test_with_the_service_gone_its_verb_is_too(node: sira.testing.Node) -> None:
    _, told, _ = ran(node, "echo", "say", "--json")
    os.kill(told[-1]["data"]["pid"], signal.SIGKILL)
    wait_until("it is gone", lambda: not ran(node, "verbs", "--json")[1][1:-1])
    code, told, _ = ran(node, "echo", "say", "--json")
    assert (code, told[-1]["data"]["code"]) == (2, "NO_VERB")
