"""Verbs of services: what a stranger wrote, made into arguments, help and text for people."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from sira.cli.brought import (
    flags,
    following,
    line,
    lines,
    one_line,
    reply_of,
    request_of,
    split,
    table,
    verb_of,
)
from sira.cli.output import UsageError
from sira.cli.parser import beyond, parser_of
from sira.v1 import kernel_pb2

F = descriptor_pb2.FieldDescriptorProto
METHOD = "/acme.v1.Echo/Say"
FIELDS = {
    "text": F.TYPE_STRING, "count": F.TYPE_UINT32, "big": F.TYPE_INT64, "share": F.TYPE_DOUBLE,
    "loud": F.TYPE_BOOL, "raw": F.TYPE_BYTES, "max_words": F.TYPE_INT32, "url": F.TYPE_STRING,
    "json_body": F.TYPE_STRING,
}  # fmt: skip


def request_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="a.proto", package="acme.v1", syntax="proto3")
    kind = file.enum_type.add(name="Kind")
    kind.value.add(name="PLAIN", number=0)
    kind.value.add(name="FANCY", number=1)
    message = file.message_type.add(name="SayRequest")
    for number, (name, type_) in enumerate(FIELDS.items(), 1):
        message.field.add(name=name, number=number, type=type_, label=1)
    message.field.add(name="kind", number=20, type=F.TYPE_ENUM, label=1, type_name=".acme.v1.Kind")
    message.field.add(name="words", number=21, type=F.TYPE_STRING, label=3)
    message.field.add(name="flips", number=22, type=F.TYPE_BOOL, label=3)
    message.field.add(
        name="inner", number=23, type=F.TYPE_MESSAGE, label=1, type_name=".acme.v1.SayRequest"
    )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("acme.v1.SayRequest"))


REQUEST = request_class()


def introspected(*verbs: kernel_pb2.Verb) -> kernel_pb2.IntrospectResponse:
    answer = kernel_pb2.IntrospectResponse(verbs=verbs)
    answer.services.add(name="acme.v1.Echo").methods.add(
        name=METHOD, effects="read", request_schema="{}", response_schema="{}"
    )
    return answer


def filled(*words: str) -> dict[str, Any]:
    """Parse words as those of the verb, and return the request they make."""
    found = table(introspected(kernel_pb2.Verb(name="echo say", method=METHOD)))["echo say"]
    args = parser_of(verb_of(found, REQUEST.DESCRIPTOR)).parse_args(words)
    made = REQUEST()
    request_of(made, vars(args), args.json_body)
    from google.protobuf import json_format

    return json_format.MessageToDict(made)


def test_only_verbs_that_can_be_run_are_taken_and_none_of_this_commands_own() -> None:
    names = ("echo", "echo say", "top", "topics boom", "a;b", "$(x)", "--echo", "", "echo  say")
    found = table(introspected(*(kernel_pb2.Verb(name=each, method=METHOD) for each in names)))
    assert set(found) == {"echo", "echo say"}
    assert not table(introspected(kernel_pb2.Verb(name="echo"), kernel_pb2.Verb(name="up")))
    other = kernel_pb2.Verb(name="echo", method="/acme.v1.Echo/None")
    assert not table(introspected(other))


def test_a_summary_steers_no_terminal_and_no_help() -> None:
    hostile = "\x1b]0;title\x07red \x1b[31m\n\u202efake %(prog)s %(nope)s %s \x9b2J" + "x" * 9_000
    verb = kernel_pb2.Verb(name="echo", summary=hostile, method=METHOD)
    found = table(introspected(verb))["echo"]
    help_ = parser_of(verb_of(found, REQUEST.DESCRIPTOR)).format_help()
    for text in (found.summary, help_.replace("\n", "")):
        assert text.isprintable()
    assert len(found.summary) <= 600 and "%(nope)s" in help_.replace("\n", " ")
    nameless = table(introspected(kernel_pb2.Verb(name="echo", method=METHOD)))["echo"]
    assert METHOD in parser_of(verb_of(nameless, REQUEST.DESCRIPTOR)).format_help()


def test_fields_become_flags_and_none_hides_one_that_every_verb_has() -> None:
    names = {field: argument.name for field, argument in flags(REQUEST.DESCRIPTOR).items()}
    assert names["text"] == "--text" and names["max_words"] == "--max-words"
    assert (names["url"], names["json_body"]) == ("--field-url", "--field-json-body")
    assert "inner" not in names
    assert flags(REQUEST.DESCRIPTOR)["kind"].choices == ("PLAIN", "FANCY")


def test_flags_and_body_make_the_request() -> None:
    assert filled() == {}
    assert filled(
        "--text", "a", "--count", "3", "--big", "-9007199254740993", "--share", "nan", "--loud",
        "--raw", "AAE=", "--max-words", "-2", "--field-url", "u", "--kind", "FANCY",
        "--words", "x", "--words", "y", "--flips", "true", "--flips", "false",
    ) == {
        "text": "a", "count": 3, "big": "-9007199254740993", "share": "NaN", "loud": True,
        "raw": "AAE=", "maxWords": -2, "url": "u", "kind": "FANCY", "words": ["x", "y"],
        "flips": [True, False],
    }  # fmt: skip
    body = json.dumps({"text": "b", "maxWords": 7, "inner": {"text": "deep"}})
    assert filled("--json-body", body, "--max-words", "1", "--count", "0") == {
        "text": "b", "maxWords": 1, "inner": {"text": "deep"},
    }  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [
        ("--count", "-1"), ("--count", "x"), ("--kind", "OTHER"), ("--raw", "%"), ("--nope", "x"),
        ("--json-body", "{"), ("--json-body", "[]"), ("--json-body", "[" * 100_000),
        ("--json-body", '{"nope": 1}'), ("--json-body", '{"inner": ' * 300 + "{}" + "}" * 300),
        ("--json-body", '{"text": 3}'), ("--timeout", "-1"), ("stray",),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_a_usage_error(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        filled(*words)


def test_a_reply_shows_all_its_fields_and_steers_no_terminal() -> None:
    reply = reply_of(REQUEST(text="a\x1b[2Jb", words=["\x9bx", "\u202ey"], big=1 << 60))
    assert reply["count"] == 0 and reply["big"] == str(1 << 60)
    for text in (lines(reply).replace("\n", ""), one_line(reply)):
        assert text.isprintable() and "a\ufffd[2Jb" in text
    assert line("a\nb\tc\x00") == "a b c\ufffd"


@pytest.mark.parametrize(
    ("words", "rest"),
    [
        ("echo say --text a", ["echo", "say", "--text", "a"]),
        ("--url u --json echo say", ["echo", "say"]),
        ("echo --token-file f say --json", ["echo", "say"]),
        ("topics boom", None),
        ("--json top", None),
        ("--version", None),
        ("echo --url", None),
        ("", None),
    ],
)
def test_words_that_are_no_verb_of_the_command_may_be_a_services(
    words: str, rest: list[str] | None
) -> None:
    found = beyond(words.split())
    assert (found and found.words) == rest


def test_the_longest_verb_is_meant_and_words_are_completed_one_at_a_time() -> None:
    known = ("echo", "echo say", "echo say twice", "other one")
    assert split(["echo", "say", "--text", "x"], known) == ("echo say", ["--text", "x"])
    assert split(["echo", "--text", "say"], known) == ("echo", ["--text", "say"])
    assert split(["other"], known) is None and split([], known) is None
    assert following([], known) == ["echo", "other"]
    assert following(["echo"], known) == ["say"] and following(["nope"], known) == []
