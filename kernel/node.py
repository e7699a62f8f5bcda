"""One node: the bus, its gRPC edge, its time. `await node.start()`, then `await node.stop()`."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Mapping
from typing import Any

import grpc

from sira import __version__, _native
from sira.kernel import telemetry
from sira.kernel.bus import Bus
from sira.kernel.edge.bus_service import BusService
from sira.kernel.edge.door import Door
from sira.kernel.edge.health import HealthService
from sira.kernel.edge.kernel_service import KernelService
from sira.kernel.edge.link import Links
from sira.kernel.edge.publish import Publishing
from sira.kernel.edge.reflection import ReflectionService
from sira.kernel.edge.request import Requests
from sira.kernel.edge.server import listen
from sira.kernel.edge.subscribe import Subscribing
from sira.kernel.edge.ticker import Ticker
from sira.kernel.errors import NodeDraining
from sira.kernel.events import Field, Kind
from sira.kernel.identity import Principal
from sira.kernel.introspect import builtin_topic_classes
from sira.kernel.logs import Logs
from sira.kernel.methods import Catalog
from sira.kernel.metrics import Counts, Loop
from sira.kernel.settings import Settings

_LAG_EVERY_S = 0.5
_DRAIN_LOOK_S = 0.01
# What is with the clients and not confirmed is waited for as long as confirmations come; after so
# long without one the rest is left to the ledger.
_CONFIRM_S = 1.0
_LAST_WORDS_S = 0.1


class Node:
    """A node in this process. Belongs to the loop that `start` runs on."""

    def __init__(self, settings: Settings, *, logs: Logs | None = None) -> None:
        """Take the settings; nothing is opened before `start`."""
        self.settings = settings
        self.logs = logs or Logs(
            node=settings.node_name, level=settings.log_level, queue_max=settings.log_queue_max
        )
        self.catalog = Catalog()
        self.loop_lag = Loop()
        self.port = 0
        self.stopped = asyncio.Event()
        self._anonymous = Principal(settings.cluster_name, "default", "user", "anonymous")
        self._server: grpc.aio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def address(self) -> str:
        """HOST:PORT that it listens on. Requires: started."""
        return f"{self.settings.address[0]}:{self.port}"

    async def start(self) -> None:
        """Listen and serve.

        Raises:
            AddressInUse: the port is taken.
        """
        settings = self.settings
        loop = asyncio.get_running_loop()
        self.bus = Bus(settings, soon=loop.call_soon, log=self._log_fact)
        self.ticker = Ticker(self.bus)
        self.telemetry = telemetry.configured(settings)
        self.door = Door(
            self.catalog,
            self.bus,
            identify=self._identify,
            logs=self.logs,
            telemetry=self.telemetry,
        )
        self._server, self.port = listen(settings, self.door)
        self.links = Links()
        self.requests = Requests(self.bus, self.ticker)
        self.counts = Counts(self.bus, self.logs, self.loop_lag, self.door)
        self.health = HealthService(self.catalog)
        self._fill_catalog()
        await self._server.start()
        self._tasks.append(loop.create_task(self._measure_lag(), name="sira-lag"))
        self._warn_when_open()
        self.logs.info(
            "node", "started", f"listening on {self.address}", version=__version__,
            epoch=self.bus.epoch.hex(),
        )  # fmt: skip

    async def stop(self, grace_s: float | None = None) -> None:
        """Drain and end: nothing new is taken, what was accepted is delivered, streams end.

        Args:
            grace_s: how long to wait for subscribers to take what waits; None: the setting
                `drain_s`; 0: at once.
        """
        if self._server is None:
            return
        server, self._server = self._server, None
        grace_s = self.settings.drain_s if grace_s is None else grace_s
        self.health.not_serving()
        self.bus.drain()
        self.logs.info("node", "draining", f"waiting at most {grace_s:g} s", drain_s=grace_s)
        if grace_s > 0:
            await self._flush(grace_s)
        left = self._waiting()
        error = NodeDraining("the node has gone down in order", retry_after_ms=1_000)
        self.requests.close()
        self.links.end_all(error)
        # Time for the writers' last words; a client that does not read gets none.
        await self.links.all_ended(max(min(grace_s, _CONFIRM_S), _LAST_WORDS_S))
        await server.stop(0)
        for task in self._tasks:
            task.cancel()
        self.ticker.close()
        self.logs.info("node", "stopped", f"{left} deliveries were left", left=left)
        if self.telemetry is not None:
            await asyncio.get_running_loop().run_in_executor(None, self.telemetry.close)
        self.bus.hub.close()
        self.stopped.set()

    def _log_fact(self, kind: Kind, fields: Mapping[str, Field]) -> None:
        """Write a fact of `sira.>` into the log."""
        principal = fields.get("principal")
        tenant = self._tenant_of(principal) if isinstance(principal, str) else ""
        self.logs.write(kind.level, "bus", kind.topic, kind.summary, {**fields, "tenant": tenant})

    @staticmethod
    def _tenant_of(principal: str) -> str:
        parts = principal.split("/")  # sira://CLUSTER/TENANT/KIND/NAME
        return parts[3] if len(parts) > 3 else ""

    def _identify(self, context: Any) -> Principal:
        """Say who a connection speaks for: without TLS, whoever can reach the port."""
        del context
        return self._anonymous

    def _warn_when_open(self) -> None:
        host = self.settings.address[0].strip("[]")
        if host != "localhost" and not _is_loopback(host):
            self.logs.warning(
                "node", "open", f"{self.address} is reached from outside, and all who reach it "
                "are trusted: listen on loopback, or keep strangers off the network",
            )  # fmt: skip

    def _fill_catalog(self) -> None:
        bus, catalog = self.bus, self.catalog
        publishing = Publishing(bus, self.ticker, self.links)
        subscribing = Subscribing(bus, self.ticker, self.links)
        services = (
            KernelService(bus, catalog, self.settings, self.counts),
            BusService(bus, publishing, subscribing, self.requests),
            self.health,
            ReflectionService(catalog),
        )
        for service in services:
            catalog.add_methods(*service.methods())
        for topic_class in builtin_topic_classes():
            catalog.add_topic_class(topic_class)

    async def _flush(self, grace_s: float) -> None:
        """Wait until all that was accepted is sent and confirmed, or the time is up."""
        end_ns = _native.now_ns() + round(grace_s * 1e9)
        confirmed_ns, in_flight_before = _native.now_ns(), -1
        while (now_ns := _native.now_ns()) < end_ns:
            stats = self.bus.hub.stats
            pending = sum(each.sub.pending for each in self.bus.subscriptions)
            in_flight = self._waiting() - pending
            if in_flight != in_flight_before:
                confirmed_ns, in_flight_before = now_ns, in_flight
            busy = pending or stats["parked"] or stats["transfers"] or len(self.requests)
            if not busy and (not in_flight or now_ns - confirmed_ns > _CONFIRM_S * 1e9):
                return
            self.ticker.hurry()
            await asyncio.sleep(_DRAIN_LOOK_S)

    def _waiting(self) -> int:
        """Return deliveries that are owed: waiting, or sent and not confirmed."""
        return sum(each.sub.pending + each.sub.in_flight for each in self.bus.subscriptions)

    async def _measure_lag(self) -> None:
        """Notice when something holds the loop."""
        while True:
            before_ns = _native.now_ns()
            await asyncio.sleep(_LAG_EVERY_S)
            lag_ns = _native.now_ns() - before_ns - round(_LAG_EVERY_S * 1e9)
            self.loop_lag.note(max(0, lag_ns))


def _is_loopback(host: str) -> bool:
    """Whether an address is of this machine alone; a name may be anything."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
