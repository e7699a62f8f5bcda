"""The embedded index while its processes die, and over lives of the node."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from sira.registry.index.edge import Edge
from sira.registry.index.interface import Collection, Point

from .nodes import run, until

pytestmark = pytest.mark.integration
DIMS = 32
COLLECTION = Collection("try", "hash-1", DIMS, ("tenant",))


def points(count: int, *, seed: int = 1) -> list[Point]:
    """Make points around a few centres, as texts lie, not evenly on the sphere."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((20, DIMS))
    rows = centres[rng.integers(0, 20, count)] + 0.5 * rng.standard_normal((count, DIMS))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return [Point(i + 1, row, {"tenant": "a"}) for i, row in enumerate(rows)]


def recall(found: list[list[int]], made: list[Point], queries: list[Point]) -> float:
    matrix = np.stack([each.vector for each in made])
    right = 0
    for ids, query in zip(found, queries, strict=True):
        best = {made[i].id for i in np.argsort(-(matrix @ query.vector))[: len(ids)]}
        right += len(best & set(ids))
    return right / sum(map(len, found))


async def asked(index: Edge, queries: list[Point]) -> list[list[int]]:
    return [
        [hit.id for hit in await index.search(each.vector, 10, where={"tenant": "a"})]
        for each in queries
    ]


def graph_of(index: Edge) -> int:
    """Return the pid that holds the graph; 0: none does."""
    (large,) = index._large.values() or (None,)
    return large.held.process.pid if large and large.held and not large.held.lost else 0


def test_a_graph_finds_what_a_scan_finds_also_of_what_came_and_went_since(tmp_path: Path) -> None:
    async def work() -> None:
        index = Edge(COLLECTION, tmp_path, graph_min=2_000)
        try:
            made = points(3_000)
            await index.upsert(made)
            await until(lambda: graph_of(index))
            queries = points(60, seed=2)
            assert recall(await asked(index, queries), made, queries) >= 0.99
            await index.delete([each.id for each in made[::2]])
            late = [Point(10_000 + each.id, each.vector, each.tags) for each in queries[:20]]
            await index.upsert(late)
            now = made[1::2] + late
            found = await asked(index, queries)
            assert recall(found, now, queries) >= 0.99
            for each, ids in zip(late, found, strict=False):
                assert ids[0] == each.id
        finally:
            await index.close()

    run(work)


def test_a_killed_process_costs_speed_alone_and_comes_back(tmp_path: Path) -> None:
    async def work() -> None:
        index = Edge(COLLECTION, tmp_path, graph_min=500)
        try:
            made = points(600)
            await index.upsert(made)
            await until(lambda: graph_of(index))
            pid, queries = graph_of(index), points(20, seed=2)
            asking = asyncio.gather(*(asked(index, queries) for _ in range(5)))
            await asyncio.sleep(0)
            os.kill(pid, signal.SIGKILL)
            for found in await asking:
                assert recall(found, made, queries) >= 0.99
            await until(lambda: graph_of(index) not in (0, pid))
            assert recall(await asked(index, queries), made, queries) >= 0.99
        finally:
            await index.close()

    run(work)


def test_a_graph_of_an_earlier_life_serves_for_what_is_the_same(tmp_path: Path) -> None:
    made, queries = points(600), points(20, seed=2)

    async def live(built: int) -> None:
        index = Edge(COLLECTION, tmp_path, graph_min=500)
        try:
            await index.upsert(made)
            await until(lambda: graph_of(index))
            assert index.built == built
            assert recall(await asked(index, queries), made, queries) >= 0.99
        finally:
            await index.close()

    async def end() -> None:
        await Edge(Collection("try", "hash-2", DIMS, ("tenant",)), tmp_path, graph_min=500).close()

    run(lambda: live(1))
    # It is changed while nobody looks: what the graph has of it must not be told.
    made[5] = Point(made[5].id, -made[5].vector, made[5].tags)
    run(lambda: live(0))
    run(end)
    assert list(tmp_path.iterdir()) == [], "what another embedder made is gone"
