"""A node has its embedded Qdrant make a graph of many capabilities, and finds by it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from sira.registry.index.edge import Edge
from sira.v1 import registry_pb2

from .nodes import Running, connected, register, registration, run, running, until

pytest.importorskip("qdrant_edge")
pytestmark = pytest.mark.integration
COUNT, LEAST = 700, 500


def graph_of(its: Running) -> int:
    """Return the pid that holds the graph of a node; 0: none does."""
    index = its.registry._index
    assert isinstance(index, Edge)
    (large,) = index._large.values() or (None,)
    return large.held.process.pid if large and large.held and not large.held.lost else 0


def test_a_node_finds_by_its_graph_and_without_it_when_that_is_killed(tmp_path: Path) -> None:
    asked = [f"sharpen blade{number:03} of ward{number % 7}" for number in range(COUNT)]

    async def work() -> None:
        async with running(tmp_path, index_graph_min=LEAST) as its, connected(its.node) as stub:
            made = [registration(f"a{n:03}", text) for n, text in enumerate(asked)]
            await register(stub, *made)
            await until(lambda: graph_of(its))
            for killed in (False, True):
                if killed:
                    os.kill(graph_of(its), signal.SIGKILL)
                for number in range(0, COUNT, 50):
                    request = registry_pb2.DiscoverRequest(text=asked[number], k=1)
                    (match,) = (await stub.Discover(request)).matches
                    assert match.agent == f"a{number:03}"

    run(work)
