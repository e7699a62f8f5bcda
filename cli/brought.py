"""Verbs that services brought: from a node's table and a request's type to arguments, and back.

Pure. What services wrote is a stranger's text: names that are no plain words are left out, the rest
is made fit for a terminal, and no verb of this command can be replaced.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import EncodeError, Message

from sira.cli.output import UsageError, printable
from sira.cli.table import COMMON, Argument, Effects, Kind, Verb
from sira.cli.verbs import groups
from sira.v1 import kernel_pb2

JSON_BODY = Argument(
    name="--json-body",
    metavar="JSON",
    help="the request as a JSON object, - for standard input, or @FILE; flags come before it",
)
TIMEOUT = Argument(
    name="--timeout",
    kind="number",
    default=30.0,
    minimum=0.0,
    metavar="SECONDS",
    help="how long to wait for the answer, or for the next of several (30)",
)
HELP = Argument(name="--help", kind="boolean", help="show this and end")
_OWN = (JSON_BODY, TIMEOUT, HELP)
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,199}")
_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")
_TEXT_CHARS = 500
_CHOICES_MAX = 32
_INTEGERS = frozenset(
    getattr(FieldDescriptor, f"TYPE_{sign}{bits}")
    for sign in ("INT", "UINT", "SINT", "FIXED", "SFIXED")
    for bits in (32, 64)
)


@dataclass(frozen=True, slots=True)
class Brought:
    """A verb of a service, as the node tells it.

    Attributes:
        method: that it calls.
        request_schema, response_schema: JSON Schemas of what goes and comes.
        streams: it answers with any number of replies.
    """

    name: str
    summary: str
    method: str
    effects: Effects
    request_schema: str
    response_schema: str
    streams: bool

    def row(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "name": self.name,
            "summary": self.summary,
            "method": self.method,
            "effects": self.effects,
            "streams": self.streams,
            "request_schema": json.loads(self.request_schema),
            "response_schema": json.loads(self.response_schema),
        }


def table(answer: kernel_pb2.IntrospectResponse) -> dict[str, Brought]:
    """Return the verbs that can be run, by name; none begins with a word of this command."""
    methods = {each.name: each for service in answer.services for each in service.methods}
    found = {}
    for verb in answer.verbs:
        words, method = verb.name.split(" "), methods.get(verb.method)
        plain = all(_WORD.fullmatch(word) for word in words)
        if method is None or not plain or words[0] in groups():
            continue
        found[verb.name] = Brought(
            verb.name,
            line(verb.summary),
            method.name,
            method.effects if method.effects in ("read", "idempotent") else "once",  # type: ignore[arg-type]
            method.request_schema,
            method.response_schema,
            method.response_stream,
        )
    return found


def line(text: str) -> str:
    """Return a stranger's text as one line that steers no terminal."""
    shown = " ".join(printable(text[:_TEXT_CHARS]).split())
    return shown.replace("%(prog)", "% (prog)")  # argparse would fill it in


def split(words: Sequence[str], known: Iterable[str]) -> tuple[str, list[str]] | None:
    """Return the longest verb that the words begin with, and what follows it; None: there is none.

    Args:
        words: of the command line, without what every verb has.
        known: names of verbs.
    """
    known = set(known)
    for count in range(len(words), 0, -1):
        name = " ".join(words[:count])
        if name in known:
            return name, list(words[count:])
    return None


def following(typed: Sequence[str], known: Iterable[str]) -> list[str]:
    """Return the words that may come after those that were typed, to go on with a verb's name."""
    count = len(typed)
    names = (name.split(" ") for name in known)
    return sorted({name[count] for name in names if name[:count] == list(typed) != name})


def verb_of(brought: Brought, request: Descriptor) -> Verb:
    """Return the verb as the table of this command has verbs."""
    result = {} if brought.streams else json.loads(brought.response_schema)
    return Verb(
        name=brought.name,
        summary=brought.summary or f"calls {brought.method}",
        run="service_verb:run",
        arguments=(*flags(request).values(), *_OWN),
        effects=brought.effects,
        result=result,
        endless=brought.streams,
    )


def flags(request: Descriptor) -> dict[str, Argument]:
    """Return an argument for each field that one value can tell, or several of one kind.

    Fields that hold messages, and those without a plain name, go into the JSON body.
    """
    own = {each.name for each in (*COMMON, *_OWN)}
    found: dict[str, Argument] = {}
    for field in request.fields:
        if field.message_type is not None or not _FIELD.fullmatch(field.name):
            continue
        name = f"--{field.name.replace('_', '-')}"
        name = f"--field-{name[2:]}" if name in own else name
        if name in own:
            continue
        own.add(name)
        kind, help_, choices = _kind(field)
        many = field.is_repeated
        found[field.name] = Argument(
            name=name,
            kind="string" if many and kind == "boolean" else kind,
            help=f"{help_}; repeatable" if many else help_,
            choices=("true", "false") if many and kind == "boolean" else choices,
            many=many,
            metavar="" if choices or kind == "boolean" else kind.upper(),
        )
    return found


def _kind(field: FieldDescriptor) -> tuple[Kind, str, tuple[str, ...]]:
    if field.enum_type is not None:
        names = tuple(each.name for each in field.enum_type.values if _FIELD.fullmatch(each.name))
        return "string", "a name", names if len(names) <= _CHOICES_MAX else ()
    if field.type in _INTEGERS:
        return "integer", "a whole number", ()
    if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
        return "number", "a number", ()
    if field.type == FieldDescriptor.TYPE_BOOL:
        return "boolean", "true", ()
    if field.type == FieldDescriptor.TYPE_BYTES:
        return "string", "bytes in base64", ()
    return "string", "text", ()


def request_of(message: Message, given: Mapping[str, Any], body: str | None) -> None:
    """Fill a request from parsed arguments, by key, and the text of a JSON body.

    Raises:
        UsageError: what was given does not fit the message's type.
    """
    try:
        fields = json.loads(body) if body is not None else {}
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the body is no JSON: {error}") from None
    if not isinstance(fields, dict):
        raise UsageError("the body is no JSON object")
    descriptor = cast("Descriptor", message.DESCRIPTOR)
    for name, argument in flags(descriptor).items():
        value = given.get(argument.key)
        if value is None or value is False or value == []:
            continue
        value = [_json(each) for each in value] if isinstance(value, list) else _json(value)
        if argument.choices == ("true", "false") and argument.many:
            value = [each == "true" for each in value]
        field = descriptor.fields_by_name[name]
        if field.type == FieldDescriptor.TYPE_BYTES:
            _check_base64(argument.name, value if isinstance(value, list) else [value])
        fields.pop(field.json_name, None)  # one of the two ways to write it
        fields[name] = value
    try:
        json_format.ParseDict(fields, message)
        message.SerializeToString()
    except (json_format.ParseError, EncodeError, ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"the request is not as it must be: {line(str(error))}") from None


def _json(value: Any) -> Any:
    """Return a value as protobuf's JSON has it: numbers that are none are text."""
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _check_base64(name: str, texts: Sequence[str]) -> None:
    """Refuse what is none; protobuf would leave out the letters that it does not know."""
    for text in texts:
        try:
            base64.b64decode(text, validate=True)
        except ValueError:
            raise UsageError(f"argument {name}: no base64") from None


def reply_of(message: Message) -> dict[str, Any]:
    """Return a reply in the JSON mapping of protobuf, fields that are empty included.

    Raises:
        ValueError: it holds what has no JSON form.
    """
    try:
        found: dict[str, Any] = json_format.MessageToDict(
            message, always_print_fields_with_no_presence=True
        )
    except (json_format.SerializeToJsonError, TypeError, RecursionError) as error:
        raise ValueError(f"the reply has no JSON form: {line(str(error))}") from None
    return found


def lines(reply: Mapping[str, Any]) -> str:
    """Return a reply for people, one field a line."""
    return "\n".join(f"{line(key)}: {_shown(value)}" for key, value in reply.items())


def one_line(reply: Mapping[str, Any]) -> str:
    """Return one reply of several for people."""
    return "  ".join(f"{line(key)}={_shown(value)}" for key, value in reply.items())


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return printable(value)
    return printable(json.dumps(value, ensure_ascii=False))
