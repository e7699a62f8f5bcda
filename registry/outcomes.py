"""How calls have ended, as clients tell: gathered, then written together into `feedback`.

What worked stays in memory as long as nothing speaks against the capability: it only says how much
a failure weighs later. So a registry where all is well writes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

from sira.consensus.tables import Tables
from sira.kernel.errors import Conflict, SiraError
from sira.registry import feedback
from sira.registry.rank.feedback import COUNT_MAX, WEIGHTS, Record, after_calls, shift

WRITE_S = 2.0
_ROWS_MAX = 256  # of one transaction
_TRIES_MAX = 5
_TIMEOUT_S = 5.0
# Of one kind of end in one report: more is no news, and no client shall outweigh all others.
COUNTED_MAX = 1_000
_KEYS_MAX = 100_000
_WORKED_MAX = round(COUNT_MAX / WEIGHTS["error"])  # more is halved away in a record


@dataclass(slots=True)
class _Ends:
    """Of calls of one capability of one instance of its agent."""

    generation: int
    worked: int = 0
    failed: int = 0
    late: int = 0


class Outcomes:
    """Belongs to the node's loop."""

    def __init__(self, tables: Tables) -> None:
        """Write to `tables`."""
        self._tables = tables
        self._gathered: dict[str, _Ends] = {}  # by key of a row
        self._to_write: dict[str, None] = {}
        self._task: asyncio.Task[None] | None = None
        self.told = 0  # reports of one capability, since the start

    def add(self, key: str, generation: int, worked: int, failed: int, late: int) -> None:
        """Take how calls of a capability have ended.

        Args:
            key: of its row.
            generation: of its agent.
        """
        ends = self._gathered.get(key)
        if ends is None or ends.generation != generation:
            if ends is None and len(self._gathered) >= _KEYS_MAX:
                self._gathered.pop(next(iter(self._gathered)))
            ends = self._gathered[key] = _Ends(generation)
        self.told += 1
        ends.worked = min(ends.worked + min(worked, COUNTED_MAX), _WORKED_MAX)
        ends.failed += min(failed, COUNTED_MAX)
        ends.late += min(late, COUNTED_MAX)
        if failed or late or self._speaks_against(key):
            self._to_write[key] = None
            if self._task is None or self._task.done():
                self._task = asyncio.get_running_loop().create_task(
                    self._write_soon(), name="sira-outcomes"
                )

    def _speaks_against(self, key: str) -> bool:
        row = self._tables.get(feedback.TABLE, key)
        return row is not None and shift(feedback.decode(row.value), "").failing > 0

    def forget(self, key: str) -> None:
        """Forget what was not written yet: it was reset, or is registered no more."""
        self._gathered.pop(key, None)
        self._to_write.pop(key, None)

    async def stop(self) -> None:
        """Write what was gathered, and end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            await self._write()

    async def _write_soon(self) -> None:
        while self._to_write:
            await asyncio.sleep(WRITE_S)
            await self._write()

    async def _write(self) -> None:
        keys = list(self._to_write)
        self._to_write.clear()
        for start in range(0, len(keys), _ROWS_MAX):
            taken = [
                (key, ends)
                for key in keys[start : start + _ROWS_MAX]
                if (ends := self._gathered.pop(key, None)) is not None
            ]
            # What cannot be written is lost: it is no more than what some calls said.
            with contextlib.suppress(SiraError):
                await self._written(taken)

    async def _written(self, taken: Iterable[tuple[str, _Ends]]) -> None:
        """Write rows in one transaction. Raises SiraError: it could not be."""
        for _ in range(_TRIES_MAX):
            compares, puts = [], []
            for key, ends in taken:
                row = self._tables.get(feedback.TABLE, key)
                record = feedback.decode(row.value) if row is not None else Record()
                record = after_calls(
                    record, ends.worked, ends.failed, ends.late, generation=ends.generation
                )
                compares.append((feedback.TABLE, key, row.changed if row is not None else 0))
                puts.append((feedback.TABLE, key, feedback.encode(record)))
            if not puts:
                return
            with contextlib.suppress(Conflict):  # somebody rated one of them: after that
                await self._tables.transact(compares, puts=puts, timeout_s=_TIMEOUT_S)
                return
