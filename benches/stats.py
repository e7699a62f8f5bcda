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


def median(values: Sequence[float]) -> float:
    """Median of the repeats; NaN of none."""
    return statistics.median(values) if values else float("nan")
