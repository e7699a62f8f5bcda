"""Memory that clients lend: whose it is, whom it was shown to, how much there may be. No sockets.

A *segment* is shared memory that one client writes and others map; it is for one topic, its
*audience*. Whoever was shown a segment can read all that is ever written into it, not only what it
was sent: so it is shown to those alone who may read its topic, and as soon as one of them may not
any more, or is out of reach, its owner is told to write nothing new into it (`stop`).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from sira import _native
from sira.kernel.access import Access
from sira.kernel.authorize import Deny
from sira.kernel.topics import REPLY_PREFIX, first_token
from sira.kernel.trust.credential import Credential

# (the client's segment, offset, bytes, lease, topic) -> the bytes. Topic None: of a message that
# was refused meanwhile. Raises SiraError: it cannot have them.
Lender = Callable[[int, int, int, int, str | None], _native.ShmSpan]
_NUMBER_LAST = (1 << 32) - 1  # numbers are used once in the life of a node


class Verdict(enum.Enum):
    """What becomes of a segment that a client brings."""

    TAKEN = enum.auto()
    # Taken, as messages in it may be behind it already; its owner is told to write no more.
    FULL = enum.auto()
    REFUSED = enum.auto()


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be lent; past it is FULL, past twice as much REFUSED."""

    segments_max: int = 0  # of one connection
    bytes_max: int = 0
    node_segments_max: int = 0
    node_bytes_max: int = 0


@dataclass(slots=True)
class Held:
    """What is lent: by one connection, or by all."""

    segments: int = 0
    bytes: int = 0

    def add(self, bytes_: int) -> None:
        """Count one segment more."""
        self.segments += 1
        self.bytes += bytes_

    def less(self, bytes_: int) -> None:
        """Count one segment less."""
        self.segments -= 1
        self.bytes -= bytes_
        assert self.segments >= 0, self
        assert self.bytes >= 0, self


def judge(bytes_: int, *, mine: Held, every: Held, limits: Limits) -> Verdict:
    """Decide on one segment more of `bytes_`.

    Args:
        mine: what its connection lends.
        every: what all lend.
    """
    rows = (
        (mine.segments + 1, limits.segments_max),
        (mine.bytes + bytes_, limits.bytes_max),
        (every.segments + 1, limits.node_segments_max),
        (every.bytes + bytes_, limits.node_bytes_max),
    )
    if any(count > 2 * limit for count, limit in rows):
        return Verdict.REFUSED
    if any(count > limit for count, limit in rows):
        return Verdict.FULL
    return Verdict.TAKEN


def limit_reached(*, mine: Held, every: Held, limits: Limits) -> str:
    """Say which limit keeps a connection from lending more; "": none does."""
    rows = (
        (mine.segments, limits.segments_max, "lent_segments_max"),
        (mine.bytes, limits.bytes_max, "lent_bytes_max"),
        (every.segments, limits.node_segments_max, "an eighth of the node's open files"),
        (every.bytes, limits.node_bytes_max, "lent_bytes_node_max"),
    )
    return next((f"{name} = {limit}" for count, limit, name in rows if count >= limit), "")


@dataclass(slots=True, eq=False)
class Party:
    """One connection, as people know it.

    Attributes:
        peer: as gRPC names it. client, tenant: of the stream that came by it last; "": none did.
        gone: it is over; what it lent may still be looked at.
    """

    peer: str = ""
    client: str = ""
    tenant: str = ""
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Hold:
    """What one connection has of a segment.

    Attributes:
        leases, bytes: lent to it, and not given back.
        since_ns: when it had given all back last, and was lent something; CLOCK_MONOTONIC.
        reads: a stream of it may be lent more.
    """

    leases: int
    bytes: int
    since_ns: int
    reads: bool


class Owner(Protocol):
    """The connection that a segment came by."""

    party: Party

    def stop(self, segment: Segment) -> None:
        """Tell it to write nothing new into a segment."""

    def close(self) -> None:
        """Listen for its leases no more; the node ends."""


class Borrower(Protocol):
    """The connection of subscribers: what it was shown, and what it has not given back."""

    party: Party

    def holds(self) -> Iterator[tuple[int, Hold]]:
        """Yield what it has, by the number of the segment."""

    def show(self, segment: Segment) -> bool:
        """Pass a segment on; False: not now."""

    def hide(self, number: int) -> None:
        """Name a segment to this reader no more."""

    def lend(self, span: _native.ShmSpan) -> int:
        """Keep a span until its lease comes back; 0: there are too many."""

    def take_back(self, leases: list[int]) -> None:
        """Forget leases whose frame never left."""


class Shown(Protocol):
    """Where a segment was passed on to."""

    def forget(self, segment: Segment) -> None:
        """Take note that a segment is named no more."""


class Segment:
    """One segment. `number` is the node's name for it, `own` that of its owner."""

    __slots__ = (
        "audience", "bytes", "fd", "gone", "number", "own", "owner", "readers", "since_ns", "spans",
        "stopped", "tenant",
    )  # fmt: skip

    def __init__(
        self, number: int, *, owner: Owner, own: int, bytes_: int, audience: str, fd: int,
        since_ns: int,
    ) -> None:  # fmt: skip
        """Take note of it. `fd` belongs to its mapping."""
        self.number, self.own, self.owner = number, own, owner
        self.bytes, self.audience, self.fd, self.since_ns = bytes_, audience, fd, since_ns
        self.tenant = ""  # of the stream that first named it; a chunk of another one is refused
        self.spans = 0  # leases of its owner that are out
        self.stopped = False  # shown to nobody anew
        self.gone = False  # named no more
        self.readers: dict[Shown, None] = {}


class Lent:
    """All that is lent on a node. Belongs to its loop."""

    def __init__(self, limits: Limits | None = None) -> None:
        """Begin with nothing. `limits` None: nothing is ever lent."""
        self.limits = limits or Limits()
        self.segments: dict[int, Segment] = {}  # by number, those that are named
        self.looked_at: dict[Segment, None] = {}  # those that are named no more
        self.held = Held()  # mapped, also what is named no more and still looked at
        self.lenders: dict[Owner, None] = {}  # until the last of their leases is back
        self.borrowers: dict[Borrower, None] = {}
        self.leases = 0  # out, of publishers
        self.stopped = self.refused = 0  # since the start
        self._last = 0

    def take(
        self, owner: Owner, *, own: int, bytes_: int, audience: str, fd: int, mine: Held,
        now_ns: int,
    ) -> Segment | None:  # fmt: skip
        """Take a segment into the books; None: it is too much. See `judge`."""
        verdict = judge(bytes_, mine=mine, every=self.held, limits=self.limits)
        if verdict is Verdict.REFUSED or self._last == _NUMBER_LAST:
            self.refused += 1
            return None
        self._last += 1
        segment = Segment(
            self._last, owner=owner, own=own, bytes_=bytes_, audience=audience, fd=fd,
            since_ns=now_ns,
        )  # fmt: skip
        self.segments[segment.number] = segment
        self.held.add(bytes_)
        mine.add(bytes_)
        if verdict is Verdict.FULL:
            self.stop(segment)
        return segment

    def close(self) -> None:
        """The node ends."""
        for owner in list(self.lenders):
            owner.close()

    def stop(self, segment: Segment) -> None:
        """Have nothing new written into a segment, and show it to nobody anew."""
        if not segment.stopped and not segment.gone:
            segment.stopped = True
            self.stopped += 1
            segment.owner.stop(segment)

    def forget(self, segment: Segment, mine: Held) -> None:
        """Name a segment no more; it is counted while its memory is looked at."""
        assert not segment.gone, segment.number
        segment.gone = True
        del self.segments[segment.number]
        self.looked_at[segment] = None
        for reader in list(segment.readers):
            reader.forget(segment)
        self._settle(segment, mine)

    def named(self, segment: Segment) -> None:
        """Count a lease of the owner that goes out."""
        segment.spans += 1
        self.leases += 1

    def ended(self, segment: Segment, mine: Held) -> None:
        """Count a lease of the owner that has come back."""
        segment.spans -= 1
        self.leases -= 1
        if segment.gone:
            self._settle(segment, mine)

    def _settle(self, segment: Segment, mine: Held) -> None:
        if not segment.spans:
            del self.looked_at[segment]
            self.held.less(segment.bytes)
            mine.less(segment.bytes)


class Reader:
    """One Subscribe stream that takes lent chunks. Says what is lent to it, and to whom it is due.

    A stream that ends keeps what its process has mapped: from then on nobody knows for how long it
    may read, so the owners of what it was shown are told to stop.
    """

    def __init__(self, lent: Lent, borrower: Borrower, who: Credential, access: Access) -> None:
        """Belong to a stream of `who`."""
        self._lent, self._borrower = lent, borrower
        self._who, self._access = who, access
        self._shown: dict[Segment, None] = {}
        self._fresh: list[int] = []  # leases in a frame that has not left

    def lend(self, span: _native.ShmSpan) -> int:
        """Return the lease under which a span is lent to this stream; 0: its bytes are copied."""
        segment = self._lent.segments.get(span.segment)
        if segment is None or (segment not in self._shown and not self._show(segment)):
            return 0
        lease = self._borrower.lend(span)
        if lease:
            self._fresh.append(lease)
        return lease

    def left(self) -> None:
        """Take note that the frame that was asked for last is on its way."""
        if self._fresh:
            self._fresh.clear()

    def recheck(self) -> Iterator[None]:
        """Ask the rules of now about all that it was shown; yields after each question."""
        for segment in list(self._shown):
            if segment in self._shown and not self._may_read(segment):
                self._withdraw(segment)
            yield

    def forget(self, segment: Segment) -> None:
        """Take note that a segment is named no more."""
        del self._shown[segment], segment.readers[self]
        self._borrower.hide(segment.number)

    def withdraw(self) -> None:
        """Have nothing new written into what it was shown: its rights have ended.

        At once, and not only when the stream is over: one that takes nothing may stay for long.
        """
        for segment in list(self._shown):
            self._withdraw(segment)

    def end(self) -> None:
        """Take note that the stream is over. May be called twice."""
        self._borrower.take_back(self._fresh)
        self._fresh = []
        self.withdraw()

    def _withdraw(self, segment: Segment) -> None:
        self.forget(segment)
        self._lent.stop(segment)

    def _show(self, segment: Segment) -> bool:
        if segment.stopped or not self._may_read(segment) or not self._borrower.show(segment):
            return False
        self._shown[segment] = segment.readers[self] = None
        return True

    def _may_read(self, segment: Segment) -> bool:
        return may_read(self._access, self._who, segment.audience)


def may_read(access: Access, who: Credential, topic: str) -> bool:
    """Whether the rules let somebody read a topic; a reply is sent to nobody but whose it is."""
    if first_token(topic) == REPLY_PREFIX:
        return True
    return not isinstance(access.decide(who, "subscribe", topic), Deny)
