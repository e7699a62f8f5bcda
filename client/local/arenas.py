"""What a client lends: one arena for each audience, so that nobody maps what is not for them.

Owns the memory of all large messages that leave by reference. Decides which arena a message is
written into, which segments a node has to be shown, and which memory goes back; no socket, no
clock, no event loop. Memory that somebody may still read is never written again: when it cannot be
known who reads it any more (a lost connection), or who may (`stop`), its arena takes nothing new,
and ends when what is in it has gone.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from sira import _native
from sira.kernel.errors import BadRequest, MessageTooLarge, QueueFull

_SWITCH_VARIABLE = "SIRA_SHM"
_BYTES_MAX_VARIABLE = "SIRA_SHM_BYTES_MAX"
_BYTES_MIN_VARIABLE = "SIRA_SHM_BYTES_MIN"
# What a client lends at most. A burst needs it for as long as readers look; ten idle seconds later
# it is back.
_BYTES_MAX = 1 << 30
# Shorter bodies are copied along: a lease costs as much as copying so much.
_BYTES_MIN = 64 << 10
WARM_BYTES = 8 << 20  # of all that is idle, kept, so that a pause costs no page faults
IDLE_NS = 10_000_000_000  # idle for so long is beyond the reserve
# Where the node did not want a new segment, none is made for so long.
REST_NS = 1_000_000_000


def shm_bytes_max() -> int:
    """Return how many bytes a client lends at most; 0: none, and it borrows none.

    Raises:
        BadRequest: the environment says something else than a switch and a number.
    """
    switch = os.environ.get(_SWITCH_VARIABLE, "") or "on"
    if switch not in ("on", "off"):
        raise BadRequest(f"{_SWITCH_VARIABLE} = {switch[:40]!r} is neither on nor off")
    found = _bytes(_BYTES_MAX_VARIABLE, _BYTES_MAX)
    return found if switch == "on" else 0


def shm_bytes_min() -> int:
    """Return from how many bytes on a body is lent. Raises BadRequest."""
    return max(1, _bytes(_BYTES_MIN_VARIABLE, _BYTES_MIN))


def _bytes(variable: str, default: int) -> int:
    asked = os.environ.get(variable, "")
    if not asked:
        return default
    if not asked.isascii() or not asked.isdigit() or len(asked) > 18:
        raise BadRequest(f"{variable} = {asked[:40]!r} is no number of bytes")
    return int(asked)


class News(NamedTuple):
    """What a node has to be told."""

    shown: list[tuple[int, int, int, str]]  # segment, descriptor (borrowed), bytes, audience
    gone: list[int]  # segments that no message will be in any more


class _Arena:
    """The memory for one audience, and which of its segments the node knows."""

    __slots__ = ("audience", "grown_ns", "known", "looked_at", "shm", "used_ns")

    def __init__(self, audience: str, bytes_max: int, now_ns: int) -> None:
        self.audience = audience
        self.shm = _native.ShmArena(bytes_max, warm_bytes=0)  # all of them share one reserve
        self.known: set[int] = set()
        self.looked_at = 0  # segments made when `known` was
        self.grown_ns = self.used_ns = now_ns

    @property
    def segments(self) -> int:
        return self.shm.made_total - self.shm.retired_total

    @property
    def empty(self) -> bool:
        return not self.shm.asked_bytes


class Arenas:
    """The arenas of one client. For any thread."""

    def __init__(self, bytes_max: int) -> None:
        """Make no memory yet.

        Args:
            bytes_max: most bytes of all segments together.
        """
        self._asked_bytes_max = self._bytes_max = bytes_max
        self._segments_max = 1 << 32
        self._lock = threading.RLock()
        self._live: OrderedDict[str, _Arena] = OrderedDict()  # by audience, last used last
        self._leaving: list[_Arena] = []
        self._rests_until_ns = 0  # no segment is made before
        self._gone: list[int] = []
        self._is_on = False
        # Takes back what has been done with and not looked at yet.
        self.collect: Callable[[], None] = _nothing

    @property
    def bytes_max(self) -> int:
        """Most bytes of all segments together."""
        return self._bytes_max

    @property
    def segment_bytes(self) -> int:
        """Bytes of all segments."""
        with self._lock:
            return sum(each.shm.segment_bytes for each in self._all())

    @property
    def lent_bytes(self) -> int:
        """Bytes of all messages that are in them."""
        with self._lock:
            return sum(each.shm.asked_bytes for each in self._all())

    def _all(self) -> Iterable[_Arena]:
        return (*self._live.values(), *self._leaving)

    # ---- messages --------------------------------------------------------------------------------

    def take(
        self, audience: str, size_bytes: int, now_ns: int
    ) -> tuple[_native.ShmChunk, bool] | None:
        """Return memory for a message, and whether its segment is known to the node.

        Where it is not, the node has to be told first (`news`). None: this message is to be copied:
        nothing is lent now, or the limit is reached until readers give back.

        Raises:
            OSError: there is no such memory here. ConnectionClosed: this process was forked off.
        """
        with self._lock:
            if not self._is_on or size_bytes > self._bytes_max:
                return None
            arena = self._live.get(audience)
            rests = now_ns < self._rests_until_ns
            if arena is None:
                if rests:
                    return None
                arena = self._live[audience] = _Arena(audience, self._bytes_max, now_ns)
            else:
                self._live.move_to_end(audience)
            arena.used_ns = now_ns
            made = arena.shm.made_total
            try:
                chunk = arena.shm.reuse(size_bytes)
                if chunk is None:  # new memory costs its pages: first what readers are done with
                    self.collect()
                    chunk = arena.shm.take(size_bytes)
            except (QueueFull, MessageTooLarge):
                return None
            if arena.shm.made_total != made:
                arena.grown_ns = now_ns
                if rests or not self._make_way(arena, now_ns):
                    del chunk
                    arena.shm.retire(now_ns, 0)
                    return None
            return chunk, arena.looked_at == arena.shm.made_total

    def _make_way(self, arena: _Arena, now_ns: int) -> bool:
        """Give back what is idle until all is within the limits; whether it is."""
        if self._fits(*self._held()):
            return True
        self._sweep()
        size_bytes, segments = self._held()
        for each in list(self._live.values()):  # the one that was used longest ago first
            if self._fits(size_bytes, segments):
                break
            if each is arena:
                continue
            size_bytes -= each.shm.segment_bytes
            segments -= each.segments
            if each.empty:
                self._forget(each)
                continue
            each.shm.retire(now_ns, 0)
            size_bytes += each.shm.segment_bytes
            segments += each.segments
        return self._fits(size_bytes, segments)

    def _held(self) -> tuple[int, int]:
        every = tuple(self._all())
        return sum(each.shm.segment_bytes for each in every), sum(each.segments for each in every)

    def _fits(self, size_bytes: int, segments: int) -> bool:
        return size_bytes <= self._bytes_max and segments <= self._segments_max

    # ---- the node --------------------------------------------------------------------------------

    def begin(self, *, bytes_max: int | None = None, segments_max: int | None = None) -> None:
        """Lend from now on, to a node that knows no segment yet.

        Args:
            bytes_max, segments_max: what it takes of one client; None: it does not say.
        """
        with self._lock:
            self.end()
            asked = self._asked_bytes_max
            self._bytes_max = asked if bytes_max is None else min(asked, bytes_max)
            self._segments_max = 1 << 32 if segments_max is None else segments_max
            self._is_on = True

    def pause(self) -> None:
        """Lend no more until `begin`; what the node knows stays so until it is gone."""
        with self._lock:
            self._leaving.extend(self._live.values())
            self._live.clear()
            self._is_on = False

    def end(self) -> None:
        """Forget the node. Messages that are still to be sent keep their memory."""
        with self._lock:
            self.pause()
            self._sweep()
            for each in self._leaving:
                each.known.clear()
                each.looked_at = 0
            self._gone.clear()
            self._rests_until_ns = 0

    def stop(self, segments: Iterable[int], now_ns: int) -> None:
        """Write nothing more into the arenas of these: fewer may read them, or the node is full."""
        with self._lock:
            stopped = set(segments)
            for each in list(self._live.values()):
                if not each.known.isdisjoint(stopped):
                    self._leaving.append(self._live.pop(each.audience))
                    if now_ns - each.grown_ns < REST_NS:  # perhaps the node has no room for more
                        self._rests_until_ns = now_ns + REST_NS

    def news(self) -> News:
        """Return what the node was not told yet; it is taken for told."""
        shown: list[tuple[int, int, int, str]] = []
        with self._lock:
            self._collect()
            for each in self._all() if self._is_on else ():
                if each.looked_at == each.shm.made_total:
                    continue
                each.looked_at = each.shm.made_total
                for segment, descriptor, size_bytes in each.shm.segments():
                    if segment not in each.known:
                        each.known.add(segment)
                        shown.append((segment, descriptor, size_bytes, each.audience))
            gone, self._gone = self._gone, []
        return News(shown, gone)

    # ---- giving back -----------------------------------------------------------------------------

    def tend(self, now_ns: int) -> bool:
        """Give back what has been idle for long; whether there is more to give back later."""
        with self._lock:
            self._sweep()
            kept_bytes = 0
            waits = bool(self._leaving)
            for each in list(reversed(self._live.values())):  # last used first
                if not each.empty:
                    each.shm.retire(now_ns, IDLE_NS)
                    waits = True
                elif now_ns - each.used_ns < IDLE_NS:
                    waits = True
                elif kept_bytes + each.shm.segment_bytes > WARM_BYTES:
                    self._forget(each)
                else:
                    kept_bytes += each.shm.segment_bytes
            return waits

    def _sweep(self) -> None:
        """Let go of what takes nothing new and is empty."""
        for each in self._leaving:
            each.shm.retire(0, 0)  # what is empty of it, however short a time
            if each.empty:
                self._say_gone(each)
        self._leaving = [each for each in self._leaving if not each.empty]

    def _forget(self, arena: _Arena) -> None:
        del self._live[arena.audience]
        self._say_gone(arena)

    def _say_gone(self, arena: _Arena) -> None:
        self._gone.extend(arena.known)
        arena.known.clear()

    def _collect(self) -> None:
        """Take note of the segments that arenas have closed by themselves."""
        for each in self._all():
            for segment in each.shm.retired():
                if segment in each.known:
                    each.known.discard(segment)
                    self._gone.append(segment)


def _nothing() -> None:
    """Take nothing back: nobody was lent anything past the node."""
