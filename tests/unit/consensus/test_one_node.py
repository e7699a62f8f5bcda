"""A node's tables on a disk that is full, fails, or has become long: told, never half done."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sira.consensus.journal import Journal
from sira.consensus.one_node import OneNode
from sira.consensus.tables import Put
from sira.kernel.errors import JournalFailed, SiraError, StorageFull
from sira.v1 import tables_pb2

WATCHDOG_S = 60.0


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(**given: Any) -> None:
        asyncio.run(test(**given))

    return run


@asynccontextmanager
async def life(disk: Any, **given: Any) -> AsyncIterator[OneNode]:
    tables = OneNode(disk, **given)
    await tables.start()
    try:
        async with asyncio.timeout(WATCHDOG_S):
            yield tables
    finally:
        await tables.stop()


async def put(tables: OneNode, number: int, *, size: int = 100) -> None:
    await tables.transact(puts=[Put("t", f"k{number}", b"%d " % number * size)])


def kept(tables: OneNode) -> dict[str, bytes]:
    return {row.key: row.value for row in tables.scan("t")}


@in_a_loop
async def test_a_full_disk_refuses_what_comes_and_takes_it_when_there_is_room(disks: Any) -> None:
    disk = disks(random.Random(1))
    async with life(disk) as tables:
        await put(tables, 1)
        disk.room_bytes = 0
        before, revision = kept(tables), tables.revision
        outcomes = await asyncio.gather(*(put(tables, n) for n in (2, 3)), return_exceptions=True)
        assert [type(each) for each in outcomes] == [StorageFull] * 2
        assert kept(tables) == before and tables.revision == revision
        assert tables.failure is None
        disk.room_bytes = None
        await put(tables, 4)
        after = kept(tables)
        assert set(after) == {"k1", "k4"}
    async with life(disk) as tables:
        assert kept(tables) == after


@in_a_loop
async def test_a_lease_that_ends_while_the_disk_is_full_ends_when_there_is_room(disks: Any) -> None:
    disk, now_ns = disks(random.Random(2)), 0
    async with life(disk, clock_ns=lambda: now_ns) as tables:
        asked = tables_pb2.LeaseAcquire(tenant="t", name="a", principal="p", limit=1, ttl_ms=1_000)
        await tables.propose(tables_pb2.TableCommand(lease_acquire=asked))
        disk.room_bytes = 0
        now_ns = 5_000_000_000
        tables.tick()
        operations = disk.operations
        while disk.operations == operations:  # noqa: ASYNC110  it was tried, and cut off again
            await asyncio.sleep(0.001)
        assert tables.scan("leases") and tables.failure is None
        disk.room_bytes = None
        while tables.scan("leases"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("operation", ["append", "sync"])
@in_a_loop
async def test_a_disk_that_fails_ends_all_changes_and_lets_all_be_read(
    disks: Any, operation: str
) -> None:
    disk = disks(random.Random(3))
    failures: list[SiraError] = []
    async with life(disk, failed=failures.append) as tables:
        await put(tables, 1)
        disk.broken = operation
        waiting = [asyncio.ensure_future(put(tables, number)) for number in (2, 3, 4)]
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(each, JournalFailed) for each in outcomes)
        disk.broken = ""  # what was not synced may be lost though the next sync works
        with pytest.raises(JournalFailed):
            await put(tables, 5)
        assert list(kept(tables)) == ["k1"]
        assert len(failures) == 1 and tables.failure is failures[0]
    async with life(disk.after_power_loss()) as tables:
        # What was not answered is there as a whole, in its order, or not at all.
        assert list(kept(tables)) in [["k1"], ["k1", "k2"], ["k1", "k2", "k3"],
                                      ["k1", "k2", "k3", "k4"]]  # fmt: skip
        await put(tables, 6)


@in_a_loop
async def test_a_long_journal_becomes_a_snapshot_while_commands_go_on(disks: Any) -> None:
    disk = disks(random.Random(4))
    journal = Journal(disk, snapshot_after_bytes=4_000)
    async with life(disk, journal=journal) as tables:
        for number in range(200):
            await put(tables, number % 20)
        while tables.snapshots < 2:
            await put(tables, 1)
        before = kept(tables)
    # Each stands for what was before it: what is left is about the newest one and what came after.
    assert sum(len(disk.read(name)) for name in disk.names()) < 40_000
    async with life(disk) as tables:
        assert kept(tables) == before and len(before) == 20


@in_a_loop
async def test_a_snapshot_that_cannot_be_written_is_told_and_tried_again(disks: Any) -> None:
    disk = disks(random.Random(5))
    said: list[str] = []

    def told(event: str, text: str, **fields: object) -> None:
        said.append(event)

    journal = Journal(disk, snapshot_after_bytes=4_000)
    async with life(disk, journal=journal, told=told) as tables:
        disk.broken = "rename"
        number = 0
        while "snapshot_failed" not in said:
            await put(tables, number % 20)
            number += 1
        assert tables.snapshots == 0 and tables.failure is None
        disk.broken = ""
        while not tables.snapshots:
            await put(tables, number % 20)
            number += 1
        before = kept(tables)
    async with life(disk) as tables:
        assert kept(tables) == before
