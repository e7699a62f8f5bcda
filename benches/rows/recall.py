"""recall: the index of vectors beside an exact look at all, in one process: no node, no words.

Vectors are those of the embedder that needs nothing, of made capabilities; requests say half of one
otherwise. One in eight is of another kind, so that a search is filtered by tenant and kind.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np

from benches import capabilities
from benches.harness import BenchError, Case, Figures
from benches.systems import SIRA, System, case
from sira.registry.embed.hashed import HashedEmbedder
from sira.registry.index.edge import Edge
from sira.registry.index.interface import Collection, Hit, Point
from sira.registry.part import INDEX_DIMS
from sira.registry.search import TAGS

SUMMARY = "the index of vectors: recall@10 against exact, also filtered; time; graph and scan"
K = 10
GRAPH_S = 900.0


def groups(quick: bool) -> list[list[Case]]:
    """One group a size."""
    made = []
    for count in (3_000,) if quick else (30_000, 100_000):
        params = {
            "vectors": count,
            "dims": INDEX_DIMS,
            "graph_min": 2_000 if quick else 16_384,
            "asked": 100 if quick else 500,
        }
        made.append([case("recall", SIRA, params, measure, name=f"sira-{count}")])
    return made


def measure(_system: System, params: dict[str, Any]) -> Figures:
    """Make vectors and an index, wait for its graph, search."""
    return asyncio.run(_measured(params))


async def _measured(params: dict[str, Any]) -> Figures:
    embedder = HashedEmbedder(params["dims"])
    made = list(capabilities.capabilities(params["vectors"], seed=5))
    vectors = embedder.embed([one.text for one in made])
    kinds = np.array(["tool" if i % 8 == 0 else "agent" for i in range(len(made))])
    rng = np.random.default_rng(6)
    asked = [made[i].request for i in rng.integers(len(made), size=params["asked"])]
    queries = embedder.embed(asked)
    with tempfile.TemporaryDirectory(prefix="sira-bench-") as folder:
        index = Edge(
            Collection("agents", embedder.name, embedder.dims, TAGS), Path(folder),
            graph_min=params["graph_min"],
        )  # fmt: skip
        try:
            began_s = time.monotonic()
            for i, (row, kind) in enumerate(zip(vectors, kinds, strict=True)):
                await index.upsert([Point(i + 1, row, {"tenant": "t", "kind": str(kind)})])
                if i % 256 == 0:
                    await asyncio.sleep(0)
            blocks = sum(np.sum(kinds == kind) >= params["graph_min"] for kind in ("tool", "agent"))
            while sum(each.held is not None for each in index._large.values()) < blocks:
                if time.monotonic() - began_s > GRAPH_S:
                    raise BenchError("no graph was made")
                await asyncio.sleep(0.1)
            figures: Figures = {"built_s": time.monotonic() - began_s}
            for name, where in (
                ("agent", {"tenant": "t", "kind": "agent"}),
                ("tool", {"tenant": "t", "kind": "tool"}),
            ):
                rows = np.flatnonzero(kinds == where["kind"])
                for how, search in (("", index.search), ("scan_", _scan_of(index))):
                    found, samples_ns = await _searched(search, queries, where)
                    figures[f"{name}_{how}recall_at_10"] = recall(found, vectors, rows, queries)
                    p50, p99 = np.percentile(np.asarray(samples_ns) / 1e6, [50, 99])
                    figures |= {
                        f"{name}_{how}search_ms_p50": float(p50),
                        f"{name}_{how}search_ms_p99": float(p99),
                    }
        finally:
            await index.close()
    return figures


def _scan_of(index: Edge) -> Callable[..., Awaitable[list[Hit]]]:
    """Return what searches without the graph, as an index of fewer vectors does."""

    async def scan(vector: np.ndarray, k: int, *, where: dict[str, str]) -> list[Hit]:
        return index._blocks.nearest(vector, k, where)

    return scan


async def _searched(
    search: Callable[..., Awaitable[list[Hit]]], queries: np.ndarray, where: dict[str, str]
) -> tuple[list[list[Hit]], list[int]]:
    found, samples_ns = [], []
    for query in queries:
        began_ns = time.perf_counter_ns()
        found.append(await search(query, K, where=where))
        samples_ns.append(time.perf_counter_ns() - began_ns)
    return found, samples_ns


def recall(
    found: list[list[Hit]], vectors: np.ndarray, rows: np.ndarray, queries: np.ndarray
) -> float:
    """Return the share of the K nearest that were found; as near as the K-th counts as found.

    Raises:
        BenchError: something was found that is none of `rows`, or not K.
    """
    right, allowed = 0, set((rows + 1).tolist())
    for hits, query in zip(found, queries, strict=True):
        ids = [hit.id for hit in hits]
        if len(set(ids)) != K or not allowed.issuperset(ids):
            raise BenchError(f"{len(set(ids))} hits, of those that were asked for or not")
        scores = vectors[rows] @ query
        floor = float(np.partition(scores, len(scores) - K)[len(scores) - K]) - 1e-5
        right += sum(float(vectors[id_ - 1] @ query) >= floor for id_ in ids)
    return right / (K * len(found))
