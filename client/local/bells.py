"""Waiting: the bells of a client's links, watched by its event loop or by a thread that waits.

A thread that waits for a message sleeps at the bells itself, without the interpreter's lock, so
that no other thread has to run before it goes on. Where several wait one *leads*: it takes what
rings for all of them, and the event loop does not watch meanwhile. The others *follow*: each sleeps
on a lock of its own until something is there for it, or until the leader has left and it may lead.

Nobody sleeps through what came: whoever waits first says that it does, and looks then; whoever has
something for it puts that there first, and looks then who waits. The interpreter's lock makes one
of the two see the other.

A thread that waits while nobody else does goes the short way (`ShmBells.next`, `ShmBells.ask`): all
of that in one call, without a `Waiter`. Whoever has something for it calls `ShmBells.wake`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import threading
from collections.abc import Callable
from typing import Any

from sira import _native
from sira.kernel.errors import BadRequest

_SPIN_VARIABLE = "SIRA_SPIN_US"
_SPIN_US = 50.0
_SPIN_US_MAX = 1e6
# While threads take turns at the bells the loop looks so often whether they still do.
_LOOK_S = 0.05
_ROUNDS_MAX = 16  # in one turn of the loop; then others have it
_CLOSED_S = 0.05  # who waits at closed bells looks so often whether it still has to


def spin_us_max() -> float:
    """Return how long a thread spins before it sleeps, in us; 0: never.

    Raises:
        BadRequest: the environment says no such number.
    """
    asked = os.environ.get(_SPIN_VARIABLE, "")
    if not asked:
        return _SPIN_US
    if not asked.isascii() or not asked.isdigit() or float(asked) > _SPIN_US_MAX:
        raise BadRequest(f"{_SPIN_VARIABLE} = {asked[:40]!r}: microseconds, at most 1 second")
    return float(asked)


class Waiter:
    """A thread that waits for something, as those see it who bring it.

    The thread clears `woken`, looks, and calls `sleep` or `Bells.wait`; all others call `wake`.
    """

    __slots__ = ("_lock", "_thread", "leads", "woken")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self._thread = threading.get_ident()
        self.leads: Bells | None = None
        self.woken = False

    def wake(self) -> None:
        """Have the thread look again. From any thread, also its own."""
        self.woken = True
        leads = self.leads
        if leads is None:
            self.nudge()
        elif threading.get_ident() != self._thread:
            leads.kick()

    def nudge(self) -> None:
        """End its sleep."""
        with contextlib.suppress(RuntimeError):  # it was told before
            self._lock.release()

    def sleep(self, timeout_s: float) -> None:
        """Sleep until woken or `timeout_s` (inf: no limit) is over; may end sooner."""
        if not self.woken:
            self._lock.acquire(timeout=-1 if timeout_s == math.inf else timeout_s)


class _Kept(threading.local):
    waiter: Waiter | None = None


_kept = _Kept()


def waiter_here() -> Waiter:
    """Return a waiter of this thread; `Bells.leave` or `keep` gives it back."""
    waiter, _kept.waiter = _kept.waiter, None  # a signal's handler may wait, too
    return waiter if waiter is not None else Waiter()


def keep(waiter: Waiter) -> None:
    """Let this thread wait with it again. It may still be woken for nothing."""
    _kept.waiter = waiter


class Bells:
    """The bells of one client. Belongs to its loop but for `wait`, `leave` and `kick`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        rang: Callable[[list[int]], None],
        waiting: dict[bytes, Any],
    ) -> None:
        """Watch from now on.

        Args:
            rang: takes the tokens of those that rang; in whichever thread is waiting.
            waiting: the requests that wait for a reply, which may ring.
        Raises:
            OSError: no descriptors are to be had. BadRequest: the environment is wrong.
        """
        self._loop, self._rang, self._waiting = loop, rang, waiting
        self.native = _native.ShmBells(spin_us_max=spin_us_max())
        self._followers: dict[Waiter, None] = {}
        self.native.left, self.native.waiting = self._left, waiting
        self.native.followers = self._followers
        self._bells: _native.ShmBells | None = self.native
        self._turns_before = 0
        self._asked = False
        self._timer: asyncio.TimerHandle | None = None
        self._watch()

    def add(self, reader: _native.ShmReader) -> int:
        """Listen to a link; return its token."""
        assert self._bells is not None, "not closed"
        token = self._bells.add(reader)
        self._listen()
        self.kick()  # a wait that goes on has not told its writer to ring
        return token

    def remove(self, token: int) -> None:
        """Listen no more."""
        if self._bells is not None:
            self._bells.remove(token)

    # ---- on the loop -----------------------------------------------------------------------------

    def _watch(self) -> None:
        if self.native.is_watched or self._bells is None:
            return
        self.native.is_watched = True
        self._loop.add_reader(self._bells.fileno(), self._listen)
        self._listen()

    def needed(self) -> None:
        """Somebody on the loop begins to wait: watch, unless a thread does."""
        if not self.native.is_watched and not self.native.is_led:
            self._watch()

    def _listen(self) -> None:
        """Take what rang, until all is quiet and every writer will ring again."""
        for _ in range(_ROUNDS_MAX):
            if self._bells is None:
                return
            if self.native.is_led:  # what rang is the leader's to take, who is awake by it, too
                self._step_back()
                return
            tokens = self._bells.wait(0.0)
            if tokens:
                self._rang(tokens)
            if self._bells is None or self._bells.sleep():
                return
        self._loop.call_soon(self._listen)

    def _step_back(self) -> None:
        """A thread leads: the loop does not watch as long as threads do."""
        self._asked = False
        if not self.native.is_watched or (self._waiting and not self.native.is_led):
            return
        self._unwatch()
        self._turns_before = self.native.turns
        if self._timer is None:
            self._timer = self._loop.call_later(_LOOK_S, self._look)

    def _look(self) -> None:
        """Watch again where no thread has for a while."""
        self._timer = None
        if self.native.is_watched or self._bells is None:
            return
        if self.native.turns == self._turns_before and not self.native.is_led:
            self._watch()
            return
        self._turns_before = self.native.turns
        self._timer = self._loop.call_later(_LOOK_S, self._look)

    def _unwatch(self) -> None:
        if self.native.is_watched:
            assert self._bells is not None, "not closed"
            self.native.is_watched = False
            self._loop.remove_reader(self._bells.fileno())

    def close(self) -> None:
        """Give the descriptors back; whoever waits looks again. A second call does nothing."""
        bells = self._bells
        if bells is None:
            return
        self._unwatch()
        self._bells = None  # a leader holds it until it wakes
        bells.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for each in list(self._followers):
            each.nudge()

    # ---- in threads that wait --------------------------------------------------------------------

    def wait(self, waiter: Waiter, timeout_s: float) -> None:
        """Wait until there may be something for `waiter`, or `timeout_s` (inf: no limit) is over.

        May end sooner. To be called again or followed by `leave`. In the waiter's own thread.
        """
        bells = self._bells
        if bells is None:
            waiter.sleep(min(timeout_s, _CLOSED_S))
            return
        if waiter.leads is None and not self._begin_to_lead(waiter):
            try:
                self._followers[waiter] = None
                # Said first, looked at second: the leader may have left in between.
                if not self._begin_to_lead(waiter):
                    waiter.sleep(timeout_s)
                    return
            finally:
                self._followers.pop(waiter, None)
        if waiter.woken:
            return
        tokens = bells.wait(-1.0 if timeout_s == math.inf else timeout_s)
        if tokens:
            self._rang(tokens)

    def take(
        self, waiter: Waiter, mailbox: _native.Mailbox, timeout_s: float
    ) -> _native.Message | None:
        """Wait as `wait` does, and return the next message of `mailbox`, if one has come."""
        bells = self._bells
        if bells is None or (waiter.leads is None and not self._begin_to_lead(waiter)):
            self.wait(waiter, timeout_s)
            return None
        if waiter.woken:
            return None
        found = bells.take(mailbox, -1.0 if timeout_s == math.inf else timeout_s)
        if not isinstance(found, list):
            return found
        if found:
            self._rang(found)
        return None

    def _begin_to_lead(self, waiter: Waiter) -> bool:
        waiter.leads = self  # first: whatever interrupts us, `leave` gives back what we have
        if not self.native.lead():
            waiter.leads = None
            return False
        if self.native.is_watched and not self._asked:
            self._asked = True
            self._loop.call_soon_threadsafe(self._step_back)
        return True

    def leave(self, waiter: Waiter) -> None:
        """Wait no more: another thread may lead."""
        if waiter.leads is not None:
            waiter.leads = None
            self.native.leave()
        self._left()

    def _left(self) -> None:
        """Hand over to others, where a thread waits no more."""
        if self.native.is_led:
            return
        # Also where it was a follower: it may be the one that was told to lead.
        if self._followers:
            for each in list(self._followers):
                each.nudge()
                break
            return
        bells = self._bells
        if bells is None:
            return
        if self.native.is_watched:
            # The loop hears what rings only where writers ring: who led may have been rung last.
            if not bells.sleep():
                self._loop.call_soon_threadsafe(self._listen)
        elif self._waiting:
            self._loop.call_soon_threadsafe(self._watch)

    def kick(self) -> None:
        """Have the leader look again. From any thread."""
        bells = self._bells
        if bells is not None:
            bells.kick()
