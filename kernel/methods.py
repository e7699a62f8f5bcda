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
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message

from sira.kernel.errors import Conflict
from sira.kernel.identity import SYSTEM
from sira.kernel.settings import SCHEMA, Spec
from sira.v1 import kernel_pb2

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
        request, response: message classes; of a method that a service brought, their base.
        frames: elements of the streams are handed over as bytes, undecoded.
        public: answers whoever asks, without a credential and whatever the rules say.
        administrative: changes what holds for others; each call stands on `sira.audit`.
        parting: its handler ends it in order when the rights of its caller end; any other call is
            cancelled then.
        schemas: JSON Schemas of request and response; None: those of the classes. A service's own
            types are kept with it: another tenant's may have the same names.
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
    parting: bool = False
    schemas: tuple[str, str] | None = None

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
    parting: bool = False,
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
        parting=parting,
    )


@dataclass(frozen=True, slots=True)
class TopicClass:
    """A pattern of topics that means something: reserved, or published by the node."""

    pattern: str
    kind: str  # user | reserved | event
    summary: str


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb of the command line: of `sira` itself, or brought by a service.

    Attributes:
        name: one word or several.
        method: that a service's verb calls; "": it cannot be run.
    """

    name: str
    summary: str
    method: str = ""

    @property
    def first(self) -> str:
        """The word by which the command finds it."""
        return self.name.partition(" ")[0]


@dataclass(frozen=True, slots=True, eq=False)
class Brought:
    """What one attached service has brought, all of it or nothing.

    Attributes:
        name: of the service as a whole.
        tenant: whose clients see it; the operators' (`SYSTEM`): all.
        methods: their handlers take the request's bytes.
        pool: descriptors of its files.
    """

    name: str
    tenant: str
    methods: tuple[Method, ...]
    pool: DescriptorPool
    topic_classes: tuple[TopicClass, ...] = ()
    settings: tuple[kernel_pb2.Setting, ...] = ()
    verbs: tuple[Verb, ...] = ()


class Catalog:
    """The table. `changed` is called after every change.

    What attached services brought is seen by the clients of their tenant alone, but for what the
    operators' services brought, which all see. Readers name the tenant that asks; "": one who has
    proved nothing, and sees the node's own.
    """

    def __init__(self) -> None:
        self._brought: dict[tuple[str, str], Brought] = {}  # (tenant, name)
        self._brought_methods: dict[tuple[str, str], Method] = {}  # (tenant, method)
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

    def bring(self, brought: Brought) -> None:
        """Put into the table what a service brings.

        Raises:
            Conflict: a name that its tenant sees already; nothing was put in.
        """
        tenant = brought.tenant
        if (tenant, brought.name) in self._brought:
            raise _taken("service", brought.name)
        services = set(self.services(tenant))
        for each in brought.methods:
            if each.service in services:
                raise _taken("service", each.service)
        named = (
            ("topic class", self.topic_classes(tenant), brought.topic_classes, "pattern"),
            (
                "setting",
                (*self.settings(), *self.brought_settings(tenant)),
                brought.settings,
                "name",
            ),
            ("verb", self.verbs(tenant), brought.verbs, "name"),
        )
        for kind, known, new, key in named:
            seen = {getattr(each, key) for each in known}
            for one in new:
                if getattr(one, key) in seen:
                    raise _taken(kind, getattr(one, key))
                seen.add(getattr(one, key))
        own = {each.first for each in self._verbs.values()}
        for verb in brought.verbs:
            if verb.first in own:  # the command would never look further
                raise _taken("verb", verb.first)
        self._brought[tenant, brought.name] = brought
        self._brought_methods.update(((tenant, each.name), each) for each in brought.methods)
        self._tell()

    def take_away(self, brought: Brought) -> None:
        """Take it out again; a second time does nothing."""
        if self._brought.get((brought.tenant, brought.name)) is not brought:
            return
        del self._brought[brought.tenant, brought.name]
        for each in brought.methods:
            del self._brought_methods[brought.tenant, each.name]
        self._tell()

    # ---- readers ---------------------------------------------------------------------------------

    def get(self, name: str) -> Method | None:
        """Return the node's own method of a full name; None: there is none."""
        return self._methods.get(name)

    def get_brought(self, name: str, tenant: str) -> Method | None:
        """Return the method that a service brought, as a client of `tenant` sees it."""
        return self._brought_methods.get((SYSTEM, name)) or self._brought_methods.get(
            (tenant, name)
        )

    def brought(self, tenant: str) -> Iterator[Brought]:
        """Yield what services brought that clients of `tenant` see."""
        for each in list(self._brought.values()):
            if tenant and each.tenant in (SYSTEM, tenant):
                yield each

    def methods(self, tenant: str = "") -> Iterator[Method]:
        """Yield all methods."""
        yield from list(self._methods.values())
        for each in self.brought(tenant):
            yield from each.methods

    def services(self, tenant: str = "") -> list[str]:
        """Return the full names of all services, sorted."""
        return sorted({each.service for each in self.methods(tenant)})

    def topic_classes(self, tenant: str = "") -> Iterator[TopicClass]:
        """Yield what patterns of topics mean."""
        yield from list(self._classes.values())
        for each in self.brought(tenant):
            yield from each.topic_classes

    def brought_settings(self, tenant: str) -> Iterator[kernel_pb2.Setting]:
        """Yield the settings of services."""
        for each in self.brought(tenant):
            yield from each.settings

    def settings(self) -> Iterator[Spec]:
        """Yield all settings."""
        return iter(list(self._settings.values()))

    def verbs(self, tenant: str = "") -> Iterator[Verb]:
        """Yield the verbs of the command and those that services brought."""
        yield from list(self._verbs.values())
        for each in self.brought(tenant):
            yield from each.verbs

    def _tell(self) -> None:
        for each in self.changed:
            each()


def _taken(kind: str, name: str) -> Conflict:
    return Conflict(
        f"there is a {kind} {name[:200]!r} already", details={"kind": kind, "name": name[:200]}
    )


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
        known = _schemas[descriptor.full_name] = write_schema(descriptor)
    return known


def write_schema(descriptor: Descriptor) -> str:
    """Write the JSON Schema of a message type; types that hold themselves are referred to."""
    definitions: dict[str, Any] = {}
    waiting = [descriptor]
    while waiting:  # no recursion: how deep types lead is a stranger's choice
        each = waiting.pop()
        if each.full_name not in definitions:
            definitions[each.full_name] = _definition(each, waiting)
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$ref": f"#/$defs/{descriptor.full_name}",
        "$defs": definitions,
    }
    return json.dumps(schema)


def _definition(descriptor: Descriptor, waiting: list[Descriptor]) -> dict[str, Any]:
    """Return the schema of one type; those that it refers to are added to `waiting`."""
    definition: dict[str, Any] = {"title": descriptor.name, "type": "object", "properties": {}}
    for each in descriptor.fields:
        definition["properties"][each.json_name] = _field(each, waiting)
    return definition


def _field(field: FieldDescriptor, waiting: list[Descriptor]) -> dict[str, Any]:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        value = _value(message.fields_by_name["value"], waiting)
        return {"type": "object", "additionalProperties": value}
    value = _value(field, waiting)
    return {"type": "array", "items": value} if field.is_repeated else value


def _value(field: FieldDescriptor, waiting: list[Descriptor]) -> dict[str, Any]:
    if field.message_type is not None:
        waiting.append(field.message_type)
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
