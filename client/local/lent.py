"""Tensors by reference on the node's socket: what a client lends, and what it borrows.

`LentWay` is one connection's part: the records that pass segments and leases, and the mappings of
what came. `Lender` is the client's: it outlives connections, and gives the outbox memory to write
large messages into (arenas.py decides where).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable

from sira import _native
from sira.client.local.arenas import Arenas, shm_bytes_max
from sira.client.local.links import LinkWay
from sira.kernel.errors import ProtocolError, QuotaExceeded
from sira.kernel.local import record
from sira.kernel.local.channel import Channel

_log = logging.getLogger("sira.client")

# How often is looked at what may go back; and at leases of an outbox that are for nobody any more.
_TEND_S = 1.0
# A process that may open no more files borrows nothing for so long: each segment takes one.
_NO_FILES_S = 60.0
_borrows_at_s = 0.0


def new_bell() -> int:
    """Return an eventfd that spans ring at their end; -1: this client borrows nothing.

    Raises:
        BadRequest: the environment says something that cannot be.
    """
    if not shm_bytes_max() or time.monotonic() < _borrows_at_s:
        return -1
    try:
        return _native.shm_bell()
    except OSError:  # a system, or a sandbox, that has none
        return -1


class LentWay:
    """What is lent and borrowed on one connection. Belongs to its loop."""

    def __init__(
        self,
        channel: Channel,
        loop: asyncio.AbstractEventLoop,
        bell: int,
        links: LinkWay | None = None,
    ) -> None:
        """Begin; both sides have said that they lend.

        Args:
            bell: an eventfd, taken over.
            links: takes what is of links, where both sides want these.
        """
        self._channel, self._loop, self._bell = channel, loop, bell
        self.links = links
        self.maps = _native.ShmMaps(bell)
        self.returned: Callable[[list[int]], None] | None = None  # takes leases that are over
        self.stopped: Callable[[list[int]], None] | None = None  # takes segments not to be used
        loop.add_reader(bell, self._rung)

    def take(self, kind: int, descriptors: int, body: bytes) -> None:
        """Take one record of the node in.

        Raises:
            ProtocolError: the record is not what it should be. LinkCorrupt: its descriptor is not.
            QuotaExceeded: this process may open no more files.
        """
        if kind >= record.LINK and self.links is not None:
            self.links.take(kind, descriptors, body)
        elif kind == record.SEGMENT:
            try:
                passed = self._channel.take_descriptors(descriptors)
            except QuotaExceeded:
                # Chunks in it could not be read: the next connection asks for none.
                global _borrows_at_s
                _borrows_at_s = time.monotonic() + _NO_FILES_S
                raise
            try:
                segment = record.read_segment(body, descriptors)
                if segment.link and self.links is not None:
                    self.links.map(segment, passed[0])
                else:
                    self.maps.map(segment.segment, passed[0], segment.bytes)
            except BaseException:  # not taken over
                for each in passed:
                    os.close(each)
                raise
        elif descriptors:
            self._channel.refuse_descriptors(descriptors)
        elif kind == record.GONE:
            link, segments = record.read_segments_of(body)
            if link and self.links is not None:
                self.links.drop(link, segments)
            for number in () if link else segments:
                self.maps.drop(number)
        elif kind == record.RETURNED:
            if self.returned is not None:
                self.returned(record.read_leases(body))
        elif kind != record.STOP:
            raise ProtocolError(f"a record of kind {kind} from the node")
        elif self.stopped is not None:
            self.stopped(record.read_segments(body))

    def _rung(self) -> None:
        """Give leases back: views of them have gone, in whichever thread."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._bell, 8)
        for body in record.leases_in_parts(self.maps.ended()):
            self._channel.send(record.RETURNED, 0, body)

    def show(self, segment: int, descriptor: int, size_bytes: int, audience: str) -> None:
        """Pass a segment to the node. Raises OSError: this process may open no more files."""
        body = record.segment(segment, size_bytes, audience)
        self._channel.send_descriptors(record.SEGMENT, 0, body, [descriptor])

    def gone(self, segments: list[int]) -> None:
        """Say that no message will be in these any more."""
        self._channel.send(record.GONE, 0, record.segments(segments))

    def close(self) -> None:
        """Lend and borrow no more; what is looked at stays good. A second call does nothing."""
        if self._bell < 0:
            return
        self.maps.silence()
        self._loop.remove_reader(self._bell)
        os.close(self._bell)
        self._bell = -1
        self.returned = self.stopped = None


class Lender:
    """What a client lends, whatever it is connected to. Belongs to its loop but for `place`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, outbox: _native.Outbox) -> None:
        """Prepare; nothing is lent before `begin`.

        Raises:
            BadRequest: the environment says something that cannot be.
        """
        self._loop, self._outbox = loop, outbox
        self._thread = threading.get_ident()
        self.arenas = Arenas(shm_bytes_max())
        self._way: LentWay | None = None
        self._told = True  # False: the loop is going to look for news
        self._timer: asyncio.TimerHandle | None = None

    # ---- messages --------------------------------------------------------------------------------

    def place(self, topic: str, size_bytes: int) -> _native.ShmChunk | None:
        """Return memory for a message on `topic`; None: it is copied along. For any thread.

        The node has to know a segment before the first message in it, which only the loop can tell:
        in other threads the first message in each is copied along.
        """
        try:
            found = self.arenas.take(topic, size_bytes, time.monotonic_ns())
        except OSError as error:  # no such memory in this system or sandbox, or no file more
            _log.warning("messages are copied: no shared memory to be had (%s)", error)
            self.arenas.pause()
            return None
        if found is None:
            return None
        chunk, is_known = found
        if threading.get_ident() != self._thread:
            if self._told and (not is_known or self._timer is None):
                self._told = False
                self._loop.call_soon_threadsafe(self._look)
            return chunk if is_known else None
        if self._timer is None:
            self._tend_later()
        return chunk if is_known or self._tell() else None

    def _look(self) -> None:
        self._told = True
        self._tell()
        if self._timer is None:
            self._tend_later()

    def _tell(self) -> bool:
        """Tell the node what it does not know yet; False: it cannot be told."""
        way = self._way
        if way is None:
            return False
        news = self.arenas.news()
        if news.gone:
            way.gone(news.gone)
        try:
            for each in news.shown:
                way.show(*each)
        except OSError as error:
            _log.warning("messages are copied: a segment cannot be passed on (%s)", error)
            self.arenas.pause()
            return False
        return True

    # ---- the way to the node ---------------------------------------------------------------------

    def begin(self, way: LentWay, limits: dict[str, int]) -> None:
        """Lend on `way` from now on.

        Args:
            limits: those of the node, as it told them.
        """
        self._way = way
        way.returned, way.stopped = self._outbox.returned, self._stop
        self.arenas.begin(
            bytes_max=limits.get("lent_bytes_max"), segments_max=limits.get("lent_segments_max")
        )
        self._outbox.placer = self.place
        self._tell()
        if self._timer is None and self.arenas.segment_bytes:
            self._tend_later()

    def lost(self) -> None:
        """Tell nobody anything until the next `begin`: the way is lost.

        What goes past the node still finds memory, in segments that its readers have mapped.
        """
        self._way = None

    def end(self) -> None:
        """Lend no more: the client is at its end."""
        self._way = None
        self._outbox.placer = None
        self.arenas.end()

    @property
    def lends(self) -> bool:
        """Whether messages may name memory on the way that there is."""
        return self._way is not None

    def _stop(self, segments: list[int]) -> None:
        self.arenas.stop(segments, time.monotonic_ns())

    def _tend_later(self) -> None:
        self._timer = self._loop.call_later(_TEND_S, self._tend)

    def _tend(self) -> None:
        self._timer = None
        waits = self.arenas.tend(time.monotonic_ns())
        self._tell()
        if waits:
            self._tend_later()
