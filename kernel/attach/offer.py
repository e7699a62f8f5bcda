"""An offer of a service, checked and made into entries of the table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message

from sira import _native
from sira.kernel.attach.descriptors import read_pool
from sira.kernel.errors import BadRequest, MessageTooLarge, Unsupported
from sira.kernel.methods import EFFECTS, Brought, Handler, Method, TopicClass, Verb, write_schema
from sira.kernel.topics import RESERVED, first_token
from sira.v1 import kernel_pb2

ENTRIES_MAX = 256  # methods, topic classes, settings and verbs, of each so many
SCHEMA_BYTES_MAX = 1 << 20  # JSON Schemas of all methods: `Introspect` carries them
_TEXT_CHARS_MAX = 500
_WORDS_MAX = 4  # of a verb
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
_NAME_CHARS_MAX = 200
_CLASS_KINDS = {
    kernel_pb2.TOPIC_CLASS_KIND_UNSPECIFIED: "user",
    kernel_pb2.TOPIC_CLASS_KIND_USER: "user",
    kernel_pb2.TOPIC_CLASS_KIND_RESERVED: "reserved",
    kernel_pb2.TOPIC_CLASS_KIND_EVENT: "event",
}


def read_offer(
    offer: kernel_pb2.AttachOffer, *, tenant: str, handler: Handler, bytes_max: int
) -> Brought:
    """Check an offer and make it into what the table takes. Pure; may run in any thread.

    Args:
        offer: of a stranger.
        tenant: of the service's credential.
        handler: takes the calls of all methods: `await handler(call, request bytes)`.
        bytes_max: longest descriptor set.

    Raises:
        BadRequest: a name, a text or a descriptor that cannot be; the details name the field.
        MessageTooLarge: over a limit.
        Unsupported: a method that takes a stream.
    """
    _check_name(offer.name, "name")
    if len(offer.descriptors) > bytes_max:
        raise MessageTooLarge(
            f"{len(offer.descriptors)} bytes of descriptors, at most {bytes_max}",
            details={"setting": "attach_offer_bytes_max", "limit_bytes": str(bytes_max)},
        )
    for field in ("methods", "topic_classes", "settings", "verbs"):
        if len(getattr(offer, field)) > ENTRIES_MAX:
            raise MessageTooLarge(
                f"{len(getattr(offer, field))} {field}, at most {ENTRIES_MAX}",
                details={"field": field, "limit_value": str(ENTRIES_MAX)},
            )
    pool, files = read_pool(offer.descriptors)
    return Brought(
        name=offer.name,
        tenant=tenant,
        methods=tuple(_methods(offer, pool, files, handler)),
        pool=pool,
        topic_classes=tuple(_topic_classes(offer)),
        settings=tuple(_settings(offer)),
        verbs=tuple(_verbs(offer)),
    )


def _methods(
    offer: kernel_pb2.AttachOffer, pool: DescriptorPool, files: list[str], handler: Handler
) -> Iterator[Method]:
    known = {
        f"/{service.full_name}/{each.name}": each
        for file in files
        for service in pool.FindFileByName(file).services_by_name.values()
        for each in service.methods
    }
    left, seen = SCHEMA_BYTES_MAX, set()
    for offered in offer.methods:
        descriptor = known.get(offered.name)
        if descriptor is None:
            raise _bad("methods", f"{offered.name[:200]!r} is not in the descriptors")
        if offered.name in seen:
            raise _bad("methods", f"{offered.name} is there twice")
        seen.add(offered.name)
        if descriptor.client_streaming:
            raise Unsupported(
                f"{offered.name} takes a stream: a service takes one request",
                details={"feature": "client streaming", "method": offered.name},
            )
        if offered.effects not in EFFECTS:
            raise _bad(
                "effects", f"{offered.effects[:50]!r} of {offered.name}: {', '.join(EFFECTS)}"
            )
        _check_text(offered.summary, "summary")
        schemas = _schemas(descriptor, left)
        left -= sum(len(each) for each in schemas)
        yield Method(
            name=offered.name,
            effects=offered.effects,
            summary=offered.summary,
            handler=handler,
            request=Message,  # no class is made: the node passes bytes
            response=Message,
            response_stream=bool(descriptor.server_streaming),
            schemas=schemas,
        )


def _schemas(descriptor: MethodDescriptor, left: int) -> tuple[str, str]:
    """Write the schemas of request and response, `left` bytes long at most."""
    takes, gives = (write_schema(each) for each in (descriptor.input_type, descriptor.output_type))
    if len(takes) + len(gives) > left:
        raise MessageTooLarge(
            f"the JSON Schemas of the methods are over {SCHEMA_BYTES_MAX} bytes",
            details={"field": "methods", "limit_bytes": str(SCHEMA_BYTES_MAX)},
        )
    return takes, gives


def _topic_classes(offer: kernel_pb2.AttachOffer) -> Iterator[TopicClass]:
    for each in offer.topic_classes:
        _native.check_pattern(each.pattern)  # BadTopic
        first = first_token(each.pattern)
        if first in ("sira", "*", ">", *RESERVED) or first.startswith("_"):
            raise _bad("topic_classes", f"{each.pattern} holds topics that are reserved")
        _check_text(each.summary, "summary")
        yield TopicClass(each.pattern, _CLASS_KINDS.get(each.kind, "user"), each.summary)


def _settings(offer: kernel_pb2.AttachOffer) -> Iterator[kernel_pb2.Setting]:
    for each in offer.settings:
        _check_name(each.name, "settings")
        if not each.name.startswith(f"{offer.name}."):
            raise _bad("settings", f"{each.name} does not begin with {offer.name}.")
        for text in (each.value, each.unit, each.reason, each.schema):
            _check_text(text, "settings")
        try:
            json.loads(each.schema or "{}")
        except ValueError:
            raise _bad("settings", f"the schema of {each.name} is no JSON") from None
        made = kernel_pb2.Setting()
        made.CopyFrom(each)
        made.source = offer.name
        yield made


def _verbs(offer: kernel_pb2.AttachOffer) -> Iterator[Verb]:
    methods = {each.name for each in offer.methods}
    for each in offer.verbs:
        words = each.name.split(" ")
        if len(words) > _WORDS_MAX:
            raise _bad("verbs", f"{len(words)} words, at most {_WORDS_MAX}")
        for word in words:
            _check_name(word, "verbs")
        _check_text(each.summary, "summary")
        if each.method and each.method not in methods:
            raise _bad("verbs", f"{each.name} calls {each.method[:200]!r}, which is not offered")
        yield Verb(each.name, each.summary, each.method)


def _check_name(name: str, field: str) -> None:
    if len(name) > _NAME_CHARS_MAX or not _NAME.fullmatch(name):
        raise _bad(field, f"{name[:_NAME_CHARS_MAX]!r} is no dotted name")


def _check_text(text: str, field: str) -> None:
    if len(text) > _TEXT_CHARS_MAX:
        raise _bad(field, f"a text of {len(text)} characters, at most {_TEXT_CHARS_MAX}")


def _bad(field: str, why: str) -> BadRequest:
    return BadRequest(f"the offer cannot be taken: {field}: {why}", details={"field": field})
