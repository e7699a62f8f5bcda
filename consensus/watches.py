"""Who is told what changed: each watch goes through the last changes at its own pace.

Nothing is queued for a watch: it holds a revision, and reads on from there in what is kept for all.
One that has fallen behind it begins anew with all rows, so a slow one costs no memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from sira.consensus.rows import Change, Row, Rows
from sira.kernel.errors import ConnectionClosed, SiraError

CHANGES_MAX = 65_536
CHANGES_BYTES_MAX = 64 << 20
_REVISIONS_A_LOOK = 512  # what a watch goes through before others have the loop


@dataclass(frozen=True, slots=True)
class Update:
    """What a watch is told at once.

    Attributes:
        revision: of the state after it: a watch that begins there misses nothing.
        rows: all there are, in order of keys; None: only what changed.
        changes: in order; empty where `rows` are given.
    """

    revision: int
    rows: tuple[Row, ...] | None = None
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True)
class _Step:
    """What one revision changed."""

    revision: int
    changes: tuple[Change, ...]
    cost_bytes: int


class Watches:
    """All watches of a state. Belongs to the loop."""

    def __init__(
        self,
        rows: Callable[[], Rows],
        *,
        changes_max: int = CHANGES_MAX,
        bytes_max: int = CHANGES_BYTES_MAX,
    ) -> None:
        """Tell of the rows that `rows` gives.

        Args:
            rows: the applied state.
            changes_max, bytes_max: what is kept for those who are behind.
        """
        self.rows = rows
        self._changes_max, self._bytes_max = changes_max, bytes_max
        self._steps: deque[_Step] = deque()  # of consecutive revisions
        self._count = self._bytes = 0
        self._watching: dict[str, set[Watch]] = {}
        self._waiting: dict[tuple[str, str], list[asyncio.Future[None]]] = {}
        self._listeners: list[Callable[[int, tuple[Change, ...]], None]] = []
        self._error: SiraError | None = None

    def tell(self, revision: int, changes: tuple[Change, ...]) -> None:
        """Take note of what a revision changed, and wake who watches it."""
        cost = sum(each.cost_bytes for each in changes)
        self._steps.append(_Step(revision, changes, cost))
        self._count += len(changes)
        self._bytes += cost
        while self._steps and (self._count > self._changes_max or self._bytes > self._bytes_max):
            gone = self._steps.popleft()
            self._count -= len(gone.changes)
            self._bytes -= gone.cost_bytes
        for listener in self._listeners:
            try:
                listener(revision, changes)
            except Exception as error:  # what was applied stays applied
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "a listener of the tables failed", "exception": error}
                )
        for table in {each.table for each in changes}:
            for watch in self._watching.get(table, ()):
                watch.wake()
        if self._waiting:
            for each in changes:
                for future in self._waiting.pop((each.table, each.key), ()):
                    if not future.done():
                        future.set_result(None)

    def listen(self, call: Callable[[int, tuple[Change, ...]], None]) -> None:
        """Let `call` be told each step; see `Tables.listen`."""
        self._listeners.append(call)

    async def changed(self, table: str, key: str) -> None:
        """Wait until a row changes next.

        Raises:
            ConnectionClosed: the tables end.
        """
        if self._error is not None:
            raise self._error
        future = asyncio.get_running_loop().create_future()
        self._waiting.setdefault((table, key), []).append(future)
        try:
            await future
        finally:
            waiting = self._waiting.get((table, key))
            if waiting is not None and future in waiting:
                waiting.remove(future)
                if not waiting:
                    del self._waiting[table, key]

    def watch(self, table: str, prefix: str, since: int | None) -> Watch:
        """Return a watch; see `Tables.watch`."""
        watch = Watch(self, table, prefix, since)
        self._watching.setdefault(table, set()).add(watch)
        return watch

    def end(self, error: SiraError | None = None) -> None:
        """End all watches: their next look raises."""
        self._error = error or ConnectionClosed("the tables of this node have ended")
        for watches in list(self._watching.values()):
            for watch in watches:
                watch.wake()
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(self._error)
        self._waiting.clear()

    # ---- for watches -----------------------------------------------------------------------------

    def forget(self, watch: Watch) -> None:
        """Tell it nothing any more."""
        watching = self._watching.get(watch.table)
        if watching is not None:
            watching.discard(watch)
            if not watching:
                del self._watching[watch.table]

    def check(self) -> None:
        """Raise what has ended all watches."""
        if self._error is not None:
            raise self._error

    def after(self, revision: int) -> list[_Step] | None:
        """Return the next steps after a revision; None: they are not kept any more."""
        newest = self.rows().revision
        if revision >= newest:
            return []
        if not self._steps or self._steps[0].revision > revision + 1:
            return None
        first = revision + 1 - self._steps[0].revision
        end = min(len(self._steps), first + _REVISIONS_A_LOOK)
        return [self._steps[at] for at in range(first, end)]


class Watch:
    """Changes of the rows of one table under a prefix; an async iterator of `Update`.

    Leave it with `close`, or by `with`.
    """

    def __init__(self, watches: Watches, table: str, prefix: str, since: int | None) -> None:
        """Begin after revision `since`; None, or not kept any more: with all rows."""
        self.table, self._prefix = table, prefix
        self._watches, self._at = watches, since
        self._woken = asyncio.Event()
        self._closed = False

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close."""
        self.close()

    async def __anext__(self) -> Update:
        """Wait for what comes next.

        Raises:
            StopAsyncIteration: it was closed.
            ConnectionClosed: the tables have ended.
        """
        while not self._closed:
            self._watches.check()
            self._woken.clear()
            found = self._look()
            if found is not None:
                return found
            if self._at is not None and self._at < self._watches.rows().revision:
                await asyncio.sleep(0)  # there is more to go through
                continue
            await self._woken.wait()
        raise StopAsyncIteration

    def close(self) -> None:
        """End it."""
        self._closed = True
        self._watches.forget(self)
        self._woken.set()

    def wake(self) -> None:
        """Look again."""
        self._woken.set()

    def _look(self) -> Update | None:
        """Return what there is after where it stands; None: nothing yet."""
        rows = self._watches.rows()
        # A revision of the future is one of a state that was lost, or none at all.
        steps = (
            None if self._at is None or self._at > rows.revision else self._watches.after(self._at)
        )
        if steps is None:
            self._at = rows.revision
            return Update(self._at, rows=tuple(rows.scan(self.table, self._prefix)))
        if not steps:
            return None
        self._at = steps[-1].revision
        changes = tuple(
            each
            for step in steps
            for each in step.changes
            if each.table == self.table and each.key.startswith(self._prefix)
        )
        return Update(self._at, changes=changes) if changes else None
