"""What a node says about itself, as values: topics, ledger, explanations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sira.v1 import bus_pb2, kernel_pb2

KINDS = {
    "volatile": bus_pb2.TOPIC_KIND_VOLATILE,
    "latest": bus_pb2.TOPIC_KIND_LATEST,
    "durable": bus_pb2.TOPIC_KIND_DURABLE,
}
_KIND_NAMES = {number: name for name, number in KINDS.items()}


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic, or a class of topics (`name` is a pattern then).

    Attributes:
        kind: volatile, latest or durable.
        contract: tensor name -> contract text; empty: any message.
        owned: it goes with the client that made it.
        class_name: the declared pattern that it belongs to; "" for none.
        declared: made by `create`, not only in use.
        published: messages since it came to be.
        subscriptions: that match it now.
    """

    name: str
    kind: str
    contract: Mapping[str, str]
    owned: bool
    class_name: str
    declared: bool
    published: int
    subscriptions: int
    keep_s: int | None
    keep_bytes: int | None

    @classmethod
    def from_proto(cls, topic: bus_pb2.Topic) -> Topic:
        """Read the wire's form."""
        return cls(
            name=topic.name,
            kind=_KIND_NAMES.get(topic.kind, "volatile"),
            contract=dict(topic.contract),
            owned=topic.owned,
            class_name=topic.class_name,
            declared=topic.declared,
            published=topic.published,
            subscriptions=topic.subscriptions,
            keep_s=topic.keep_s if topic.HasField("keep_s") else None,
            keep_bytes=topic.keep_bytes if topic.HasField("keep_bytes") else None,
        )


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """Deliveries owed on one topic, and what became of them; counts of messages.

    owed + received = delivered + forwarded + pending + retained + superseded + expired +
    sum(dropped) + dead_lettered + sum(unknown).
    """

    topic: str
    node: str
    published: int
    owed: int
    received: int
    delivered: int
    forwarded: int
    pending: int
    retained: int
    superseded: int
    expired: int
    dropped: Mapping[str, int]
    dead_lettered: int
    unknown: Mapping[str, int]
    redelivered: int
    refused: Mapping[str, int]
    class_row: bool

    @property
    def balanced(self) -> bool:
        """Whether each delivery owed is accounted for."""
        found = self.delivered + self.forwarded + self.pending + self.retained + self.superseded
        lost = self.expired + sum(self.dropped.values()) + self.dead_lettered
        return self.owed + self.received == found + lost + sum(self.unknown.values())


@dataclass(frozen=True, slots=True)
class Ledger:
    """The rows that a pattern matches. Iterate it for the rows.

    Each row is of one instant; very many are read one after the other, while messages flow.

    Attributes:
        balanced: every delivery of every row is accounted for.
        epoch: hex id of this life of the node.
        moved: topics that went meanwhile, so that their deliveries may stand both in a row of
            their own and in that of their class. 0: each delivery stands in one row.
    """

    rows: tuple[LedgerRow, ...]
    balanced: bool
    epoch: str
    moved: int = 0

    def __iter__(self) -> Iterator[LedgerRow]:
        """Yield the rows."""
        return iter(self.rows)

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self.rows)

    def __getitem__(self, topic: str) -> LedgerRow:
        """Return the row of a topic. Raises KeyError."""
        for row in self.rows:
            if row.topic == topic and not row.class_row:
                return row
        raise KeyError(topic)

    @classmethod
    def from_pages(cls, pages: Sequence[kernel_pb2.LedgerResponse]) -> Ledger:
        """Read the wire's form: the pages of one reading, at least one."""
        rows = tuple(
            LedgerRow(
                topic=row.topic,
                node=row.node,
                published=row.published,
                owed=row.owed,
                received=row.received,
                delivered=row.delivered,
                forwarded=row.forwarded,
                pending=row.pending,
                retained=row.retained,
                superseded=row.superseded,
                expired=row.expired,
                dropped=dict(row.dropped),
                dead_lettered=row.dead_lettered,
                unknown=dict(row.unknown),
                redelivered=row.redelivered,
                refused=dict(row.refused),
                class_row=row.class_row,
            )
            for page in pages
            for row in page.rows
        )
        last = pages[-1]
        balanced = all(page.balanced for page in pages)
        return cls(rows=rows, balanced=balanced, epoch=last.epoch.hex(), moved=last.moved)


@dataclass(frozen=True, slots=True)
class ExplainMatch:
    """A subscription that a message on the topic would go to.

    Attributes:
        lane, lane_reason: the way it would take, and why.
        pending: messages waiting for it.
        state: ready, blocked or stalled.
    """

    client: str
    pattern: str
    group: str
    lane: str
    lane_reason: str
    pending: int
    state: str


@dataclass(frozen=True, slots=True)
class ExplainPublisher:
    """Which way the messages of one publisher on the topic go.

    Attributes:
        lane: of its connection: grpc or socket.
        path: direct (past the node) or node.
        why: for people.
    """

    client: str
    lane: str
    path: str
    why: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What would happen to a message on a topic, and why. Iterate it for the matches.

    Attributes:
        topic: the topic, pattern, method or name that was asked about.
        decision: allow or deny.
        reasons: for the decision, for people.
        kind, contract: of the topic.
        rule: that denies; "": none does.
        readable, cut: of a pattern that is subscribed to: what may be read, and what may not.
        obligations: what rules demand with their yes, as `tap=lab.audit`.
        matches_left_out: so many more than `matches` there are.
        publishers: whoever was asked about, or has asked to go past the node on this topic.
    """

    topic: str
    decision: str
    reasons: tuple[str, ...]
    matches: tuple[ExplainMatch, ...]
    kind: str
    contract: Mapping[str, str]
    rule: str = ""
    readable: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()
    obligations: tuple[str, ...] = ()
    matches_left_out: int = 0
    publishers: tuple[ExplainPublisher, ...] = ()

    def __iter__(self) -> Iterator[ExplainMatch]:
        """Yield the matches."""
        return iter(self.matches)

    @classmethod
    def from_proto(cls, topic: str, answer: kernel_pb2.ExplainResponse) -> Explanation:
        """Read the wire's form."""
        matches = tuple(
            ExplainMatch(
                client=match.client,
                pattern=match.pattern,
                group=match.group,
                lane=match.lane,
                lane_reason=match.lane_reason,
                pending=match.pending,
                state=match.state,
            )
            for match in answer.matches
        )
        return cls(
            topic=topic,
            decision=answer.decision,
            reasons=tuple(answer.reasons),
            matches=matches,
            kind=answer.kind,
            contract=dict(answer.contract),
            rule=answer.rule,
            readable=tuple(answer.readable),
            cut=tuple(answer.cut),
            obligations=tuple(answer.obligations),
            matches_left_out=answer.matches_left_out,
            publishers=tuple(
                ExplainPublisher(each.client, each.lane, each.path, each.why)
                for each in answer.publishers
            ),
        )
