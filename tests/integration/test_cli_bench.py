"""`sira bench` against a real node: it counts, judges and cleans up."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.command import (
    finish,
    node,
    sira,
    start,
    started,
    wait_until,
)

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def bench(url: str, *words: str) -> Any:
    return sira("bench", "--seconds", "0.3", *words, "--json", url=url)


def test_bench_counts_every_message(url: str) -> None:
    data = bench(url, "--size", "64KiB", "--rate", "200").data
    assert data["payload"] == {"dtype": "f32", "shape": [16384], "bytes": 65536}
    assert data["lost"] == 0 and data["broken"] == 0
    assert data["ledger"]["balanced"] and data["ledger"]["unexplained"] == 0
    assert data["ledger"]["published"] == data["ledger"]["delivered"] >= data["messages"] > 0
    assert data["lane"] == "grpc" and data["gb_per_s"] > 0
    assert data["latency_us"]["p50"] <= data["latency_us"]["p99"] <= data["latency_us"]["max"]


def test_bench_moves_large_tensors_unchanged(url: str) -> None:
    data = bench(url, "--size", "4MiB").data
    assert data["messages"] > 0 and data["lost"] == 0 and data["broken"] == 0


def test_bench_measures_the_lane_that_is_asked_for() -> None:
    with tempfile.TemporaryDirectory() as folder, node(Path(folder) / "data") as by_port:
        both = f"unix:{folder}/data/sira.sock,{by_port}"
        for lane in ("shm", "socket", "grpc"):
            data = bench(both, "--lane", lane, "--size", "256KiB", "--rate", "100").data
            assert (data["lane_asked"], data["lane"]) == (lane, lane)
            assert sum(data["lanes"].values()) == data["ledger"]["published"] and data["lost"] == 0
        data = bench(both, "--lane", "direct", "--size", "256", "--rate", "100").data
        assert (data["lane_asked"], data["lane"]) == ("direct", "shm") and data["lost"] == 0
        assert sum(data["lanes"].values()) <= data["ledger"]["published"]
        small = sira("bench", "--lane", "shm", "--size", "256", "--json", url=both)
        assert small.code != 0 and "64 KiB and more" in small.out


def test_bench_asks_and_is_answered(url: str) -> None:
    data = bench(url, "--pattern", "request", "--size", "256", "--in-flight", "4").data
    assert data["messages"] > 0 and data["broken"] == 0 and data["lost"] == 0


def test_bench_saves_judges_and_draws(url: str, tmp_path: Path) -> None:
    base, plot = tmp_path / "base.json", tmp_path / "plot.png"
    words = ["--size", "256", "--rate", "100"]
    assert bench(url, *words, "--save", str(base), "--plot", str(plot)).code == 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    saved = json.loads(base.read_text())
    saved["result"]["rate_achieved"] *= 1000
    base.write_text(json.dumps(saved))
    ended = bench(url, *words, "--baseline", str(base))
    assert (ended.code, ended.data["verdict"]["state"]) == (1, "slower")
    other = bench(url, "--size", "512", "--rate", "100", "--baseline", str(base))
    assert (other.code, other.data["verdict"]["state"]) == (0, "not comparable")


def test_a_killed_bench_leaves_no_workers(url: str) -> None:
    process, _ = started("bench", "--seconds", "2", "--rate", "10", url=url)
    parent = psutil.Process(process.pid)
    workers = wait_until("two workers", lambda: (c := parent.children()) and len(c) == 2 and c)
    process.kill()
    process.communicate()
    wait_until("no worker left", lambda: not any(worker.is_running() for worker in workers))


def test_a_worker_that_cannot_start_is_an_error(unused: str) -> None:
    process = start("bench", "--json", url=unused)
    assert finish(process, "bench", as_json=True).code == 4
