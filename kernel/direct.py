"""Past the node: which messages two local clients hand each other, and what became of them. Pure.

The node stays the truth: what goes direct is what a publisher may post into the memory that it
shares with a subscriber, for as long as the route that it was granted holds (docs/shm.md). Here is
who may have such a route, and how the counts in that memory become rows of the ledger. The memory
itself, and who is told of it, is in kernel/local/.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from sira.kernel.subscriptions import Listener, QueueGroup, Subscription
from sira.kernel.topics import NODE_PREFIX, first_token

if TYPE_CHECKING:
    from sira import _native
    from sira.kernel.streams import PublishStream, SubscribeStream

# The shape of a link. Memory that is never used is never made; cells are never used twice.
SLOTS, HOLDS, CELLS = 512, 512, 1_024
TARGETS_MAX = 16
# When to ask again, in ms. 0: when the word of the topic has moved, which all that changes a route
# does; the rest passes without moving it.
WHEN_MOVED, BUSY_MS, LATER_MS, LIMIT_MS = 0, 50, 1_000, 10_000
_BUSY_MS_MAX = 5_000
# Counts that no pair of clients gets to: then the memory was written by somebody else's rules.
_COUNT_LAST = 1 << 48
_LEAVE_NS = 500_000_000  # a publisher has compared the word before, and is about to post
# Why a publisher took a message back, as the ledger says it; by the number that the link has for it
# (native/shm_link.h). "": not dropped.
REASONS = ("", "ABORTED", "REVOKED", "", "PEER_LOST", "ABORTED", "ABORTED")
_EXPIRED, _SUPERSEDED = 0, 3


class Refusal(NamedTuple):
    """Why messages go by the node, for people, and when to ask again."""

    why: str
    again_ms: int = WHEN_MOVED


class Way(NamedTuple):
    """Which way the messages of one publisher on a topic go, and why; for people."""

    direct: bool
    why: str


def busy_again_ms(times: int) -> int:
    """Return when to ask again where a target held something, so many times one after the other.

    Of a subscriber that others keep busy by the node nobody should ask all the time.
    """
    return min(BUSY_MS << min(times, 16), _BUSY_MS_MAX)


# ---- who may have a route ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked of one that listens.

    Attributes:
        members: of its queue group; 1: it is none, or alone in it.
        linked: its connection takes links.
        stalled: it has taken nothing for `stall_s`.
    """

    members: int = 1
    linked: bool = True
    stalled: bool = False


@dataclass(frozen=True, slots=True)
class Topic:
    """What is asked of a topic."""

    name: str
    retained: bool = False
    contracted: bool = False
    owned: bool = False


def topic_refusal(topic: Topic) -> Refusal | None:
    """Say what keeps all messages on a topic at the node; None: nothing."""
    if first_token(topic.name) == NODE_PREFIX:
        return Refusal("only the node publishes there")
    if topic.retained:
        return Refusal("the node keeps the last message of this topic")
    if topic.contracted:
        return Refusal("the node compares each message with the topic's contract")
    if topic.owned:
        return Refusal("the topic goes with its owner, which the node watches")
    return None


def obliges(obligations: Iterable[tuple[str, str]]) -> bool:
    """Whether what rules ask for needs the node."""
    return any(each != ("path", "direct") for each in obligations)


def limits_refusal(*, limited: bool, obliged: bool) -> Refusal | None:
    """Say what keeps the messages of one publisher at the node; None: nothing.

    Args:
        limited: a limit counts them. obliged: see `obliges`.
    """
    if obliged:
        return Refusal("a rule asks for the node: a copy of each message, a rate, or `path`")
    if limited:
        return Refusal("a limit counts these messages at the node")
    return None


def target_refusal(target: Target) -> Refusal | None:
    """Say what keeps messages to one listener at the node; None: nothing."""
    if target.members > 1:
        return Refusal("a queue group shares the work: the node says who gets which message")
    if not target.linked:
        return Refusal(
            "the subscriber's connection takes no links: it came by gRPC, or SIRA_DIRECT=off there"
        )
    if target.stalled:
        return Refusal("the subscriber takes nothing: it is stalled", LATER_MS)
    return None


def refusal(
    topic: Topic,
    targets: Iterable[Target],
    *,
    limited: bool,
    obliged: bool,
    draining: bool,
) -> Refusal | None:
    """Decide whether a publisher's messages on a topic may go past the node; None: they may."""
    if draining:
        return Refusal("the node goes down")
    found = topic_refusal(topic) or limits_refusal(limited=limited, obliged=obliged)
    if found is not None:
        return found
    count = 0
    for target in targets:
        found = target_refusal(target)
        if found is not None:
            return found
        count += 1
    if not count:
        return Refusal("nobody listens")
    if count > TARGETS_MAX:
        return Refusal(f"{count} listen, and at most {TARGETS_MAX} are reached past the node")
    return None


def target_of(listener: Listener) -> Target:
    """Return what is asked of one that listens."""
    subscription = one_of(listener)
    group, past = subscription.group, subscription.stream.direct
    return Target(
        members=len(group.members) if group is not None else 1,
        linked=past is not None and past.is_open and not subscription.stream.closing,
        stalled=subscription.sub.stalled,
    )


def one_of(listener: Listener) -> Subscription:
    """Return one who gets a message: the only one, or of a queue group the first."""
    return next(iter(listener.members)) if isinstance(listener, QueueGroup) else listener


# ---- what became of the messages -----------------------------------------------------------------


class Piece(NamedTuple):
    """A chunk that a publisher handed a subscriber past the node; the publisher's own words.

    Attributes:
        segment: by the publisher's number.
        since_ns: when it was posted, CLOCK_MONOTONIC.
        taken: the application has it; else it waits to be taken.
    """

    segment: int
    offset: int
    bytes: int
    since_ns: int
    taken: bool


class Counted(NamedTuple):
    """What is known of a cell. Conservation: posted = taken + withdrawn + pending."""

    posted: int = 0
    taken: int = 0
    withdrawn: tuple[int, ...] = (0,) * len(REASONS)

    @property
    def pending(self) -> int:
        """Messages that wait in it."""
        return self.posted - self.taken - sum(self.withdrawn)


NOTHING = Counted()


def look(before: Counted, posted: int, taken: int, withdrawn: Iterable[int]) -> Counted:
    """Return what is certain after a look at the memory.

    A look while both ends are at work is a torn one: it may miss steps, and count as not taken what
    was posted meanwhile. No count goes back, so nothing is counted twice; a look at rest is exact.
    What no honest client can have written is not looked at.
    """
    posted = max(before.posted, posted)
    less = tuple(map(max, before.withdrawn, withdrawn))
    free = posted - before.taken - sum(less)
    if free < 0 or posted > _COUNT_LAST:
        return before
    return Counted(posted, before.taken + min(max(0, taken - before.taken), free), less)


def account(before: Counted, now: Counted, *, first: bool) -> dict[str, Any]:
    """Return what `Hub.account` is to be told of the difference.

    Args:
        first: the cell is the one of its route that counts what was published.
    """
    owed = now.posted - before.posted
    less = [b - a for a, b in zip(before.withdrawn, now.withdrawn, strict=True)]
    found: dict[str, Any] = {
        "published": owed if first else 0,
        "owed": owed,
        "delivered": now.taken - before.taken,
        "pending": now.pending - before.pending,
        "expired": less[_EXPIRED],
        "superseded": less[_SUPERSEDED],
    }
    dropped = Counter[str]()
    for why, count in zip(REASONS, less, strict=True):
        dropped[why] += count if why else 0
    dropped = +dropped  # those above 0
    return {name: n for name, n in found.items() if n} | (
        {"dropped": dict(dropped)} if dropped else {}
    )


def account_ended(owed: int, pending: int, reason: str, *, first: bool) -> dict[str, Any]:
    """Return what `Hub.account` is to be told of messages that nobody takes any more.

    Args:
        owed: posted, and not counted yet. pending: counted as waiting.
    """
    found: dict[str, Any] = {"published": owed if first else 0, "owed": owed, "pending": -pending}
    dropped = {"dropped": {reason: owed + pending}} if owed + pending else {}
    return {name: n for name, n in found.items() if n} | dropped


@dataclass(slots=True, eq=False)
class Tally:
    """What waits for one subscription past the node; what it got is counted with the rest."""

    cells: dict[Cell, None] = field(default_factory=dict)
    pending: int = 0


@dataclass(slots=True, eq=False)
class Cell:
    """What one publisher posts for one subscription on one topic, for the life of one route.

    Attributes:
        number: in its link.
        publisher: the stream whose rights it has.
        first: it counts what was published.
        reason: why nobody takes anything more; "": somebody does.
        left: nothing more is posted, if its publisher is honest.
        leaves_ns: when `left` is to be believed; 0: it is not to be left.
    """

    number: int
    link: Any
    topic: _native.HubTopic
    publisher: PublishStream
    subscription: Subscription
    tally: Tally
    first: bool
    ledger: _native.Hub
    now_ns: Callable[[], int]
    seen: Counted = NOTHING
    reason: str = ""
    left: bool = False
    leaves_ns: int = 0
    _posted_last: int = -1  # when it was left for a while; -1: not yet
    _looks_after: int = 0  # since it ended

    def leave(self, *, at_once: bool) -> None:
        """Take note that nothing more is posted.

        Args:
            at_once: its publisher says so. Else that was told to, and may be about to post one.
        """
        self.left = self.left or at_once
        self.leaves_ns = self.leaves_ns or self.now_ns() + _LEAVE_NS

    @property
    def is_ageing(self) -> bool:
        """Whether something is to become of it by time alone; most are simply in use."""
        return bool(self.leaves_ns or self.reason)

    def grow_old(self) -> bool:
        """Let time pass, after a look; whether its publisher posts although it may not."""
        if self.reason:
            self._looks_after += 1
        elif self.leaves_ns and self.now_ns() >= self.leaves_ns:
            self.left = True
            if self._posted_last < 0:
                self._posted_last = self.seen.posted
            return self.seen.posted > self._posted_last
        return False

    def look(self, posted: int, taken: int, withdrawn: Iterable[int]) -> None:
        """Take in what its memory says, and tell the ledger what is new."""
        before, tally = self.seen, self.tally
        now = self.seen = look(before, posted, taken, withdrawn)
        if now is before or now == before:
            return
        if self.first:
            self.publisher.client.published_before += now.posted - before.posted
        if self.reason:  # all that is there was dropped, and so is what comes
            owed = now.posted - before.posted
            counts = account_ended(owed, 0, self.reason, first=self.first)
        else:
            tally.pending += now.pending - before.pending
            counts = account(before, now, first=self.first)
        self._tell(counts)

    def end(self, reason: str) -> None:
        """Take note that nobody takes anything more. Requires: looked at. A second is none."""
        if self.reason:
            return
        self.reason = reason
        waiting, tally = self.seen.pending, self.tally
        if waiting:
            tally.pending -= waiting
            self._tell(account_ended(0, waiting, reason, first=self.first))

    def _tell(self, counts: dict[str, Any]) -> None:
        if counts:
            sub, now_ns = self.subscription.sub, self.now_ns()
            self.ledger.account(self.topic, **counts, sub=sub, now_ns=now_ns)

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to count."""
        if self.reason:
            return self.left or self._looks_after > 1
        return self.left and not self.seen.pending


# ---- what streams tell the connection that they came by ------------------------------------------


class Past(Protocol):
    """One client's way past the node: the connection that its streams came by."""

    @property
    def is_open(self) -> bool:
        """Whether it can be told of anything."""

    def asked(self, stream: PublishStream, ask: int, topic: str) -> None:
        """Take an ask for a route. Raises ProtocolError: its number was used before."""

    def way(self, stream: PublishStream, topic: str) -> Way | None:
        """Say which way a stream's messages on a topic go; None: it has not asked for another."""

    def publisher_over(self, stream: PublishStream) -> None:
        """Let routes of a stream go: nobody may post by them any more."""

    def subscription_over(self, subscription: Subscription, reason: str) -> None:
        """Take note that a subscription takes nothing more."""

    def reader_over(self, stream: SubscribeStream) -> None:
        """Take note that whatever was shown because of a stream may still be read."""

    def recheck_posts(self, stream: PublishStream) -> Iterator[None]:
        """Ask the rules of now about all that a stream may post; yields after each question."""

    def recheck_reads(self, stream: SubscribeStream) -> Iterator[None]:
        """Ask the rules of now about all that a stream gets; yields after each question."""


# ---- numbers, and how much there may be ---------------------------------------------------------


@dataclass(slots=True)
class Numbers:
    """What there is, and what was asked for since the start."""

    links: int = 0
    routes: int = 0
    granted: int = 0
    refused: int = 0
    left: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """How many links there may be; 0: none at all."""

    links_max: int = 0
    per_connection_max: int = 0

    def refusal(self, writer: int, reader: int, every: int) -> Refusal | None:
        """Say why there may be no link more; None: there may.

        Args:
            writer, reader: links of the two connections. every: of the node.
        """
        if every >= self.links_max:
            return Refusal(f"links_max = {self.links_max} is reached", LIMIT_MS)
        if max(writer, reader) >= self.per_connection_max:
            whose = "publisher" if writer >= reader else "subscriber"
            return Refusal(
                f"links_per_connection_max = {self.per_connection_max} is reached by the {whose}",
                LIMIT_MS,
            )
        return None
