"""The one table of what a node can do: methods, topic classes, settings, verbs.

Services add and remove entries while the node runs. The gRPC handler, reflection, `Introspect`,
health, help and completion all read this table and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from sira.kernel.settings import SCHEMA, Spec

EFFECTS = ("read", "idempotent", "once")
# (call, request or None) -> reply, or None where the handler writes to the stream itself
Handler = Callable[[Any, Any], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Method:
    """One method.

    Attributes:
        name: `/package.Service/Method`.
        effects: `read` changes nothing, `idempotent` may be repeated, `once` may not.
        handler: `await handler(call, request)`; a method that takes a stream gets None as request
            and reads from `call`; one that answers with a stream writes to `call`, returns None.
        request, response: message classes.
        frames: elements of the streams are handed over as bytes, undecoded.
        public: answers whoever asks, without a credential and whatever the rules say.
        administrative: changes what holds for others; each call stands on `sira.audit`.
    """

    name: str
    effects: str
    summary: str
    handler: Handler
    request: type[Message]
    response: type[Message]
    request_stream: bool = False
    response_stream: bool = False
    frames: bool = False
    public: bool = False
    administrative: bool = False

    def __post_init__(self) -> None:
        """Refuse an entry that no reader of the table would understand."""
        assert self.effects in EFFECTS, self.effects
        assert self.name.count("/") == 2 and self.name.startswith("/"), self.name

    @property
    def service(self) -> str:
        """Full name of the service: `sira.v1.Bus`."""
        return self.name.split("/")[1]


def method(
    descriptor: MethodDescriptor,
    handler: Handler,
    *,
    effects: str,
    summary: str,
    request: type[Message],
    response: type[Message],
    frames: bool = False,
    public: bool = False,
    administrative: bool = False,
) -> Method:
    """Make an entry from a method of a .proto file; its classes must be those of the file."""
    assert request.DESCRIPTOR.full_name == descriptor.input_type.full_name, descriptor.full_name
    assert response.DESCRIPTOR.full_name == descriptor.output_type.full_name, descriptor.full_name
    return Method(
        name=f"/{descriptor.containing_service.full_name}/{descriptor.name}",
        effects=effects,
        summary=summary,
        handler=handler,
        request=request,
        response=response,
        request_stream=bool(descriptor.client_streaming),
        response_stream=bool(descriptor.server_streaming),
        frames=frames,
        public=public,
        administrative=administrative,
    )


@dataclass(frozen=True, slots=True)
class TopicClass:
    """A pattern of topics that means something: reserved, or published by the node."""

    pattern: str
    kind: str  # user | reserved | event
    summary: str


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb of the command line: of `sira` itself, or brought by a service."""

    name: str
    summary: str


class Catalog:
    """The table. `changed` is called after every change."""

    def __init__(self) -> None:
        self._methods: dict[str, Method] = {}
        self._classes: dict[str, TopicClass] = {}
        self._settings: dict[str, Spec] = dict(SCHEMA)
        self._verbs: dict[str, Verb] = {}
        self.changed: list[Callable[[], None]] = []

    # ---- changes ---------------------------------------------------------------------------------

    def add_methods(self, *methods: Method) -> None:
        """Put methods into the table. Requires: none of these names is there."""
        for each in methods:
            assert each.name not in self._methods, each.name
        self._methods.update((each.name, each) for each in methods)
        self._tell()

    def remove_service(self, service: str) -> None:
        """Take a service with all its methods out of the table; calls under way go on."""
        for each in [m for m in self._methods.values() if m.service == service]:
            del self._methods[each.name]
        self._tell()

    def add_topic_class(self, topic_class: TopicClass) -> None:
        """Say what a pattern of topics means."""
        self._classes[topic_class.pattern] = topic_class
        self._tell()

    def remove_topic_class(self, pattern: str) -> None:
        """Say it no more."""
        self._classes.pop(pattern, None)
        self._tell()

    def add_setting(self, spec: Spec) -> None:
        """Add a service's setting."""
        self._settings[spec.name] = spec
        self._tell()

    def remove_setting(self, name: str) -> None:
        """Take a service's setting away."""
        assert name not in SCHEMA, name
        self._settings.pop(name, None)
        self._tell()

    def add_verb(self, verb: Verb) -> None:
        """Add a verb of the command line."""
        self._verbs[verb.name] = verb
        self._tell()

    def remove_verb(self, name: str) -> None:
        """Take a verb away."""
        self._verbs.pop(name, None)
        self._tell()

    # ---- readers ---------------------------------------------------------------------------------

    def get(self, name: str) -> Method | None:
        """Return the method of a full name; None: there is none."""
        return self._methods.get(name)

    def methods(self) -> Iterator[Method]:
        """Yield all methods."""
        return iter(list(self._methods.values()))

    def services(self) -> list[str]:
        """Return the full names of all services, sorted."""
        return sorted({each.service for each in self._methods.values()})

    def topic_classes(self) -> Iterator[TopicClass]:
        """Yield what patterns of topics mean."""
        return iter(list(self._classes.values()))

    def settings(self) -> Iterator[Spec]:
        """Yield all settings."""
        return iter(list(self._settings.values()))

    def verbs(self) -> Iterator[Verb]:
        """Yield the verbs of the command and those that services brought."""
        return iter(list(self._verbs.values()))

    def _tell(self) -> None:
        for each in self.changed:
            each()


# ---- JSON Schema of a message, in the JSON mapping of protobuf --------------------------------

_INTEGERS_64 = {
    FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_SINT64,
    FieldDescriptor.TYPE_FIXED64, FieldDescriptor.TYPE_SFIXED64,
}  # fmt: skip
_INTEGERS_32 = {
    FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_SINT32,
    FieldDescriptor.TYPE_FIXED32, FieldDescriptor.TYPE_SFIXED32,
}  # fmt: skip
_schemas: dict[str, str] = {}


def json_schema(message: type[Message]) -> str:
    """Return the JSON Schema of a message type; nested types stand under `$defs`."""
    descriptor = cast("Descriptor", message.DESCRIPTOR)
    known = _schemas.get(descriptor.full_name)
    if known is None:
        definitions: dict[str, Any] = {}
        _define(descriptor, definitions)
        schema = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$ref": f"#/$defs/{descriptor.full_name}",
            "$defs": definitions,
        }
        known = _schemas[descriptor.full_name] = json.dumps(schema)
    return known


def _define(descriptor: Descriptor, definitions: dict[str, Any]) -> None:
    if descriptor.full_name in definitions:
        return
    definition: dict[str, Any] = {"title": descriptor.name, "type": "object", "properties": {}}
    definitions[descriptor.full_name] = definition
    for each in descriptor.fields:
        definition["properties"][each.json_name] = _field(each, definitions)


def _field(field: FieldDescriptor, definitions: dict[str, Any]) -> dict[str, Any]:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        value = _value(message.fields_by_name["value"], definitions)
        return {"type": "object", "additionalProperties": value}
    value = _value(field, definitions)
    return {"type": "array", "items": value} if field.is_repeated else value


def _value(field: FieldDescriptor, definitions: dict[str, Any]) -> dict[str, Any]:
    if field.message_type is not None:
        _define(field.message_type, definitions)
        return {"$ref": f"#/$defs/{field.message_type.full_name}"}
    if field.enum_type is not None:
        return {"type": "string", "enum": [each.name for each in field.enum_type.values]}
    if field.type in _INTEGERS_64:
        return {"type": ["string", "integer"]}  # JSON mapping of protobuf: text, past 53 bits
    if field.type in _INTEGERS_32:
        return {"type": "integer"}
    if field.type == FieldDescriptor.TYPE_BYTES:
        return {"type": "string", "contentEncoding": "base64"}
    if field.type == FieldDescriptor.TYPE_BOOL:
        return {"type": "boolean"}
    if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
        return {"type": "number"}
    return {"type": "string"}
