"""What the node has counted, by name with its unit, and the same as Prometheus text.

Nothing is counted twice: the data plane and the bus hold the numbers, here they are only read.
"""

from __future__ import annotations

import asyncio
import time
import types
from collections import Counter
from collections.abc import (
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast

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
from sira.kernel.direct import Numbers
from sira.kernel.lent import Lent
from sira.kernel.logs import Logs

T = TypeVar("T")

LATENCY = "node_latency_ns"  # from taken to sent, per topic class
_PREFIX = "sira_"
_SUBSCRIPTIONS_A_STEP = 1_000
_CLASSES_A_STEP = 10
_LONG_NS = 5_000_000
_CLASSES = 1  # where a walk over the ledger's rows comes to the classes
# Told by name to operators; some 7 KB of text each, and an answer holds grpc_message_bytes_max.
TENANTS_TOLD_MAX = 256
OTHERS = "(others)"  # no tenant can be called so
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
    """How late the loop is, what a message waits before it is looked at; and what holds it."""

    lag_ns_last: int = 0
    lag_ns_max: int = 0
    over_5_ms: int = 0
    held_ns_last: int = 0  # the longest of the interval that ended last
    held_ns_max: int = 0
    held_over_5_ms: int = 0
    held_now_ns: int = 0  # the longest of the interval that runs

    def note(self, lag_ns: int) -> None:
        """Count one measurement; an interval ends."""
        self.lag_ns_last = lag_ns
        self.lag_ns_max = max(self.lag_ns_max, lag_ns)
        self.over_5_ms += lag_ns > _LONG_NS
        self.held_ns_last, self.held_now_ns = self.held_now_ns, 0

    def held(self, held_ns: int) -> None:
        """Count one piece of work, during which nothing else had the loop."""
        if held_ns > self.held_now_ns:
            self.held_now_ns = held_ns
            self.held_ns_max = max(self.held_ns_max, held_ns)
        self.held_over_5_ms += held_ns > _LONG_NS

    def call(self, work: Callable[[], object]) -> None:
        """Do a piece of work and count how long it held the loop."""
        began_ns = _native.now_ns()
        try:
            work()
        finally:
            self.held(_native.now_ns() - began_ns)

    @types.coroutine
    def steps(self, work: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
        """Await `work`, and count how long each step of it held the loop."""
        error: BaseException | None = None
        while True:
            began_ns = _native.now_ns()
            try:
                waits_for = work.send(None) if error is None else work.throw(error)
            except StopIteration as end:
                return cast(T, end.value)
            finally:
                self.held(_native.now_ns() - began_ns)
            error = None
            try:
                yield waits_for
            except GeneratorExit:
                work.close()
                raise
            except BaseException as thrown:  # of the task, for the work: cancelled
                error = thrown


class CallCounts(Protocol):
    """Calls of all methods: since the start, under way, and what callers did not wait for."""

    calls: int
    calls_now: int

    @property
    def calls_taken_back(self) -> int:
        """Calls that ended before their answer because their caller wanted it so."""

    @property
    def connections_closed(self) -> int:
        """Connections that the node ended because they passed a limit."""

    @property
    def strangers(self) -> int:
        """Connections on which nothing was proved."""

    @property
    def addresses_held(self) -> int:
        """Addresses that nothing new is let in from, because they have too many of these."""

    @property
    def addresses_held_total(self) -> int:
        """How often an address began to be held."""


@dataclass(frozen=True, slots=True)
class Door:
    """What the door of a node is made of, and what did not get through it.

    Attributes:
        files_refused: states of files that were not put in force, since the start.
        calls_unidentified: calls that proved nothing and had to, since the start.
        tls_cert_expires_s: when the node's certificate ends, s since 1970; 0: it has none.
        token_keys: public keys whose tokens are believed now.
    """

    files_refused: int = 0
    calls_unidentified: int = 0
    tls_cert_expires_s: float = 0.0
    token_keys: int = 0


@dataclass(frozen=True, slots=True)
class Counts:
    """Where the numbers of one world are, and those of the process, which all worlds are told."""

    bus: Bus
    logs: Logs
    loop: Loop
    calls: CallCounts
    door: Callable[[], Door] = Door
    lent: Lent = field(default_factory=Lent)
    direct: Callable[[], Numbers] = Numbers
    parts: Mapping[str, Callable[[], float]] = field(default_factory=dict)

    async def values(self) -> dict[str, float]:
        """Return all numbers without labels, by name; others have the loop meanwhile."""
        return {**await self.of_world(), **self.of_process()}

    async def of_world(self) -> dict[str, float]:
        """Return those of the world."""
        bus = self.bus
        for _ in bus.settle():
            await asyncio.sleep(0)
        pending = in_flight = stalled = 0
        for index, each in enumerate(list(bus.subscriptions), 1):
            pending += each.pending
            in_flight += each.sub.in_flight
            stalled += each.sub.stalled
            if index % _SUBSCRIPTIONS_A_STEP == 0:
                await asyncio.sleep(0)
        values: dict[str, float] = dict(bus.hub.stats)
        return values | {
            "clients": len(bus.clients),
            "subscriptions": len(bus.subscriptions),
            "pending_messages": pending,
            "in_flight_messages": in_flight,
            "stalled_subscriptions": stalled,
            "refused_total": sum(bus.refusals.values()),
            "events_total": bus.events.emitted,
            "events_suppressed_total": bus.events.suppressed,
        }

    def of_process(self) -> dict[str, float]:
        """Return those of the node as a whole."""
        door, direct = self.door(), self.direct()
        return {
            "cpu_s_total": time.process_time(),
            "calls_total": self.calls.calls,
            "calls_now": self.calls.calls_now,
            "calls_unidentified_total": door.calls_unidentified,
            "calls_taken_back_total": self.calls.calls_taken_back,
            "connections_closed_total": self.calls.connections_closed,
            "strangers": self.calls.strangers,
            "addresses_held": self.calls.addresses_held,
            "addresses_held_total": self.calls.addresses_held_total,
            "log_lines_total": self.logs.written,
            "log_lines_lost_total": self.logs.dropped,
            "loop_lag_ns_last": self.loop.lag_ns_last,
            "loop_lag_ns_max": self.loop.lag_ns_max,
            "loop_lag_over_5_ms_total": self.loop.over_5_ms,
            "files_refused_total": door.files_refused,
            "tls_cert_expires_s": door.tls_cert_expires_s,
            "token_keys": door.token_keys,
            "lent_segments": self.lent.held.segments,
            "lent_bytes": self.lent.held.bytes,
            "lent_leases": self.lent.leases,
            "lent_stopped_total": self.lent.stopped,
            "lent_refused_total": self.lent.refused,
            "links": direct.links,
            "routes": direct.routes,
            "routes_granted_total": direct.granted,
            "routes_refused_total": direct.refused,
            "routes_left_total": direct.left,
            "loop_held_ns_last": self.loop.held_ns_last,
            "loop_held_ns_max": self.loop.held_ns_max,
            "loop_held_over_5_ms_total": self.loop.held_over_5_ms,
            **{name: read() for name, read in self.parts.items()},
        }

    def histograms(self) -> Iterator[list[tuple[str, list[int], int]]]:
        """Yield slices of (topic class, counts per bucket, sum in ns) of the time on the node.

        Classes may come in between.
        """
        walk = self.bus.hub.walk(_CLASSES)
        while not walk.done:
            yield walk.histograms(_CLASSES_A_STEP)

    async def prometheus(self) -> str:
        """Return the text that Prometheus reads, of this world and the process."""
        text = _Text(tenants=False)
        await text.add(self)
        return await asyncio.to_thread(text.written, self.of_process())  # may be very many classes


async def prometheus_of_all(worlds: Iterable[Counts]) -> str:
    """Return the text that Prometheus reads, of all worlds, each with the label `tenant`.

    The first TENANTS_TOLD_MAX are told by name, the others together: a world stays, so what is told
    together only grows. Written in a thread: many tenants are a lot of text.
    """
    text, process = _Text(tenants=True), dict[str, float]()
    for counts in worlds:
        await text.add(counts)
        process = process or counts.of_process()
        await asyncio.sleep(0)
    return await asyncio.to_thread(text.written, process)


class _Text(Collector):
    """Numbers gathered on the loop, handed to prometheus_client when it asks."""

    def __init__(self, *, tenants: bool) -> None:
        """Begin empty; with `tenants` each number of a world says whose it is."""
        self._labels = ["tenant"] if tenants else []
        self._seen: set[str] = set()
        self._grows: set[str] = set()
        self._values: dict[str, dict[str, float]] = {}  # name -> tenant -> number
        self._refused: Counter[tuple[str, str, str]] = Counter()
        self._dropped: Counter[tuple[str, str]] = Counter()
        self._latency: dict[tuple[str, str], tuple[list[int], int]] = {}
        self._process: Mapping[str, float] = {}

    async def add(self, counts: Counts) -> None:
        """Gather the numbers of one world."""
        tenant = counts.bus.tenant
        if len(self._seen) >= TENANTS_TOLD_MAX:
            tenant = OTHERS
        self._seen.add(tenant)
        hub = counts.bus.hub
        self._grows.update(hub.stats.keys() - _LEVELS)
        for name, value in (await counts.of_world()).items():
            of_name = self._values.setdefault(name, {})
            of_name[tenant] = of_name.get(tenant, 0) + value
        for (action, code), count in counts.bus.refusals.items():
            self._refused[tenant, action, code] += count
        for reason, count in hub.dropped.items():
            self._dropped[tenant, reason] += count
        for histograms in counts.histograms():
            for topic_class, found, sum_ns in histograms:
                before, sum_before = self._latency.get((tenant, topic_class), ([0] * len(found), 0))
                added = [a + b for a, b in zip(before, found, strict=True)]
                self._latency[tenant, topic_class] = added, sum_before + sum_ns
            await asyncio.sleep(0)

    def written(self, process: Mapping[str, float]) -> str:
        """Return the text, with the numbers of the process."""
        self._process = process
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry).decode()

    def collect(self) -> Iterator[Metric]:
        """Yield what was gathered."""
        for name, by_tenant in self._values.items():
            family = self._family(name, self._labels)
            for tenant, value in by_tenant.items():
                family.add_metric(self._of(tenant), value)
            yield family
        for name, value in self._process.items():
            family = self._family(name, [])
            family.add_metric([], value)
            yield family
        refused = CounterMetricFamily(
            _PREFIX + "refusals",
            "refused, by action and code",
            labels=[*self._labels, "action", "code"],
        )
        for (tenant, action, code), count in self._refused.items():
            refused.add_metric([*self._of(tenant), action, code], count)
        yield refused
        dropped = CounterMetricFamily(
            _PREFIX + "dropped", "deliveries dropped, by reason", labels=[*self._labels, "reason"]
        )
        for (tenant, reason), count in self._dropped.items():
            dropped.add_metric([*self._of(tenant), reason], count)
        yield dropped
        yield self._latencies()

    def _of(self, tenant: str) -> list[str]:
        return [tenant] if self._labels else []

    def _family(self, name: str, labels: Sequence[str]) -> CounterMetricFamily | GaugeMetricFamily:
        if name.endswith("_total") or name in self._grows:
            base = name.removesuffix("_total")
            return CounterMetricFamily(_PREFIX + base, f"{base}, since the start", labels=labels)
        return GaugeMetricFamily(_PREFIX + name, name, labels=labels)

    def _latencies(self) -> Metric:
        family = HistogramMetricFamily(
            _PREFIX + "node_latency_seconds",
            "time of a delivery on the node, from taken to sent",
            labels=[*self._labels, "topic_class"],
        )
        for (tenant, topic_class), (counts, sum_ns) in self._latency.items():
            buckets, below = [], 0
            for bound_ns, count in zip(_native.HISTOGRAM_BOUNDS_NS, counts, strict=False):
                below += count
                buckets.append((repr(bound_ns / 1e9), float(below)))
            buckets.append(("+Inf", float(sum(counts))))
            labels = [*self._of(tenant), topic_class]
            family.add_metric(labels, buckets, sum_value=sum_ns / 1e9)
        return family
