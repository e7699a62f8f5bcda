"""The rows `registry`, `recall` and `call` of the benches do what they time; small."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from benches import capabilities
from benches.harness import BenchError, Case
from benches.rows import call, recall, registry
from sira.registry.index.interface import Hit

pytestmark = pytest.mark.integration


def figures_of(case: Case, **smaller: Any) -> dict[str, float]:
    assert case.measure is not None, case.missing
    case.params.update(smaller)
    return case.measure()


def test_capabilities_are_the_same_for_a_seed_and_hardly_two_alike() -> None:
    made = [one.text for one in capabilities.capabilities(2_000, seed=3)]
    assert made == [one.text for one in capabilities.capabilities(2_000, seed=3)]
    assert len(set(made)) > 1_990
    assert made != [one.text for one in capabilities.capabilities(2_000, seed=4)]


def test_agents_are_registered_and_requests_find_what_they_were_made_of() -> None:
    ((case,),) = registry.groups(quick=True)
    figures = figures_of(case, agents=120, singles=5, asked=20)
    assert figures["discover_found"] >= registry.FOUND_MIN <= figures["filtered_found"]
    for name in ("bulk_per_s", "single_ms_p50", "discover_ms_p50", "filtered_node_cpu_ms"):
        assert figures[name] > 0
    assert "built_s" not in figures  # so few are scanned


def test_a_search_that_does_not_find_is_a_failure_of_the_row() -> None:
    asked = {"samples_ns": [1] * 100, "found": 95}
    assert registry.check_found(asked) == 0.95
    with pytest.raises(BenchError, match=r"94\.0%"):
        registry.check_found(asked | {"found": 94})


def test_the_index_is_searched_by_its_graph_and_beside_exact() -> None:
    pytest.importorskip("qdrant_edge")
    ((case,),) = recall.groups(quick=True)
    figures = figures_of(case, vectors=1_200, graph_min=1_000, asked=20)
    assert json.loads(json.dumps(figures)) == figures
    for how in ("", "scan_"):
        assert figures[f"agent_{how}recall_at_10"] > 0.9 < figures[f"tool_{how}recall_at_10"]


def test_what_is_not_among_the_nearest_or_of_another_kind_is_seen() -> None:
    vectors = np.eye(40, 32, dtype=np.float32)
    queries = np.linspace(1, 2, 32, dtype=np.float32)[None]
    rows = np.arange(32)
    best = [Hit(i + 1, float(queries[0, i])) for i in range(31, 21, -1)]
    found = recall.recall([best], vectors, rows, queries)
    assert found == 1 and type(found) is float  # what is compared with a goal goes into JSON
    assert recall.recall([[*best[:9], Hit(1, 0.0)]], vectors, rows, queries) == 0.9
    for wrong in ([*best[:9], Hit(35, 0.0)], best[:9], [*best[:9], best[0]]):
        with pytest.raises(BenchError, match="hits"):
            recall.recall([wrong], vectors, rows, queries)


@pytest.mark.parametrize("name", ["sira-grpc", "sira-direct-sync"])
def test_call_and_request_reach_the_same_agent_by_the_lane_that_is_named(name: str) -> None:
    (cases,) = call.groups(quick=True)
    (case,) = (each for each in cases if each.system == name)
    figures = figures_of(case, warmup=20, calls=10, rounds=1)
    assert figures["ratio"] > 0 and figures["call_us_p50"] > 0
