"""What a registration must be, checked before anything is kept. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sira import _native
from sira.kernel.errors import BadRequest, Conflict, MessageTooLarge
from sira.kernel.slugs import slug
from sira.kernel.topics import NODE_PREFIX, RESERVED, first_token
from sira.registry.versions import Version
from sira.v1 import registry_pb2

AGENT = "agent"
TOPIC_PREFIX = "agents"
EFFECTS = ("", "pure", "idempotent", "once")
# One row of a table is 64 KiB, and the node adds who registered.
RECORD_BYTES_MAX = 60 << 10
_NAME_CHARS_MAX = 128
_CAPABILITIES_MAX = 64
_LABELS_MAX = 64
_LABEL_CHARS_MAX = 256
_TEXT_CHARS_MAX = 8_192
_DIMS_MAX = 8_192
_F16_BYTES = 2
_KIND = re.compile(r"[a-z][a-z0-9_-]{0,31}")
CAPABILITY = re.compile(r"[A-Za-z0-9_-]{1,64}")
_INSTANCE = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Fit:
    """A capability's contract, compiled. None: it takes what it is given."""

    takes: _native.Contract | None
    gives: _native.Contract | None


# One for all that have none: each object is one more that the garbage collector looks at.
_ANYTHING = Fit(None, None)


def checked(asked: registry_pb2.Registration) -> registry_pb2.Registration:
    """Return a registration as it is kept: with its kind, names and topics of capabilities filled.

    Raises:
        BadRequest, BadTopic, Unsupported: a field that cannot be; the details name it.
        MessageTooLarge: longer than a row of a table.
    """
    made = registry_pb2.Registration()
    made.CopyFrom(asked)
    _check_name(made.name)
    made.kind = made.kind or AGENT
    _require(_KIND.fullmatch(made.kind), "kind", "lower-case letters, digits, - and _", made.kind)
    _require(not made.instance or _INSTANCE.fullmatch(made.instance), "instance", "32 hex digits",
             made.instance)  # fmt: skip
    if made.version:
        Version.parse(made.version)
    _check_labels(made.labels)
    _check_effects(made.capabilities)
    if len(made.capabilities) > _CAPABILITIES_MAX:
        raise BadRequest(
            f"{made.name} has {len(made.capabilities)} capabilities; at most {_CAPABILITIES_MAX}",
            details={"field": "capabilities"},
        )
    names: set[str] = set()
    for capability in made.capabilities:
        _fill(capability, made.name, names)
    if made.ByteSize() > RECORD_BYTES_MAX:
        raise MessageTooLarge(
            f"the registration of {made.name} takes {made.ByteSize()} bytes",
            help="fewer or shorter examples, vectors and extra fields",
            details={"field": "registrations", "limit_bytes": str(RECORD_BYTES_MAX)},
        )
    return made


def fit_of(capability: registry_pb2.Capability) -> Fit:
    """Compile the contracts of a checked capability."""
    if not capability.takes and not capability.gives:
        return _ANYTHING
    return Fit(_compiled(capability.takes), _compiled(capability.gives))


def may_take_over(
    old: registry_pb2.Agent, asked: registry_pb2.Registration, *, principal: str, is_alive: bool
) -> None:
    """Refuse a name that another has. Requires: `asked` is checked.

    Args:
        old: who has the name.
        principal: who asks.
        is_alive: the old instance is not known to be down.
    Raises:
        Conflict: another principal's, or an instance that lives.
    """
    if old.principal != principal:
        raise Conflict(
            f"the name {asked.name} is another's", help="choose another name",
            details={"name": asked.name},
        )  # fmt: skip
    before = old.registration.instance
    if is_alive and before and asked.instance and before != asked.instance:
        raise Conflict(
            f"an agent {asked.name} is alive", retryable=True,
            help="stop it, or choose another name; one that is lost is down after its lease",
            details={"name": asked.name},
        )  # fmt: skip


def decoded(vector: registry_pb2.CapabilityVector) -> NDArray[np.float32]:
    """Return the vector that somebody brought, f32[dims], of length 1.

    Raises:
        BadRequest: no embedder, not `dims` finite f16, or all zero: it has no direction.
    """
    bytes_ = vector.dims * _F16_BYTES
    said = vector.embedder and 0 < vector.dims <= _DIMS_MAX and len(vector.values) == bytes_
    _require(said, "vectors", f"embedder, 1 to {_DIMS_MAX} dims, and as many f16", str(vector.dims))
    values = np.frombuffer(vector.values, "<f2").astype(np.float32)
    length = np.linalg.norm(values)
    _require(np.isfinite(length) and length > 0, "vectors", "finite, not all zero", str(length))
    return np.asarray(values / length, np.float32)


def _check_name(name: str) -> None:
    _require(0 < len(name) <= _NAME_CHARS_MAX, "name", f"1 to {_NAME_CHARS_MAX} characters", name)
    _native.check_topic(f"{TOPIC_PREFIX}.{name}")


def _check_labels(labels: Mapping[str, str]) -> None:
    _require(len(labels) <= _LABELS_MAX, "labels", f"at most {_LABELS_MAX}", str(len(labels)))
    for key, value in labels.items():
        for text in (key, value):
            _require(len(text) <= _LABEL_CHARS_MAX, "labels",
                     f"at most {_LABEL_CHARS_MAX} characters each", text)  # fmt: skip


def _check_effects(capabilities: Iterable[registry_pb2.Capability]) -> None:
    for each in capabilities:
        _require(each.effects in EFFECTS, "effects", "pure, idempotent or once", each.effects)


def _fill(capability: registry_pb2.Capability, agent: str, names: set[str]) -> None:
    text = capability.text
    _require(text.strip(), "text", "some words that say what it does", text)
    for each in (text, *capability.examples, *capability.params.values()):
        _require(len(each) <= _TEXT_CHARS_MAX, "text", f"at most {_TEXT_CHARS_MAX} characters",
                 each)  # fmt: skip
    name = capability.name = capability.name or slug(text) or f"capability-{len(names) + 1}"
    _require(CAPABILITY.fullmatch(name), "name", "letters, digits, - and _; at most 64", name)
    if name in names:
        raise BadRequest(
            f"{agent} has two capabilities named {name}", help="give each a name of its own",
            details={"field": "capabilities"},
        )  # fmt: skip
    names.add(name)
    fit_of(capability)
    for schema in (capability.schema_in, capability.schema_out):
        _check_schema(schema)
    capability.topic = capability.topic or f"{TOPIC_PREFIX}.{agent}.{name}"
    _native.check_topic(capability.topic)
    head = first_token(capability.topic)
    _require(head not in (NODE_PREFIX, *RESERVED) and not head.startswith("_"), "topic",
             "a topic that clients may use", capability.topic)  # fmt: skip
    for vector in capability.vectors:
        decoded(vector)


def _check_schema(text: str) -> None:
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        found = None
    _require(isinstance(found, dict | bool), "schema", "a JSON Schema", text)


def _compiled(texts: Mapping[str, str]) -> _native.Contract | None:
    return _native.Contract(dict(texts)) if texts else None


def _require(holds: object, field: str, wanted: str, found: str) -> None:
    if not holds:
        raise BadRequest(f"{field} {found[:80]!r}: {wanted}", details={"field": field})
