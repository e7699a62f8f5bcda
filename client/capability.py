"""What an agent can do: `sira.Capability`, and a registration made of several. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np

from sira import _native
from sira.kernel.errors import BadRequest
from sira.kernel.slugs import slug
from sira.v1 import registry_pb2

EFFECTS = ("", "pure", "idempotent", "once")
_TOPIC_PREFIX = "agents"
_F16 = np.dtype("<f2")


@dataclass(frozen=True)
class Capability:
    """What an agent can do, in words, and what it takes for it.

    Attributes:
        text: what it does.
        examples: requests that it should get.
        takes, gives: tensor name -> contract, as "f32|bf16[H<=4096, W]".
        params: name of an input -> what it means, in words.
        name: short, unique in the agent; "": made of the text.
        topic: where it is asked; "": `agents.AGENT.NAME`, which is the agent's alone.
        effects: `pure`, `idempotent` (both may be done twice) or `once`; "": not said.
        schema_in, schema_out: JSON Schema of bodies without tensors, as a mapping or as text.
        vectors: own vectors, each as (embedder, values).
    """

    text: str
    _: KW_ONLY
    examples: Sequence[str] = ()
    takes: Mapping[str, str] | None = None
    gives: Mapping[str, str] | None = None
    params: Mapping[str, str] | None = None
    name: str = ""
    topic: str = ""
    effects: str = ""
    schema_in: Mapping[str, Any] | str | None = None
    schema_out: Mapping[str, Any] | str | None = None
    vectors: Sequence[tuple[str, Any]] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            BadRequest: no text, a contract that cannot be read, or effects of no such name.
            BadTopic: the topic is none.
        """
        if not self.text.strip():
            raise BadRequest("a capability says in some words what it does")
        if isinstance(self.examples, str):
            raise BadRequest("examples are a list of requests", help="examples=[...]")
        if self.effects not in EFFECTS:
            raise BadRequest(f"effects are {self.effects!r}", help="pure, idempotent or once")
        if self.topic:
            _native.check_topic(self.topic)
        for contract in (self.takes, self.gives):
            if contract:
                _native.Contract(dict(contract))

    def to_proto(self, agent: str, name: str) -> registry_pb2.Capability:
        """Return the wire's form.

        Args:
            agent: whose it is.
            name: its own in the agent, see `names`.
        """
        return registry_pb2.Capability(
            name=name,
            text=self.text,
            examples=self.examples,
            takes=self.takes,
            gives=self.gives,
            params=self.params,
            topic=self.topic or f"{_TOPIC_PREFIX}.{agent}.{name}",
            effects=self.effects,
            schema_in=_schema(self.schema_in),
            schema_out=_schema(self.schema_out),
            vectors=[vector(each) for each in self.vectors],
        )

    @classmethod
    def from_proto(cls, told: registry_pb2.Capability) -> Capability:
        """Read the wire's form."""
        return cls(
            told.text,
            examples=told.examples,
            takes=told.takes,
            gives=told.gives,
            params=told.params,
            name=told.name,
            topic=told.topic,
            effects=told.effects,
            schema_in=told.schema_in or None,
            schema_out=told.schema_out or None,
            vectors=[(v.embedder, np.frombuffer(v.values, _F16)) for v in told.vectors],
        )


def names(capabilities: Sequence[Capability]) -> list[str]:
    """Return the name of each, as the node would make it.

    Raises:
        BadRequest: two have the same.
    """
    found: list[str] = []
    for each in capabilities:
        name = each.name or slug(each.text) or f"capability-{len(found) + 1}"
        if name in found:
            raise BadRequest(
                f"two capabilities are named {name}", help="give each a name of its own: name=",
                details={"field": "capabilities"},
            )  # fmt: skip
        found.append(name)
    return found


def vector(given: Any) -> registry_pb2.CapabilityVector:
    """Return the wire's form of a vector: (embedder, values), or values of the node's embedder.

    Raises:
        BadRequest: not one row of finite numbers.
    """
    embedder, values = given if isinstance(given, tuple) and len(given) == 2 else ("", given)
    row = np.asarray(values, dtype=np.float32)
    with np.errstate(over="ignore"):
        halves = row.astype(_F16)
    if not isinstance(embedder, str) or row.ndim != 1 or not row.size:
        raise BadRequest("a vector is one row of numbers", help='vector=("embedder 1", values)')
    if not np.isfinite(halves).all():
        raise BadRequest("a vector holds finite numbers that f16 has room for")
    return registry_pb2.CapabilityVector(embedder=embedder, dims=row.size, values=halves.tobytes())


def _schema(given: Mapping[str, Any] | str | None) -> str:
    if given is None:
        return ""
    return given if isinstance(given, str) else json.dumps(given, separators=(",", ":"))
