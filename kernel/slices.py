"""Long work, a little at a time: others have the loop in between."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Generic, TypeVar, cast

T = TypeVar("T")
Soon = Callable[[Callable[[], None]], object]


class Slices:
    """Work that yields whenever it has held the loop for long enough.

    One slice of one work is done in a turn of the loop, however many works there are: each in turn.
    """

    def __init__(self, soon: Soon) -> None:
        """Begin with none. `soon` runs a function after the current call (`loop.call_soon`)."""
        self._soon = soon
        self._waiting: deque[Iterator[None]] = deque()
        self._asked = False  # a turn is on its way
        self.running = 0  # begun and not finished

    def run(self, work: Iterator[None]) -> None:
        """Do the work up to its first yield now, and the rest soon."""
        self.running += 1
        self._step(work)

    def _step(self, work: Iterator[None]) -> None:
        more = False
        try:
            more = next(work, self) is None
        finally:
            if not more:
                self.running -= 1
        if more:
            self._waiting.append(work)
            self._ask_for_turn()

    def _turn(self) -> None:
        self._asked = False
        work = self._waiting.popleft()
        if self._waiting:  # before the step, which may fail
            self._ask_for_turn()
        self._step(work)

    def _ask_for_turn(self) -> None:
        if not self._asked:
            self._asked = True
            self._soon(self._turn)


class Arrivals(Generic[T]):
    """Tells whoever goes through very many things in slices what comes meanwhile."""

    def __init__(self) -> None:
        """Begin with nobody to tell."""
        self._watches: list[deque[T]] = []

    def note(self, thing: T) -> None:
        """Tell all that one has come."""
        for watch in self._watches:
            watch.append(thing)

    @contextlib.contextmanager
    def gathered(self) -> Iterator[deque[T]]:
        """Gather what comes meanwhile."""
        fresh: deque[T] = deque()
        self._watches.append(fresh)
        try:
            yield fresh
        finally:
            # By identity: two that are empty are equal.
            self._watches = [watch for watch in self._watches if watch is not fresh]


def at_once(work: Generator[None, None, T]) -> T:
    """Do work in slices without a pause, for a caller whose share of it is small."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return cast("T", end.value)


class Pace:
    """Lets others have the loop in the middle of a long walk. Belongs to the loop's thread."""

    def __init__(self, *, slice_s: float, rest_s: float = 0.0) -> None:
        """Begin.

        Args:
            slice_s: CPU of the thread after which others have it.
            rest_s: for how long at a time, at least.
        """
        self._slice_s, self._rest_s, self._since_s = slice_s, rest_s, time.thread_time()
        self._took_s = 0.0

    async def step(self) -> None:
        """Rest, if the walk has gone on for long."""
        if time.thread_time() - self._since_s >= self._slice_s:
            await self.rest()

    async def rest(self) -> None:
        """Rest."""
        self._took_s += time.thread_time() - self._since_s
        await asyncio.sleep(self._rest_s)
        self._since_s = time.thread_time()

    def took_s(self) -> float:
        """Return the CPU of the walk so far, and of nobody else."""
        return self._took_s + time.thread_time() - self._since_s
