"""What one connection lends and what is lent to it: the records of shared memory, on the node.

`Lending` has the segments that its client brings and the leases that it is owed; `Borrowing` has
what its client was shown and the spans that it has not given back. Who may see what is decided in
kernel/lent.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sira import _native
from sira.kernel.errors import Denied, ProtocolError, QuotaExceeded, SiraError
from sira.kernel.lent import Held, Hold, Lent, Limits, Party, Segment, limit_reached
from sira.kernel.local import record
from sira.kernel.local.channel import Channel
from sira.kernel.settings import Settings

# Out at once, of one connection and direction: so a peer that repeats a lease for the same bytes,
# or never gives one back, cannot fill the node's books. Past it chunks are copied, or refused.
LEASES_MAX = 1 << 16
_REFUSED_MAX = 1_024  # segments that a client goes on bringing although it is told to stop
_WAITING_DESCRIPTORS_MAX = 16  # for a client that does not read; past it chunks are copied


def can_lend() -> bool:
    """Whether this machine has what lending needs."""
    return hasattr(os, "eventfd")


def limits_of(settings: Settings) -> Limits:
    """Return how much may be lent on a node: past the limits a segment is taken up to twice."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Limits(
        segments_max=settings.lent_segments_max if can_lend() else 0,
        bytes_max=settings.lent_bytes_max,
        node_segments_max=files // 8 if files != resource.RLIM_INFINITY else 1 << 20,
        node_bytes_max=settings.lent_bytes_node_max,
    )


class Lending:
    """The segments of one connection. Lives on after it until nobody looks at them any more."""

    def __init__(
        self, lent: Lent, channel: Channel, loop: asyncio.AbstractEventLoop, party: Party
    ) -> None:
        """Begin with none; nothing is opened before the first."""
        lent.lenders[self] = None
        self.party = party
        self._lent, self._channel, self._loop = lent, channel, loop
        self._segments: dict[int, Segment] = {}  # by the client's own number
        self._refused: set[int] = set()
        self._leases: dict[int, Segment] = {}
        self._held = Held()
        self._maps: _native.ShmMaps | None = None
        self._bell = -1
        self._over = False

    @property
    def bytes_max(self) -> int:
        """What it may lend at most."""
        return self._lent.limits.bytes_max

    def bring(self, *, own: int, bytes_: int, audience: str, fd: int | None) -> None:
        """Take a segment, and its descriptor over; None: this process could open no more files.

        Raises:
            ProtocolError: the number is taken, or the audience no topic. LinkCorrupt: it is no
                sealed memfd of that size. QuotaExceeded: the client goes on although it was told
                to stop.
        """
        try:
            if own in self._segments or own in self._refused:
                raise ProtocolError(f"a second segment {own}")
            try:
                _native.check_topic(audience)
            except SiraError as error:
                raise ProtocolError(f"segment {own} is for no topic: {error}") from None
            segment = None
            if fd is not None:
                segment = self._lent.take(
                    self, own=own, bytes_=bytes_, audience=audience, fd=fd, mine=self._held,
                    now_ns=_native.now_ns(),
                )  # fmt: skip
            if segment is None:
                self._refuse(own)
                return
            self._segments[own] = segment
            try:
                self._open_maps().map(segment.number, segment.fd, bytes_)
            except BaseException:
                self._forget(own)
                raise
            fd = None  # the mapping's own from here on
        except (OSError, MemoryError):  # no address space, or no descriptor for the bell
            self._refuse(own)
        finally:
            if fd is not None:
                os.close(fd)

    def retire(self, numbers: Iterable[int]) -> None:
        """Take note that the client names segments no more. Raises ProtocolError: none of its."""
        for own in numbers:
            if own in self._refused:
                self._refused.remove(own)
                continue
            if own not in self._segments:
                raise ProtocolError(f"segment {own} is gone, which never was")
            self._forget(own)

    def span(
        self, tenant: str, own: int, offset: int, bytes_: int, lease: int, topic: str | None
    ) -> _native.ShmSpan:
        """Return the bytes that a chunk of a message on `topic` names; the lease is out from now.

        Topic None: the message was refused meanwhile, or given up.

        Raises:
            SiraError: the message cannot have them; the lease comes back at once.
        """
        if lease in self._leases:
            raise ProtocolError(f"lease {lease} is out already")
        try:
            segment = self._find(tenant, own, topic)
            if len(self._leases) >= LEASES_MAX:
                raise QuotaExceeded(
                    f"{LEASES_MAX} leases of this connection are out",
                    details={"limit": str(LEASES_MAX)},
                )
        except SiraError:
            self._tell(record.RETURNED, record.leases([lease]))
            raise
        assert self._maps is not None, "it has a segment"
        span = self._maps.span(segment.number, offset, bytes_, lease)
        self._leases[lease] = segment
        self._lent.named(segment)
        return span

    def written_for(self, topic: str, tenant: str) -> list[Segment]:
        """Return the segments that messages on a topic may be written into."""
        found = []
        for segment in self._segments.values():
            if segment.audience == topic and not segment.stopped:
                segment.tenant = segment.tenant or tenant
                if segment.tenant == tenant:
                    found.append(segment)
        return found

    @property
    def limit_reached(self) -> str:
        """Which limit keeps the client from lending more; "": none does."""
        return limit_reached(mine=self._held, every=self._lent.held, limits=self._lent.limits)

    def stop(self, segment: Segment) -> None:
        """Tell the client to write nothing new into a segment."""
        self._tell(record.STOP, record.segments([segment.own]))

    def end(self) -> None:
        """Take note that the connection is over."""
        self._over = self.party.gone = True
        for own in list(self._segments):
            self._forget(own)
        self._close_when_done()

    def close(self) -> None:
        """Listen for leases no more; the node ends."""
        if self._maps is not None:
            self._maps.silence()
            self._loop.remove_reader(self._bell)
            os.close(self._bell)
            self._maps = None
        self._lent.lenders.pop(self, None)

    def _find(self, tenant: str, own: int, topic: str | None) -> Segment:
        if topic is None:
            raise ProtocolError("a chunk of a message that is over")
        segment = self._segments.get(own)
        if segment is None:
            if own in self._refused:
                raise QuotaExceeded(
                    f"segment {own} was not taken: so much memory is lent already",
                    details={"setting": "lent_bytes_max"},
                )
            raise ProtocolError(f"a chunk in segment {own}, which is none")
        if segment.audience != topic:
            raise Denied(
                f"segment {own} is for {segment.audience!r} and not for {topic!r}",
                details={"topic": topic, "audience": segment.audience},
            )
        segment.tenant = segment.tenant or tenant
        if segment.tenant != tenant:
            raise Denied(f"segment {own} is of another tenant", details={"topic": topic})
        return segment

    def _open_maps(self) -> _native.ShmMaps:
        if self._maps is None:
            self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._maps = _native.ShmMaps(self._bell)
            self._loop.add_reader(self._bell, self._came_back)
        return self._maps

    def _refuse(self, own: int) -> None:
        if len(self._refused) >= _REFUSED_MAX:
            raise QuotaExceeded(
                f"{_REFUSED_MAX} segments after it was said that there is no room",
                details={"setting": "lent_segments_max"},
            )
        self._refused.add(own)
        self._tell(record.STOP, record.segments([own]))

    def _forget(self, own: int) -> None:
        segment = self._segments.pop(own)
        if self._maps is not None:
            self._maps.drop(segment.number)
        self._lent.forget(segment, self._held)

    def _came_back(self) -> None:
        """Give the client its leases back."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        assert self._maps is not None, "its bell rang"
        leases = self._maps.ended()
        for lease in leases:
            segment = self._leases.pop(lease, None)  # None: the span was refused
            if segment is not None:
                self._lent.ended(segment, self._held)
        for body in record.leases_in_parts(leases):
            self._tell(record.RETURNED, body)
        self._close_when_done()

    def _close_when_done(self) -> None:
        if self._over and not self._leases:
            self.close()

    def _tell(self, kind: int, body: bytes) -> None:
        self._channel.send(kind, 0, body)


@dataclass(slots=True)
class _Shown:
    """A segment that the client has: for how many of its streams, and how much is out.

    Attributes:
        since_ns: when the first of its leases went out while no other was; CLOCK_MONOTONIC.
    """

    readers: int = 0
    leases: int = 0
    bytes: int = 0
    since_ns: int = 0


class Borrowing:
    """What one connection was shown, and what it has not given back."""

    def __init__(self, lent: Lent, channel: Channel, party: Party) -> None:
        """Begin with nothing."""
        lent.borrowers[self] = None
        self.party = party
        self._lent, self._channel = lent, channel
        self._shown: dict[int, _Shown] = {}
        self._leases: dict[int, _native.ShmSpan] = {}
        self._last_lease = 0

    def holds(self) -> Iterator[tuple[int, Hold]]:
        """Yield what it has, by the number of the segment."""
        for number, shown in self._shown.items():
            reads = shown.readers > 0
            yield number, Hold(shown.leases, shown.bytes, shown.since_ns, reads)

    def show(self, segment: Segment) -> bool:
        """Pass a segment on, unless the client has it; False: not now."""
        shown = self._shown.get(segment.number)
        if shown is None:
            channel = self._channel
            if channel.closed or channel.waiting_descriptors >= _WAITING_DESCRIPTORS_MAX:
                return False
            body = record.segment(segment.number, segment.bytes)
            try:
                channel.send_descriptors(record.SEGMENT, 0, body, (segment.fd,))
            except OSError:  # this process is at its limit of open files, or of those under way
                return False
            shown = self._shown[segment.number] = _Shown()
        shown.readers += 1
        return True

    def hide(self, number: int) -> None:
        """Name a segment to one stream no more."""
        self._shown[number].readers -= 1
        self._retire(number)

    def lend(self, span: _native.ShmSpan) -> int:
        """Keep a span until its lease comes back; 0: there are too many."""
        if len(self._leases) >= LEASES_MAX:
            return 0
        self._last_lease += 1
        self._leases[self._last_lease] = span
        shown = self._shown[span.segment]
        if not shown.leases:
            shown.since_ns = _native.now_ns()
        shown.leases += 1
        shown.bytes += len(span)
        return self._last_lease

    def returned(self, leases: Iterable[int]) -> None:
        """Take leases back. Raises ProtocolError: one is not out."""
        for lease in leases:
            if lease not in self._leases:
                raise ProtocolError(f"lease {lease} came back, which is not out")
            self._end_lease(lease)

    def take_back(self, leases: list[int]) -> None:
        """Forget leases whose frame never left."""
        for lease in leases:
            if lease in self._leases:  # else the connection is over
                self._end_lease(lease)

    def end(self) -> None:
        """Take note that the connection is over: nothing is out any more."""
        self._leases.clear()
        del self._lent.borrowers[self]

    def _end_lease(self, lease: int) -> None:
        span = self._leases.pop(lease)
        shown = self._shown[span.segment]
        shown.leases -= 1
        shown.bytes -= len(span)
        self._retire(span.segment)

    def _retire(self, number: int) -> None:
        """Say that a segment is named no more: when no chunk under way can do it, either."""
        shown = self._shown[number]
        if not shown.readers and not shown.leases:
            del self._shown[number]
            self._channel.send(record.GONE, 0, record.segments([number]))
