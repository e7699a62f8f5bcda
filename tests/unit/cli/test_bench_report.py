"""Verdicts and baselines of `sira bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sira.cli import bench_report
from sira.cli.bench import size_bytes
from sira.cli.output import UsageError


def result(**changes: Any) -> dict[str, Any]:
    """A result: 1,000 messages a second, p50 100 us, p99 200 us."""
    data: dict[str, Any] = {
        "pattern": "pub",
        "lane": "grpc",
        "rate_target": None,
        "payload": {"dtype": "f32", "shape": [64], "bytes": 256},
        "machine": {"cpu": "a", "cores": 2},
        "rate_achieved": 1000.0,
        "latency_us": {"p50": 100.0, "p99": 200.0},
    }
    return {**data, **changes}


@pytest.mark.parametrize(
    ("now", "state"),
    [
        (result(), "same"),
        (result(rate_achieved=1100.0), "same"),
        (result(rate_achieved=2000.0), "faster"),
        (result(rate_achieved=500.0), "slower"),
        (result(latency_us={"p50": 200.0, "p99": 200.0}), "slower"),
        (result(latency_us={"p50": 50.0, "p99": 200.0}), "faster"),
        (result(latency_us={"p50": 50.0, "p99": 900.0}), "slower"),
        (result(lane="shm"), "not comparable"),
        (result(pattern="request"), "not comparable"),
        (result(machine={"cpu": "b", "cores": 2}), "not comparable"),
        (result(payload={"dtype": "f32", "shape": [1], "bytes": 4}), "not comparable"),
    ],
)
def test_the_verdict_against_a_baseline(now: dict[str, Any], state: str) -> None:
    verdict = bench_report.judge(now, result())
    assert verdict["state"] == state
    assert bool(verdict["reasons"]) == (state != "same")


def test_without_a_baseline_there_is_no_verdict() -> None:
    assert bench_report.judge(result(), None)["state"] == "no baseline"


def test_a_saved_baseline_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "base.json"
    bench_report.save(path, result())
    assert bench_report.load(path) == result()


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", json.dumps({"format": "sira-bench", "version": 99, "result": {}})]
)
def test_what_is_no_baseline_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "base.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"base\.json"):
        bench_report.load(path)


def test_a_missing_baseline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no baseline"):
        bench_report.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("text", "size"), [("256", 256), ("64KiB", 65536), ("1.5MB", 1_500_000), ("1 GiB", 1 << 30)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "x", "1XB", "-1", "100GiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        size_bytes(text)
