"""What holds for every index: exact, embedded with a graph, a server through qdrant-client.

A real server is asked, too, where QDRANT_URL names one.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from sira.kernel.errors import Unreachable
from sira.registry.index.edge import Edge
from sira.registry.index.exact import Exact
from sira.registry.index.interface import Collection, Hit, Index, Point, Vector
from sira.registry.index.mirrored import Mirrored
from sira.registry.index.server import SIMULATED, Server

DIMS = 16
WATCHDOG_S = 120.0
COLLECTION = Collection("try", "hash-1", DIMS, tags=("tenant", "kind"))
Open = Callable[[], AbstractAsyncContextManager[Index]]


@pytest.fixture(params=["exact", "edge", "edge-graph", "client", "mirrored", "server"])
def open_index(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Index]:
        index: Index
        match request.param:
            case "exact":
                index = Exact(COLLECTION)
            case "edge":
                index = Edge(COLLECTION, tmp_path, graph_min=1_000)
            case "edge-graph":
                index = Edge(COLLECTION, tmp_path, graph_min=50)
            case "client":
                index = await Server.open(COLLECTION, SIMULATED)
            case "mirrored":
                index = Mirrored(COLLECTION, lambda: Server.open(COLLECTION, SIMULATED))
            case _:
                if not os.environ.get("QDRANT_URL"):
                    pytest.skip("QDRANT_URL names no server")
                own = Collection(f"try-{secrets.token_hex(4)}", "hash-1", DIMS, COLLECTION.tags)
                index = await Server.open(own, os.environ["QDRANT_URL"])
        try:
            yield index
        finally:
            await index.close()

    return opened


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def guarded() -> None:
        async with asyncio.timeout(WATCHDOG_S):
            await work()

    asyncio.run(guarded())


def unit(values: Vector) -> Vector:
    return (values / np.linalg.norm(values)).astype(np.float32)


def points(rng: np.random.Generator, ids: range, tenant: str = "a") -> list[Point]:
    return [
        Point(i, unit(rng.standard_normal(DIMS)), {"tenant": tenant, "kind": "agent"}) for i in ids
    ]


async def settled(index: Index) -> None:
    """Wait for the graph or the server, where the index has one."""
    if isinstance(index, Edge) and index.graph_min < 1_000:
        while not index.built:  # noqa: ASYNC110  it is made by another process
            await asyncio.sleep(0.05)
    if isinstance(index, Mirrored):
        while not index.is_served:  # noqa: ASYNC110  it is sent by another task
            await asyncio.sleep(0.01)


def test_it_finds_what_is_nearest_as_a_full_scan_does(open_index: Open) -> None:
    rng = np.random.default_rng(1)
    made = points(rng, range(1, 301))
    matrix = np.stack([each.vector for each in made])

    async def work() -> None:
        async with open_index() as index:
            await index.upsert(made)
            await settled(index)
            found = 0
            for _ in range(50):
                query = unit(rng.standard_normal(DIMS))
                best = np.argsort(-(matrix @ query))[:10]
                hits = await index.search(query, 10, where={"tenant": "a"})
                assert [hit.score for hit in hits] == sorted((h.score for h in hits), reverse=True)
                for hit in hits:
                    assert hit.score == pytest.approx(float(matrix[hit.id - 1] @ query), abs=1e-4)
                found += len({hit.id for hit in hits} & {int(i) + 1 for i in best})
            assert found >= 0.99 * 500

    run(work)


def test_tags_hold_searches_apart(open_index: Open) -> None:
    rng = np.random.default_rng(2)

    async def work() -> None:
        async with open_index() as index:
            await index.upsert(points(rng, range(1, 101)) + points(rng, range(101, 111), "b"))
            tool = Point(500, unit(rng.standard_normal(DIMS)), {"tenant": "a", "kind": "tool"})
            await index.upsert([tool])
            await settled(index)
            for _ in range(5):
                query = unit(rng.standard_normal(DIMS))
                hits = await index.search(query, 20, where={"tenant": "b"})
                assert {hit.id for hit in hits} == set(range(101, 111))
                hits = await index.search(query, 5, where={"tenant": "a", "kind": "tool"})
                assert [hit.id for hit in hits] == [500]
                assert await index.search(query, 5, where={"tenant": "c"}) == []

    run(work)


def test_what_is_put_again_has_its_new_vector_alone(open_index: Open) -> None:
    rng = np.random.default_rng(3)

    async def work() -> None:
        async with open_index() as index:
            made = points(rng, range(1, 101))
            await index.upsert(made)
            await settled(index)
            old, new = made[40].vector, unit(-made[40].vector)
            await index.upsert([Point(41, new, made[40].tags)])
            (hit,) = await index.search(new, 1, where={"tenant": "a"})
            assert hit.id == 41 and hit.score == pytest.approx(1, abs=1e-4)
            hits = await index.search(old, 100, where={"tenant": "a"})
            assert [each.id for each in hits].count(41) == 1
            assert next(each for each in hits if each.id == 41).score == pytest.approx(-1, abs=1e-4)
            assert await index.count() == 100

    run(work)


def test_what_is_taken_out_is_found_no_more(open_index: Open) -> None:
    rng = np.random.default_rng(4)

    async def work() -> None:
        async with open_index() as index:
            made = points(rng, range(1, 101))
            await index.upsert(made)
            await settled(index)
            await index.delete([*range(1, 81), 4_000])
            assert await index.count() == 20
            hits = await index.search(made[3].vector, 50, where={"tenant": "a"})
            assert {hit.id for hit in hits} == set(range(81, 101))
            await index.delete(list(range(81, 101)))
            assert await index.search(made[3].vector, 5, where={"tenant": "a"}) == []
            await index.upsert(made[:1])
            (hit,) = await index.search(made[0].vector, 5, where={"tenant": "a"})
            assert hit.id == 1

    run(work)


class Flaky(Server):
    """A server that can be gone, and forgets everything then."""

    gone = False

    async def upsert(self, points: Sequence[Point]) -> None:
        self._answer()
        await super().upsert(points)

    async def search(
        self, vector: Vector, k: int, *, where: Mapping[str, str] | None = None
    ) -> list[Hit]:
        self._answer()
        return await super().search(vector, k, where=where or {})

    def _answer(self) -> None:
        if type(self).gone:
            raise Unreachable("gone")


def test_a_server_that_is_gone_and_back_empty_is_missed_by_nobody() -> None:
    rng = np.random.default_rng(5)

    async def work() -> None:
        async def open_flaky() -> Server:
            if Flaky.gone:
                raise Unreachable("gone")
            return await Flaky.open(COLLECTION, SIMULATED)

        Flaky.gone = False
        index = Mirrored(COLLECTION, open_flaky)
        try:
            made = points(rng, range(1, 51))
            await index.upsert(made)
            await settled(index)
            Flaky.gone = True
            (hit,) = await index.search(made[7].vector, 1, where={"tenant": "a"})
            assert hit.id == 8
            await index.delete([8])
            await index.upsert(points(rng, range(51, 61)))
            while index.is_served or not index.failures:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            hits = await index.search(made[7].vector, 60, where={"tenant": "a"})
            assert len(hits) == 59 and 8 not in {each.id for each in hits}
            Flaky.gone = False
            await settled(index)
            hits = await index.search(made[7].vector, 60, where={"tenant": "a"})
            assert len(hits) == 59 and 8 not in {each.id for each in hits}
        finally:
            await index.close()

    run(work)
