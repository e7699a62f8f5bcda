"""Percentiles and medians, in one place so that every row means the same by them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np


def latency_figures(samples_ns: Sequence[int] | np.ndarray) -> dict[str, float]:
    """p50, p99 and largest of `samples_ns`, in microseconds."""
    samples = np.asarray(samples_ns, np.float64) / 1e3
    p50, p99 = np.percentile(samples, [50, 99])
    return {
        "latency_us_p50": float(p50),
        "latency_us_p99": float(p99),
        "latency_us_max": float(samples.max()),
    }


def alone_and_beside(alone_us: Sequence[float], beside_us: Sequence[float]) -> dict[str, float]:
    """p50 and p99 of requests alone and beside something, µs, and the second over the first."""
    figures: dict[str, float] = {}
    for name in ("p50", "p99"):
        for when, samples_us in (("alone", alone_us), ("beside", beside_us)):
            samples_ns = np.asarray(samples_us, np.float64) * 1e3
            figures[f"{when}_us_{name}"] = latency_figures(samples_ns)[f"latency_us_{name}"]
    for name in ("p50", "p99"):
        figures[f"{name}_ratio"] = figures[f"beside_us_{name}"] / figures[f"alone_us_{name}"]
    return {**figures, "requests": float(len(beside_us))}


def median(values: Sequence[float]) -> float:
    """Median of the repeats; NaN of none."""
    return statistics.median(values) if values else float("nan")
