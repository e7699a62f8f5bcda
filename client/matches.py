"""What the registry answers, as an application reads it: matches, agents, their state. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

from sira.client.capability import Capability
from sira.v1 import registry_pb2

# Of sira.v1.AgentStatus; what a newer node says beyond is "unknown".
STATUSES: Mapping[int, str] = {
    registry_pb2.AGENT_STATUS_UP: "up",
    registry_pb2.AGENT_STATUS_SUSPECT: "suspect",
    registry_pb2.AGENT_STATUS_DOWN: "down",
    registry_pb2.AGENT_STATUS_DRAINING: "draining",
}


@dataclass(frozen=True, slots=True)
class Reason:
    """One part of a score, or why something does not fit.

    Attributes:
        part: dense, lexical, example, head, feedback, contract, labels, health, version, rights.
        value: what it added to the score, or 0.
        text: for people.
    """

    part: str
    value: float
    text: str

    def __str__(self) -> str:
        """Return it in one line."""
        return f"{self.part} {self.value:+.3g}: {self.text}" if self.value else self.text


@dataclass(frozen=True, slots=True)
class AgentState:
    """How an agent is.

    Attributes:
        status: up, suspect, down, draining, or unknown.
        reason: why it is not up.
        since_ms: for how long.
        beat_age_ms: since its last beat.
        in_flight, waiting: requests in hand, and those that wait for it.
        lag_ms: of its event loop.
    """

    status: str
    reason: str = ""
    since_ms: int = 0
    beat_age_ms: int = 0
    in_flight: int = 0
    waiting: int = 0
    lag_ms: int = 0

    @classmethod
    def from_proto(cls, told: registry_pb2.AgentState) -> AgentState:
        """Read the wire's form."""
        return cls(
            status=STATUSES.get(told.status, "unknown"),
            reason=told.reason,
            since_ms=told.since_ms,
            beat_age_ms=told.beat_age_ms,
            in_flight=told.in_flight,
            waiting=told.waiting,
            lag_ms=told.lag_ms,
        )


@dataclass(frozen=True, slots=True)
class Match:
    """A capability that fits, or nearly.

    Attributes:
        agent, kind, version, generation: whose it is.
        capability, topic, effects: its name, where it is asked, and what may be done twice.
        score: of no unit; higher is better, within one answer.
        confidence: how often such an answer is right, 0 to 1.
        reasons: what the score is made of, or why it does not fit.
        state: how the agent is; `status` is the word of it.
        twin: equal for capabilities that say the same: any of them will do.
        max_in_flight: requests that it takes at a time.
        range, weight: the range that its version is in, and what that gets of the calls beside the
            other ranges of this capability; None: the configuration gives it no weights.
    """

    agent: str
    kind: str
    capability: str
    topic: str
    score: float
    confidence: float
    reasons: tuple[Reason, ...]
    state: AgentState
    version: str
    generation: int
    twin: int
    max_in_flight: int
    effects: str
    range: str = ""
    weight: float | None = None

    @property
    def status(self) -> str:
        """up, suspect, down or draining."""
        return self.state.status

    @classmethod
    def from_proto(cls, told: registry_pb2.Match) -> Match:
        """Read the wire's form."""
        return cls(
            agent=told.agent,
            kind=told.kind,
            capability=told.capability,
            topic=told.topic,
            score=told.score,
            confidence=told.confidence,
            reasons=tuple(Reason(each.part, each.value, each.text) for each in told.reasons),
            state=AgentState.from_proto(told.state),
            version=told.version,
            generation=told.generation,
            twin=told.twin,
            max_in_flight=told.max_in_flight,
            effects=told.effects,
            range=told.weighed.range,
            weight=told.weighed.weight if told.HasField("weighed") else None,
        )


@dataclass(frozen=True, slots=True)
class Matches(Sequence[Match]):
    """What fits, best first: a list of `Match`, and more.

    Attributes:
        found: the matches themselves.
        no_match: nothing fits well enough; the list is empty.
        reason: why not.
        runners_up: what came next, or does not fit, and why.
        is_shortlist: the first is not sure enough to be taken alone.
        revision: of the registry.
        embedder: by which words were compared: its id and version.
    """

    found: tuple[Match, ...]
    no_match: bool = False
    reason: str = ""
    runners_up: tuple[Match, ...] = ()
    is_shortlist: bool = False
    revision: int = 0
    embedder: str = ""

    def __len__(self) -> int:
        """Return how many fit."""
        return len(self.found)

    @overload
    def __getitem__(self, index: int, /) -> Match: ...

    @overload
    def __getitem__(self, index: slice, /) -> tuple[Match, ...]: ...

    def __getitem__(self, index: int | slice, /) -> Match | tuple[Match, ...]:
        """Return one of them, or some."""
        return self.found[index]

    @classmethod
    def from_proto(cls, told: registry_pb2.DiscoverResponse) -> Matches:
        """Read the wire's form."""
        return cls(
            found=tuple(Match.from_proto(each) for each in told.matches),
            no_match=told.no_match,
            reason=told.reason,
            runners_up=tuple(Match.from_proto(each) for each in told.runners_up),
            is_shortlist=told.is_shortlist,
            revision=told.revision,
            embedder=told.embedder,
        )


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """An agent as it is registered.

    Attributes:
        name, kind, description, version, labels, capabilities, capacity, endpoints, requires: as it
            said.
        digest, signature, extra: as it said, unchanged.
        max_in_flight: requests that it takes at a time.
        generation: grows whenever another instance takes the name.
        revision: of the registry, at which it was changed last.
        principal: who registered it.
        state: how it is; `status` is the word of it.
    """

    name: str
    kind: str
    description: str
    version: str
    labels: Mapping[str, str]
    capabilities: tuple[Capability, ...]
    capacity: Mapping[str, float]
    endpoints: tuple[str, ...]
    requires: tuple[str, ...]
    digest: bytes
    signature: bytes
    extra: Mapping[str, bytes]
    max_in_flight: int
    generation: int
    revision: int
    principal: str
    state: AgentState

    @property
    def status(self) -> str:
        """up, suspect, down or draining."""
        return self.state.status

    @classmethod
    def from_proto(cls, told: registry_pb2.Agent) -> AgentInfo:
        """Read the wire's form."""
        said = told.registration
        return cls(
            name=said.name,
            kind=said.kind,
            description=said.description,
            version=said.version,
            labels=dict(said.labels),
            capabilities=tuple(Capability.from_proto(each) for each in said.capabilities),
            capacity=dict(said.capacity),
            endpoints=tuple(said.endpoints),
            requires=tuple(said.requires),
            digest=said.digest,
            signature=said.signature,
            extra=dict(said.extra),
            max_in_flight=said.max_in_flight,
            generation=told.generation,
            revision=told.revision,
            principal=told.principal,
            state=AgentState.from_proto(told.state),
        )


@dataclass(frozen=True, slots=True)
class Learned:
    """What agents of one kind are ranked by, beside their words.

    Attributes:
        kind: of agents.
        version: digest of the head, hex; reasons name it by its first eight digits.
        capabilities, examples: it was learned from.
        held_out: examples that were kept back to see what it is worth.
        right: share of those that were answered right, 0 to 1.
        trained_ns: when, wall clock, ns since 1970.
        took_ms: of CPU.
        embedder: whose vectors were used beside the words; "": none.
    """

    kind: str
    version: str
    capabilities: int
    examples: int
    held_out: int
    right: float
    trained_ns: int
    took_ms: int
    embedder: str

    @classmethod
    def from_proto(cls, told: registry_pb2.Learned) -> Learned:
        """Read the wire's form."""
        return cls(
            kind=told.kind,
            version=told.version,
            capabilities=told.capabilities,
            examples=told.examples,
            held_out=told.held_out,
            right=told.right,
            trained_ns=told.trained_ns,
            took_ms=told.took_ms,
            embedder=told.embedder,
        )


@dataclass(frozen=True, slots=True)
class AgentChange:
    """One step of a watch.

    Attributes:
        kind: `put` (it came or changed, also its status), `removed`, `snapshot_end` (all that stood
            before is said), or `restart` (a snapshot follows: what was known is to be forgotten).
        agent: whose; None for the last two. Of `removed` the name and generation alone.
        revision: at which the watch can be taken up again; 0: it begins anew, forget what was told.
    """

    kind: str
    agent: AgentInfo | None
    revision: int

    @classmethod
    def from_proto(cls, told: registry_pb2.RegistryWatchResponse) -> AgentChange:
        """Read the wire's form."""
        kind = told.WhichOneof("change") or "unknown"
        changed: Any = getattr(told, kind) if kind in ("put", "removed") else None
        agent = None if changed is None else AgentInfo.from_proto(changed)
        return cls(kind=kind, agent=agent, revision=told.revision)
