"""What the node has counted, by name with its unit, and the same as Prometheus text.

Nothing is counted twice: the data plane and the bus hold the numbers, here they are only read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from sira import _native
from sira.kernel.bus import Bus
from sira.kernel.logs import Logs

LATENCY = "node_latency_ns"  # from taken to sent, per topic class
_PREFIX = "sira_"
_SUBSCRIPTIONS_A_STEP = 1_000
# Levels of the data plane: they go up and down. All other numbers of it only grow.
_LEVELS = frozenset(
    {
        "messages_held",
        "message_bytes_held",
        "chunk_bytes_held",
        "transfers",
        "parked",
        "waiting",
        "topics",
    }
)


@dataclass(slots=True)
class Loop:
    """How late the loop is: what a message waits before it is looked at."""

    lag_ns_last: int = 0
    lag_ns_max: int = 0
    over_5_ms: int = 0

    def note(self, lag_ns: int) -> None:
        """Count one measurement."""
        self.lag_ns_last = lag_ns
        self.lag_ns_max = max(self.lag_ns_max, lag_ns)
        self.over_5_ms += lag_ns > 5_000_000


class CallCounts(Protocol):
    """Calls of all methods: since the start, and under way."""

    calls: int
    calls_now: int


@dataclass(frozen=True, slots=True)
class Counts:
    """Where the numbers are."""

    bus: Bus
    logs: Logs
    loop: Loop
    calls: CallCounts

    async def values(self) -> dict[str, float]:
        """Return all numbers without labels, by name; others have the loop meanwhile."""
        bus = self.bus
        pending = in_flight = stalled = 0
        for index, each in enumerate(list(bus.subscriptions), 1):
            pending += each.sub.pending
            in_flight += each.sub.in_flight
            stalled += each.sub.stalled
            if index % _SUBSCRIPTIONS_A_STEP == 0:
                await asyncio.sleep(0)
        values: dict[str, float] = dict(bus.hub.stats)
        values |= {
            "clients": len(bus.clients),
            "subscriptions": len(bus.subscriptions),
            "pending_messages": pending,
            "in_flight_messages": in_flight,
            "stalled_subscriptions": stalled,
            "refused_total": sum(bus.refusals.values()),
            "events_total": bus.events.emitted,
            "events_suppressed_total": bus.events.suppressed,
            "cpu_s_total": time.process_time(),
            "calls_total": self.calls.calls,
            "calls_now": self.calls.calls_now,
            "log_lines_total": self.logs.written,
            "log_lines_lost_total": self.logs.dropped,
            "loop_lag_ns_last": self.loop.lag_ns_last,
            "loop_lag_ns_max": self.loop.lag_ns_max,
            "loop_lag_over_5_ms_total": self.loop.over_5_ms,
        }
        return values

    def histograms(self) -> Iterator[tuple[str, list[int], int]]:
        """Yield (topic class, counts per bucket, sum in ns) of the time on the node."""
        yield from self.bus.hub.histograms()

    def prometheus(self, values: Mapping[str, float]) -> str:
        """Return the text that Prometheus reads; `values` as the method of that name gave them."""
        registry = CollectorRegistry()
        registry.register(_Reader(self, values))
        return generate_latest(registry).decode()


class _Reader(Collector):
    """Hands our numbers to prometheus_client when it asks."""

    def __init__(self, counts: Counts, values: Mapping[str, float]) -> None:
        self._counts, self._values = counts, values

    def collect(self) -> Iterator[Metric]:
        of_hub = self._counts.bus.hub.stats
        for name, value in self._values.items():
            grows = name.endswith("_total") or (name in of_hub and name not in _LEVELS)
            if grows:
                base = name.removesuffix("_total")
                yield CounterMetricFamily(_PREFIX + base, f"{base}, since the start", value=value)
            else:
                yield GaugeMetricFamily(_PREFIX + name, name, value=value)
        refused = CounterMetricFamily(
            _PREFIX + "refusals", "refused, by action and code", labels=["action", "code"]
        )
        for (action, code), count in self._counts.bus.refusals.items():
            refused.add_metric([action, code], count)
        yield refused
        dropped = CounterMetricFamily(
            _PREFIX + "dropped", "deliveries dropped, by reason", labels=["reason"]
        )
        for reason, count in self._counts.bus.hub.dropped.items():
            dropped.add_metric([reason], count)
        yield dropped
        yield self._latency()

    def _latency(self) -> Metric:
        family = HistogramMetricFamily(
            _PREFIX + "node_latency_seconds",
            "time of a delivery on the node, from taken to sent",
            labels=["topic_class"],
        )
        for topic_class, counts, sum_ns in self._counts.histograms():
            buckets, below = [], 0
            for bound_ns, count in zip(_native.HISTOGRAM_BOUNDS_NS, counts, strict=False):
                below += count
                buckets.append((repr(bound_ns / 1e9), float(below)))
            buckets.append(("+Inf", float(sum(counts))))
            family.add_metric([topic_class], buckets, sum_value=sum_ns / 1e9)
        return family
