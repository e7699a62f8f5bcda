"""registry: agents register, are found, and are found while the index is made, at size.

One process registers agents with three capabilities each, in bulk and then one at a time, and beats
for all of them; another asks in words that say half of a capability otherwise. Capabilities are
made (benches/capabilities.py), no two the same.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import numpy as np

from benches.harness import BenchError, Case, Figures, Participant, Stage, free_port, rss_bytes
from benches.systems import SIRA_SOCKET, System, case, socket_of, start_node
from sira.kernel.settings import Settings

SUMMARY = "register in bulk and singly, Discover plain, filtered, while the index is made"
AGENTS = (1_000, 10_000, 33_400)
FOUND_MIN = 0.95
"""Of requests that must find the capability they were made of among five and the runners-up."""
GRAPH_S = 600.0
_SHARE = 0.9  # of all: the rest is scanned beside it, see `edge`


def groups(quick: bool) -> list[list[Case]]:
    """One group a size."""
    made = []
    for count in (300,) if quick else AGENTS:
        params = {
            "agents": count,
            "each": 3,
            "seed": 11,
            "singles": 20 if quick else 500,
            "asked": 50 if quick else 1_000,
        }
        made.append([case("registry", SIRA_SOCKET, params, measure, name=f"sira-{count}")])
    return made


def measure(_system: System, params: dict[str, Any]) -> Figures:
    """Register, ask while an index is made where there is to be one, ask."""
    count, each = params["agents"], params["each"]
    with Stage(timeout_s=GRAPH_S) as stage:
        node = start_node(stage, free_port(), "--agents-max", str(count + params["singles"] + 100))
        shared = {**params, "url": socket_of(stage)}
        registrar = stage.participant("benches.registry_side:agents", shared)
        asker = stage.participant("benches.registry_side:asker", shared)
        watcher = stage.participant("benches.registry_side:watcher", shared)
        stage.hear_all([registrar, asker, watcher], "ready")
        rss_before, cpu_s = rss_bytes(node), stage.cpu_s([node])
        registrar.say("bulk")
        (bulk,) = stage.hear_all([registrar], "registered")
        bulk_cpu_s = stage.cpu_s([node]) - cpu_s
        figures: Figures = {
            "bulk_per_s": count / bulk["took_s"],
            "bulk_node_cpu_us_per_agent": bulk_cpu_s * 1e6 / count,
            "bulk_caller_cpu_us_per_agent": bulk["cpu_s"] * 1e6 / count,
            "bulk_held_ms_max": _value(stage, watcher, "loop_held_ns_max") / 1e6,
        }
        is_graph_due = count * each >= Settings().index_graph_min
        if is_graph_due:
            figures |= _while_built(stage, asker, watcher, count * each)
        registrar.say("singly")
        (singly,) = stage.hear_all([registrar], "registered")
        figures |= _percentiles("single_ms", singly["samples_ns"])
        _asked(stage, asker, least=params["asked"] // 10, filtered=False)  # what is met first
        for name, filtered in (("discover", False), ("filtered", True)):
            cpu_s = stage.cpu_s([node])
            asked = _asked(stage, asker, least=params["asked"], filtered=filtered)
            spent_s = stage.cpu_s([node]) - cpu_s
            figures |= _percentiles(f"{name}_ms", asked["samples_ns"])
            figures[f"{name}_node_cpu_ms"] = spent_s * 1e3 / len(asked["samples_ns"])
            figures[f"{name}_found"] = check_found(asked)
        figures["node_kib_per_agent"] = (rss_bytes(node) - rss_before) / 1024 / count
        if is_graph_due != (_graph_rows(stage.folder) > 0):
            raise BenchError("there is a graph where none is due, or none where one is")
    return figures


def check_found(asked: dict[str, Any]) -> float:
    """Return the share of requests that found what they were made of.

    Raises:
        BenchError: too few did, so that what was timed is no search.
    """
    share: float = asked["found"] / len(asked["samples_ns"])
    if share < FOUND_MIN:
        raise BenchError(f"{share:.1%} of the requests found their capability")
    return share


def _while_built(stage: Stage, asker: Participant, watcher: Participant, points: int) -> Figures:
    """Ask, plain and filtered in turns, until there is a graph of nearly all of `points`."""
    samples_ns: list[int] = []
    held_ns, began_s = 0.0, time.monotonic()
    while _graph_rows(stage.folder) < _SHARE * points:
        if time.monotonic() - began_s > GRAPH_S:
            raise BenchError("no graph was made")
        for filtered in (False, True):
            asked = _asked(stage, asker, seconds=0.5, least=1, filtered=filtered)
            samples_ns += asked["samples_ns"]
        held_ns = max(held_ns, _value(stage, watcher, "loop_held_ns_last"))
    built_s = time.monotonic() - began_s
    # It is compared with what is in memory, and serves: asked on for as long as that may take.
    for _ in range(6):
        samples_ns += _asked(stage, asker, seconds=0.5, least=1, filtered=False)["samples_ns"]
        held_ns = max(held_ns, _value(stage, watcher, "loop_held_ns_last"))
    return {
        **_percentiles("built_discover_ms", samples_ns),
        "built_discover_ms_max": max(samples_ns) / 1e6,
        "built_held_ms_max": held_ns / 1e6,
        "built_s": built_s,
    }


def _asked(
    stage: Stage, asker: Participant, *, least: int, filtered: bool, seconds: float = 0.0
) -> dict[str, Any]:
    asker.say("ask", seconds=seconds, least=least, filtered=filtered)
    (asked,) = stage.hear_all([asker], "asked")
    return asked


def _value(stage: Stage, watcher: Participant, name: str) -> float:
    watcher.say("look")
    (seen,) = stage.hear_all([watcher], "seen")
    return float(seen["values"][name])


def _graph_rows(folder: Path) -> int:
    """Return of how many vectors the graph that lies there is made; 0: there is none."""
    for file in (folder / "sira" / "data" / "index").glob("*/*/graph/ids.npy"):
        with contextlib.suppress(OSError, ValueError):  # another is put in its place just now
            return len(np.load(file, mmap_mode="r"))
    return 0


def _percentiles(name: str, samples_ns: list[int]) -> Figures:
    p50, p99 = np.percentile(np.asarray(samples_ns, np.float64) / 1e6, [50, 99])
    return {f"{name}_p50": float(p50), f"{name}_p99": float(p99)}
