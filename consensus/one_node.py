"""The tables of a node on its own: a journal, a thread for the disk, a clock.

Proposals that wait while a sync is under way leave together: one write, one sync. What is in order
here is decided in `state.py`, what is on disk in `journal.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from sira.consensus import snapshot
from sira.consensus.journal import Journal, Told
from sira.consensus.rows import Change, Row
from sira.consensus.snapshot import Picture
from sira.consensus.state import ENTRY_VERSION, Applied, State
from sira.consensus.storage import Storage
from sira.consensus.tables import Tables
from sira.consensus.watches import Watch, Watches
from sira.kernel.errors import (
    BadRequest,
    ConnectionClosed,
    JournalFailed,
    OutcomeUnknown,
    QueueFull,
    SiraError,
    StorageFull,
    Timeout,
)
from sira.kernel.parts import boottime_ns
from sira.kernel.slices import Pace
from sira.v1 import tables_pb2

P = ParamSpec("P")
T = TypeVar("T")
PROPOSALS_MAX = 4_096
_BATCH_ENTRIES, _BATCH_BYTES = 1_024, 4 << 20
_CLIENT_BYTES_MAX = 256
_HOLD_S = 0.002  # the longest that entries are applied in one turn of the loop
_LOOK_S = 1.0  # the loop's clock stands still while a machine sleeps, committed time does not
_FOREVER: contextlib.nullcontext[None] = contextlib.nullcontext()
_FULL_AGAIN_S = 1.0  # a tick for which there was no room on disk is tried again


@dataclass(slots=True, eq=False)
class _Proposal:
    """A command on its way; `answer` is set with its result."""

    command: tables_pb2.TableCommand
    bytes_: int
    answer: asyncio.Future[tables_pb2.TableResult]
    taken: bool = field(default=False)  # it is being written: nobody can take it back


class OneNode(Tables):
    """`await start()` recovers, `await stop()` ends in order; between them it takes commands."""

    def __init__(
        self,
        storage: Storage,
        *,
        clock_ns: Callable[[], int] = boottime_ns,
        failed: Callable[[SiraError], None] | None = None,
        told: Told | None = None,
        proposals_max: int = PROPOSALS_MAX,
        journal: Journal | None = None,
    ) -> None:
        """Keep the journal in `storage`; nothing is read before `start`.

        Args:
            storage: the folder `tables`, or memory.
            clock_ns: what committed time goes on by: CLOCK_BOOTTIME, ns.
            failed: told once when no command is taken any more.
            told: told what recovery did, and of snapshots that could not be written.
            proposals_max: how many may wait.
            journal: None: one in `storage` with the default limits.
        """
        self._storage = storage
        self._journal = journal or Journal(storage)
        self._clock_ns, self._failed_call, self._told = clock_ns, failed, told
        self._proposals_max = proposals_max
        self._state = State()
        self._watches = Watches(lambda: self._state.rows)
        self._queue: deque[_Proposal] = deque()
        self._failure: SiraError | None = None
        self._running = False
        self._ticks = False  # a tick is due, and goes with the next batch
        self._at_ns = 0  # clock at which committed time was what the state says
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sira-journal")
        self._snapshot_thread = ThreadPoolExecutor(1, thread_name_prefix="sira-snapshot")
        self._writing: asyncio.Task[None] | None = None
        self._snapshot: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.snapshots = 0  # written in this life

    # ---- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Recover what was answered, then take commands.

        Raises:
            JournalCorrupt, UpgradeRequired, DataDirUnusable: see `Journal.recover`.
        """
        try:
            self._state = await self._on(self._thread, self._journal.recover, self._told)
        except BaseException:
            self._close_threads()
            raise
        self._at_ns = self._clock_ns()
        self._running = True
        self.tick()

    async def stop(self) -> None:
        """Write what waits, then end; later proposals are refused. Twice is once."""
        if not self._running:
            return
        self._running = False
        if self._writing is not None:
            await self._writing
        if self._timer is not None:
            self._timer.cancel()
        if self._snapshot is not None:
            await self._snapshot
        self._watches.end()
        await self._on(self._thread, self._journal.close)
        self._close_threads()

    async def _on(
        self,
        thread: ThreadPoolExecutor,
        work: Callable[P, T],
        *args: P.args,
        **_none: P.kwargs,
    ) -> T:
        """Do what may wait for a disk in a thread; what is in memory at once."""
        if self._storage.waits:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(thread, lambda: work(*args, **_none))
        await asyncio.sleep(0)
        return work(*args, **_none)

    def _close_threads(self) -> None:
        self._thread.shutdown(wait=False)
        self._snapshot_thread.shutdown(wait=False)

    # ---- reading ---------------------------------------------------------------------------------

    def get(self, table: str, key: str) -> Row | None:
        """Return a row; see `Tables.get`."""
        return self._state.rows.get(table, key)

    def scan(
        self, table: str, prefix: str = "", *, after: str = "", count_max: int | None = None
    ) -> list[Row]:
        """Return rows in order of keys; see `Tables.scan`."""
        return self._state.rows.scan(table, prefix, after=after, count_max=count_max)

    def watch(self, table: str, prefix: str = "", *, since: int | None = None) -> Watch:
        """Return what changes; see `Tables.watch`."""
        return self._watches.watch(table, prefix, since)

    def listen(self, call: Callable[[int, tuple[Change, ...]], None]) -> None:
        """Let `call` be told each step; see `Tables.listen`."""
        self._watches.listen(call)

    async def changed(self, table: str, key: str) -> None:
        """Wait until a row changes; see `Tables.changed`."""
        await self._watches.changed(table, key)

    async def settle(self) -> None:
        """Return: on one node reads show all that was answered."""

    @property
    def revision(self) -> int:
        """Revision of the last change."""
        return self._state.revision

    @property
    def now_ms(self) -> int:
        """Committed time of now."""
        return self._state.now_ms + max(0, self._clock_ns() - self._at_ns) // 1_000_000

    @property
    def failure(self) -> SiraError | None:
        """Why no command is taken any more; None: they are."""
        return self._failure

    # ---- proposing -------------------------------------------------------------------------------

    async def propose(
        self, command: tables_pb2.TableCommand, *, timeout_s: float | None = None
    ) -> tables_pb2.TableResult:
        """Write, sync, apply, return the result; see `Tables.propose`."""
        self._check(command)
        loop = asyncio.get_running_loop()
        proposal = _Proposal(command, command.ByteSize(), loop.create_future())
        self._queue.append(proposal)
        self._write_soon()
        try:
            async with asyncio.timeout(timeout_s) if timeout_s is not None else _FOREVER:
                return await proposal.answer
        except asyncio.CancelledError:
            self._take_back(proposal)
            raise
        except TimeoutError:
            if proposal.answer.done() and not proposal.answer.cancelled():
                return proposal.answer.result()
        if self._take_back(proposal):
            raise Timeout(f"not written after {timeout_s:g} s, and not any more")
        raise OutcomeUnknown(
            f"not answered after {timeout_s:g} s, and perhaps applied",
            help="repeat it under the same request id",
        )

    def _check(self, command: tables_pb2.TableCommand) -> None:
        """Refuse what must not come into the journal.

        Raises:
            JournalFailed, ConnectionClosed, QueueFull, BadRequest: why.
        """
        if self._failure is not None:
            raise self._failure
        if not self._running:
            raise ConnectionClosed("the tables of this node have ended, or have not begun")
        if len(self._queue) >= self._proposals_max:
            raise QueueFull(
                f"{self._proposals_max} proposals wait for the disk",
                details={"limit": str(self._proposals_max)},
                retry_after_ms=100,
            )
        if command.HasField("request") and not (
            0 < len(command.request.client.encode()) <= _CLIENT_BYTES_MAX
        ):
            raise BadRequest(
                f"the client of a request has 1 to {_CLIENT_BYTES_MAX} bytes",
                details={"field": "client"},
            )
        assert command.WhichOneof("kind") is not None, "a command of no kind stops every node"

    def _take_back(self, proposal: _Proposal) -> bool:
        """Let a proposal not be written; False: it is being written, or was."""
        proposal.answer.cancel()
        if proposal.taken:
            return False
        with contextlib.suppress(ValueError):
            self._queue.remove(proposal)
        return True

    # ---- the writer ------------------------------------------------------------------------------

    def _write_soon(self) -> None:
        """Let what waits be written; who writes ends when nothing waits any more."""
        if self._writing is None:
            work = self._write()
            self._writing = asyncio.get_running_loop().create_task(work, name="sira-tables")

    async def _write(self) -> None:
        """Write batch after batch, as long as something waits."""
        try:
            await self._write_all()
        finally:
            self._writing = None

    async def _write_all(self) -> None:
        while (self._queue or self._ticks) and self._failure is None:
            batch = self._next_batch()
            try:
                await self._write_batch(batch)
            except StorageFull as error:
                self._answer(batch, error)
                self._set_timer(_FULL_AGAIN_S)
            except Exception as error:  # one of ours too must not leave proposals waiting for ever
                failed = error if isinstance(error, JournalFailed) else JournalFailed(f"{error!r}")
                self._answer(batch, failed)
                self._fail(failed)
            else:
                await self._shorten()

    def _next_batch(self) -> list[_Proposal]:
        batch: list[_Proposal] = []
        size = 0
        while self._queue and len(batch) < _BATCH_ENTRIES:
            size += self._queue[0].bytes_
            if batch and size > _BATCH_BYTES:
                break
            batch.append(self._queue.popleft())
            batch[-1].taken = True
        return batch

    async def _write_batch(self, batch: list[_Proposal]) -> None:
        """Write, sync, apply, answer.

        Raises:
            StorageFull, JournalFailed: nothing was applied.
        """
        self._ticks = False
        passed_ms = max(0, self._clock_ns() - self._at_ns) // 1_000_000
        commands = [each.command for each in batch]
        first = self._state.index + 1
        entries = await self._on(self._thread, self._append, first, commands, passed_ms)
        self._at_ns += passed_ms * 1_000_000
        pace = Pace(slice_s=_HOLD_S)
        for at, entry in enumerate(entries):
            applied = self._state.apply(entry)
            self._tell(applied)
            if batch and not batch[at].answer.done():
                batch[at].answer.set_result(applied.result)
            await pace.step()
        self._set_timer()

    def _append(
        self, first: int, commands: list[tables_pb2.TableCommand], passed_ms: int
    ) -> list[tables_pb2.TableEntry]:
        """Make entries and append them; in the journal's thread."""
        entries = [tables_pb2.TableEntry(version=ENTRY_VERSION, command=each) for each in commands]
        if not entries:
            entry = tables_pb2.TableEntry(version=ENTRY_VERSION)
            entry.tick.SetInParent()
            entries.append(entry)
        entries[0].elapsed_ms = passed_ms
        self._journal.append(first, entries)
        return entries

    def _tell(self, applied: Applied) -> None:
        if applied.changes:
            self._watches.tell(self._state.revision, applied.changes)

    @staticmethod
    def _answer(batch: list[_Proposal], error: SiraError) -> None:
        for each in batch:
            if not each.answer.done():
                each.answer.set_exception(error)

    def _refuse(self, error: SiraError) -> None:
        waiting = list(self._queue)
        self._queue.clear()
        self._answer(waiting, error)

    def _fail(self, error: SiraError) -> None:
        """Take no command any more; what is applied can be read."""
        self._failure = error
        self._refuse(error)
        if self._failed_call is not None:
            self._failed_call(error)

    # ---- snapshots -------------------------------------------------------------------------------

    async def _shorten(self) -> None:
        """Begin a snapshot when the journal has become long; all of it is applied now."""
        if not self._journal.wants_snapshot:
            return
        if self._snapshot is not None and not self._snapshot.done():
            return
        try:
            await self._on(self._thread, self._journal.turn, self._state.index + 1)
        except OSError as error:
            self._say_snapshot(error)
            return
        picture = snapshot.picture(self._state)
        work = self._write_snapshot(picture)
        self._snapshot = asyncio.get_running_loop().create_task(work, name="sira-snapshot")

    async def _write_snapshot(self, picture: Picture) -> None:
        try:
            await self._on(self._snapshot_thread, self._journal.write_snapshot, picture)
        except OSError as error:  # what there was is there; the next batch tries again
            self._say_snapshot(error)
        else:
            self.snapshots += 1

    def _say_snapshot(self, error: BaseException) -> None:
        if self._told is not None:
            self._told("snapshot_failed", f"no snapshot could be written: {error}")

    # ---- time ------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Look whether something has ended by now; by itself the tables do so in time."""
        due_ms = self._state.due_ms()
        if due_ms is None or self._failure is not None or not self._running:
            return
        if due_ms <= self.now_ms:
            self._ticks = True
            self._write_soon()
        else:
            self._set_timer()

    def _set_timer(self, wait_s: float | None = None) -> None:
        """Look again when the next thing ends."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_ms = self._state.due_ms()
        if due_ms is None or not self._running:
            return
        if wait_s is None:
            wait_s = min(_LOOK_S, max(0, due_ms - self.now_ms) / 1e3)
        self._timer = asyncio.get_running_loop().call_later(wait_s, self.tick)
