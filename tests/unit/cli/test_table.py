"""The table of verbs, and what is made from it: parser, help, completion, specification."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from importlib import import_module

import jsonschema
import pytest

from sira.cli.main import main
from sira.cli.output import UsageError
from sira.cli.parser import build, expand_default
from sira.cli.spec import completion, specification
from sira.cli.table import Argument, Verb, common
from sira.cli.verbs import VERBS, groups

NAMES = [verb.name for verb in VERBS]
WANTED = {
    "up", "status", "top", "pub", "sub", "request", "topics", "ledger", "explain", "mem", "bench",
    "events", "find", "call", "agents", "doctor", "config", "tls", "token", "verbs", "version",
}  # fmt: skip


def _some(argument: Argument) -> str:
    return "7" if argument.kind == "integer" else "some.topic"


def test_exactly_the_verbs_of_this_version_are_listed() -> None:
    assert set(groups()) == WANTED


@pytest.mark.parametrize("verb", VERBS, ids=NAMES)
def test_every_verb_names_a_function_that_exists(verb: Verb) -> None:
    module, _, name = verb.run.partition(":")
    handler = getattr(import_module(f"sira.cli.{module}"), name)
    parameters = list(inspect.signature(handler).parameters)
    assert parameters[:2] == ["args", "out"]
    assert inspect.iscoroutinefunction(handler) == (parameters[2:] == ["stop"])


@pytest.mark.parametrize("verb", VERBS, ids=NAMES)
def test_every_verb_takes_json_and_url(verb: Verb) -> None:
    words = [*verb.name.split(), "--json", "--url", "sira://somewhere:1"]
    words += [_some(a) for a in verb.arguments if a.positional and a.required]
    args = build().parse_args(words)
    assert (args.verb, args.json, args.url) == (verb, True, "sira://somewhere:1")


@pytest.mark.parametrize("verb", VERBS, ids=NAMES)
def test_json_and_url_may_stand_before_the_verb(verb: Verb) -> None:
    words = ["--json", "--url", "sira://somewhere:1", *verb.name.split()]
    words += [_some(a) for a in verb.arguments if a.positional and a.required]
    args = build().parse_args(words)
    assert (args.verb, args.json, args.url) == (verb, True, "sira://somewhere:1")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("topics", "topics list"),
        ("topics lab.>", "topics list lab.>"),
        ("--json topics --url x", "--json topics list --url x"),
        ("topics create a", "topics create a"),
        ("topics --help", "topics --help"),
        ("config", "config show"),
        ("pub topics list", "pub topics list"),
        ("", ""),
    ],
)
def test_the_second_word_may_be_left_out(words: str, wanted: str) -> None:
    assert expand_default(words.split()) == wanted.split()


@pytest.mark.parametrize(
    "words",
    [
        "nope",
        "sub",
        "top --interval x",
        "top --interval 0",
        "top --interval nan",
        "sub > --overflow sometimes",
        "pub a b --count 0",
        "topics create",
        "status --no-such-option",
        "status --prom",
    ],
)
def test_wrong_arguments_are_refused(words: str) -> None:
    with pytest.raises(UsageError) as caught:
        build().parse_args(words.split())
    assert caught.value.exit_code == 2
    assert "--help" in caught.value.help


def test_a_usage_error_is_one_envelope(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--json", "--interval", "x"]) == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["data"]["code"] == "USAGE"


def test_a_usage_error_is_one_line_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--interval", "x"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert "'x' is no number" in captured.err and "sira top --help" in captured.err


def test_no_verb_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json"]) == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["type"] == "error"


@pytest.mark.parametrize("verb", VERBS, ids=NAMES)
def test_help_says_arguments_and_exit_codes(verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*verb.name.split(), "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "Exit codes: 0" in text
    for argument in (*verb.arguments, *common(verb)):
        assert argument.name in text or argument.name.upper() in text


def test_the_specification_is_json_schema_of_every_verb() -> None:
    spec = json.loads(json.dumps(specification()))
    assert [verb["name"] for verb in spec["verbs"]] == NAMES
    schemas = list(spec["common"].values())
    for verb in spec["verbs"]:
        schemas += [verb["arguments"], verb["result"]]
        schemas += [verb["item"]] if verb["item"] else []
        assert verb["effects"] in ("read", "idempotent", "once")
        assert verb["exit_codes"]["0"]
        for name, argument in verb["arguments"]["properties"].items():
            assert argument["x-flag"] or name in verb["order"]
    for schema in schemas:
        jsonschema.Draft202012Validator.check_schema(schema)


def test_the_specification_refuses_an_envelope_that_breaks_the_contract() -> None:
    spec = specification()
    version = next(verb for verb in spec["verbs"] if verb["name"] == "version")
    data = {"sira": "1", "native": "1", "protocol": 1, "python": "3", "grpcio": "1", "numpy": "2"}
    good = {"v": 1, "type": "result", "seq": 0, "time": 1.5, "data": data}
    jsonschema.validate(good, version["result"])
    for broken in ({**good, "v": 2}, {**good, "extra": 1}, {**good, "data": {}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, version["result"])


def test_emit_spec_prints_the_specification(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--emit-spec"]) == 0
    assert json.loads(capsys.readouterr().out) == specification()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_verb_and_option(shell: str) -> None:
    script = completion(shell)
    for verb in VERBS:
        for word in verb.name.split():
            assert word in script
        for argument in verb.arguments:
            if not argument.positional:
                assert argument.name.lstrip("-") in script


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("sira to", {"token", "top", "topics"}),
        ("sira topics cr", {"create"}),
        ("sira topics create --ki", {"--kind"}),
        ("sira --json bench --se", {"--seconds"}),
    ],
)
def test_bash_completes(line: str, wanted: set[str]) -> None:
    words = " ".join(f"'{word}'" for word in line.split(" "))
    script = (
        f"{completion('bash')}\nCOMP_WORDS=({words}); COMP_CWORD=$(({len(line.split(' '))} - 1))\n"
        '_sira; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    shown = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert set(shown.stdout.split()) == wanted


def test_help_and_version_load_neither_grpc_nor_numpy() -> None:
    code = (
        "import sys\nfrom sira.cli.parser import build\nbuild()\n"
        "print([m for m in ('grpc', 'rich', 'textual') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
