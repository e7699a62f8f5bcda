"""The tables' interface, whatever puts commands in order: here a node of its own, on two storages.

Nothing in here looks behind `Tables`; a driver for a cluster passes the same tests.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from sira.consensus.one_node import OneNode
from sira.consensus.storage import FolderStorage, MemoryStorage, Storage
from sira.consensus.tables import Compare, Delete, Put, RequestId, Tables
from sira.kernel.errors import BadRequest, Conflict, ConnectionClosed, MessageTooLarge
from sira.v1 import tables_pb2

Life = Callable[[], AbstractAsyncContextManager[Tables]]
Until = Callable[..., Awaitable[object]]


@pytest.fixture(params=["folder", "memory"])
def life(request: pytest.FixtureRequest, tmp_path: Path) -> Life:
    """A life of the tables: `async with life() as tables`; the next one goes on from there."""
    memory = MemoryStorage()

    def storage() -> Storage:
        return memory if request.param == "memory" else FolderStorage(tmp_path / "tables")

    @asynccontextmanager
    async def lives() -> AsyncIterator[Tables]:
        tables = OneNode(storage())
        await tables.start()
        try:
            yield tables
        finally:
            await tables.stop()

    return lives


async def test_what_was_put_is_read_and_is_there_in_the_next_life(life: Life) -> None:
    async with life() as tables:
        done = await tables.transact(puts=[Put("t", "b", b"2"), Put("t", "a", b"1")])
        row = tables.get("t", "a")
        assert row is not None and (row.value, row.created, row.changed) == (b"1", 1, 1)
        assert done.revision == tables.revision == 1
        await tables.transact(puts=[("t", "a", b"3")], deletes=[Delete("t", "b")])
    async with life() as tables:
        assert tables.revision == 2
        assert [(r.key, r.value, r.created, r.changed) for r in tables.scan("t")] == [
            ("a", b"3", 1, 2)
        ]
        assert (await tables.transact(puts=[("t", "c", b"")])).revision == 3


async def test_of_many_that_compare_the_same_one_wins(life: Life) -> None:
    async with life() as tables:
        tries = [
            tables.transact([Compare("t", "a", 0)], [Put("t", "a", bytes([n]))]) for n in range(50)
        ]
        results = await asyncio.gather(*tries, return_exceptions=True)
        won = [r for r in results if not isinstance(r, BaseException)]
        lost = [r for r in results if isinstance(r, Conflict)]
        assert (len(won), len(lost)) == (1, 49)
        assert lost[0].details["revision"] == "1"
        assert tables.revision == 1


async def test_a_command_repeated_under_its_id_is_applied_once_over_lives(life: Life) -> None:
    async with life() as tables:
        first = await tables.transact(
            [("t", "a", 0)], [("t", "a", b"")], request_id=RequestId("c", 1)
        )
        again = await tables.transact(
            [("t", "a", 0)], [("t", "a", b"")], request_id=RequestId("c", 1)
        )
        assert again == first
    async with life() as tables:
        again = await tables.transact(
            [("t", "a", 0)], [("t", "a", b"")], request_id=RequestId("c", 1)
        )
        assert again == first
        with pytest.raises(Conflict):
            await tables.transact([("t", "a", 0)], request_id=RequestId("c", 2))


async def test_a_refusal_is_raised_and_changes_nothing(life: Life) -> None:
    async with life() as tables:
        with pytest.raises(MessageTooLarge):
            await tables.transact(puts=[("t", "a", bytes((64 << 10) + 1))])
        with pytest.raises(BadRequest):
            await tables.transact(puts=[("leases", "a", b"")])
        with pytest.raises(BadRequest):
            await tables.transact(puts=[("t", "a", b"")], request_id=RequestId("", 1))
        assert tables.revision == 0


async def test_a_scan_has_the_rows_of_a_prefix_page_by_page(life: Life) -> None:
    async with life() as tables:
        await tables.transact(puts=[("t", key, b"") for key in ("a/1", "a/2", "a/3", "b/1", "a")])
        assert [r.key for r in tables.scan("t", "a/")] == ["a/1", "a/2", "a/3"]
        page = tables.scan("t", "a/", count_max=2)
        assert [r.key for r in page] == ["a/1", "a/2"]
        assert [r.key for r in tables.scan("t", "a/", after=page[-1].key)] == ["a/3"]
        assert tables.scan("u") == [] and tables.get("u", "a") is None


async def test_a_watch_begins_with_all_rows_and_goes_on_with_each_change(life: Life) -> None:
    async with life() as tables:
        await tables.transact(puts=[("t", "a/1", b"1"), ("t", "b/1", b"")])
        with tables.watch("t", "a/") as watch:
            first = await anext(watch)
            assert first.rows is not None and [r.key for r in first.rows] == ["a/1"]
            await tables.transact(puts=[("t", "b/2", b""), ("u", "a/1", b"")])
            await tables.transact(puts=[("t", "a/1", b"2"), ("t", "a/2", b"")])
            await tables.transact(deletes=[("t", "a/1")])
            seen = []
            while len(seen) < 3:
                update = await anext(watch)
                assert update.rows is None
                seen += [(c.key, c.row and c.row.value, c.before and c.before.value)
                         for c in update.changes]  # fmt: skip
            assert seen == [("a/1", b"2", b"1"), ("a/2", b"", None), ("a/1", None, b"2")]
            assert update.revision == tables.revision


async def test_a_watch_goes_on_from_a_revision_with_nothing_left_out(life: Life) -> None:
    async with life() as tables:
        for n in range(5):
            await tables.transact(puts=[("t", str(n), b"")])
        with tables.watch("t", since=2) as watch:
            update = await anext(watch)
            assert update.rows is None
            assert [c.key for c in update.changes] == ["2", "3", "4"]
        with tables.watch("t", since=99) as watch:  # of a state that is not this one
            update = await anext(watch)
            assert update.rows is not None and len(update.rows) == 5


async def test_a_watch_of_a_row_that_was_begun_before_a_restart_misses_nothing(life: Life) -> None:
    async with life() as tables:
        await tables.transact(puts=[("t", "a", b"1")])
        since = tables.revision
        await tables.transact(deletes=[("t", "a")])
    async with life() as tables:
        with tables.watch("t", since=since) as watch:
            update = await anext(watch)
            assert update.rows == ()  # what changed meanwhile is not known any more: all rows
        with tables.watch("t", since=tables.revision) as watch:
            waiting = asyncio.ensure_future(anext(watch))
            await tables.transact(puts=[("t", "b", b"")])
            assert [c.key for c in (await waiting).changes] == ["b"]


async def test_many_watches_see_the_same_and_a_closed_one_ends(life: Life) -> None:
    async with life() as tables:
        watches = [tables.watch("t") for _ in range(20)]
        for watch in watches:
            await anext(watch)
        waiting = [asyncio.ensure_future(anext(watch)) for watch in watches]
        await tables.transact(puts=[("t", "a", b"")])
        assert len({(await each).revision for each in waiting}) == 1
        last = asyncio.ensure_future(anext(watches[0], None))
        await asyncio.sleep(0)
        watches[0].close()
        assert await last is None


async def test_a_row_can_be_waited_for(life: Life) -> None:
    async with life() as tables:
        waiting = asyncio.ensure_future(tables.changed("t", "a"))
        await tables.transact(puts=[("t", "b", b"")])
        assert not waiting.done()
        await tables.transact(puts=[("t", "a", b"")])
        await waiting


async def test_the_end_answers_what_waits_and_refuses_what_comes(life: Life) -> None:
    async with life() as tables:
        tries = [
            asyncio.ensure_future(tables.transact(puts=[("t", str(n), b"")])) for n in range(100)
        ]
        await asyncio.sleep(0)
        watching = asyncio.ensure_future(anext(tables.watch("u", since=0)))
        waiting = asyncio.ensure_future(tables.changed("u", "a"))
        await asyncio.sleep(0)
    assert all([(await each).revision for each in tries])
    with pytest.raises(ConnectionClosed):
        await watching
    with pytest.raises(ConnectionClosed):
        await waiting
    with pytest.raises(ConnectionClosed):
        await tables.transact()
    assert len(tables.scan("t")) == 100


async def test_a_lease_ends_by_itself_and_time_goes_on_over_a_restart(
    life: Life, until: Until
) -> None:
    def acquire(**fields: int) -> tables_pb2.TableCommand:
        asked = tables_pb2.LeaseAcquire(
            tenant="t",
            name="a",
            principal="p",
            limit=1,
            **fields,  # type: ignore[arg-type]
        )
        return tables_pb2.TableCommand(lease_acquire=asked)

    async with life() as tables:
        first = (await tables.propose(acquire(ttl_ms=300))).lease
        waits = (await tables.propose(acquire(ttl_ms=3_600_000, wait_ms=3_600_000))).lease
        key = f"t/a/{waits.ticket:016x}"

        def granted() -> bool:
            row = tables.get("leases", key)
            return row is not None and tables_pb2.LeaseClaim.FromString(row.value).token > 0

        await until(granted)
        assert tables.now_ms >= first.expires_ms
        at_ms = tables.now_ms
    async with life() as tables:
        row = tables.get("leases", key)
        assert row is not None and tables_pb2.LeaseClaim.FromString(row.value).token == 2
        again = (await tables.propose(acquire(ttl_ms=300))).error
        assert again.code == "CONFLICT"  # it lives on by what was left of it
        assert tables.now_ms >= first.expires_ms, at_ms
