"""Lets time pass for the bus: often while something waits, seldom otherwise, never for nothing."""

from __future__ import annotations

import asyncio

from sira import _native
from sira.kernel.bus import Bus
from sira.kernel.metrics import Loop

# What waits for room or runs out of time is looked at so often: the precision of `wait_ms`, of
# expiry and of stalls.
_BUSY_S = 0.05
_QUIET_S = 0.5  # only kept messages are there
_MORE_S = 0.002  # there is more to do at once, and others want the loop in between
# What waits for a limit goes on when there is room, and not more often than this: others want the
# loop, too. A burst that is shorter than this is not used up.
_RELEASE_S_MIN = 0.001
# Nor does it take more than a fifth of the loop's time, however many topics it waits at.
_REST = 4.0


class Ticker:
    """One timer on the loop, armed only while there is something to wait for."""

    def __init__(self, bus: Bus, loop: Loop) -> None:
        self._bus, self._held = bus, loop
        self._timer: asyncio.TimerHandle | None = None
        self._slow = False  # the timer is armed for later than _BUSY_S
        self._release: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self.closed = False
        bus.hub.hurry = self._release_in_time

    def hurry(self) -> None:
        """Something came: see to it that time passes. Cheap, called for every frame."""
        if self._timer is None or self._slow:
            self._arm(_BUSY_S)
        if self._bus.hub.due_ns:
            self._release_in_time()

    def close(self) -> None:
        """Stop."""
        self.closed = True
        self._bus.hub.hurry = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._release is not None:
            self._release.cancel()
            self._release = None

    def _release_in_time(self, rest_s: float = _RELEASE_S_MIN) -> None:
        """See to it that what waits for a limit goes on when there is room, not before `rest_s`."""
        due_ns = self._bus.hub.due_ns
        if not due_ns or self.closed:
            return
        in_s = max(rest_s, (due_ns - _native.now_ns()) / 1e9)
        if self._release is not None:
            if self._release.when() <= self._loop.time() + in_s:
                return
            self._release.cancel()
        self._release = self._loop.call_later(in_s, self._do_release)

    def _do_release(self) -> None:
        self._release = None
        began_ns = _native.now_ns()
        self._bus.hub.release(began_ns)
        took_ns = _native.now_ns() - began_ns
        self._held.held(took_ns)
        self._release_in_time(max(_RELEASE_S_MIN, _REST * took_ns / 1e9))

    def _arm(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._slow = delay_s > _BUSY_S
        if not self.closed:
            self._timer = self._loop.call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        bus = self._bus
        began_ns = _native.now_ns()
        more = bus.tick(began_ns)
        self._held.held(_native.now_ns() - began_ns)
        self._release_in_time()
        if more:
            self._arm(_MORE_S)
            return
        stats = bus.hub.stats
        kept = bus.topics.retained_count
        if stats["parked"] or stats["transfers"] or stats["messages_held"] > kept:
            self._arm(_BUSY_S)
        elif stats["messages_held"]:
            self._arm(_QUIET_S)
        elif len(bus.topics) or bus.clients.lingering:
            self._arm(max(_QUIET_S, min(60.0, bus.settings.topic_idle_s / 4)))
