"""One node: the bus, its gRPC edge, its time. `await node.start()`, then `await node.stop()`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import grpc

from sira import __version__, _native
from sira.kernel import memory, telemetry
from sira.kernel.access import Access
from sira.kernel.admission.limits import Limit
from sira.kernel.bus import Bus
from sira.kernel.edge import draining, load
from sira.kernel.edge.attach import Attaching
from sira.kernel.edge.bus_service import BusService
from sira.kernel.edge.connections import Connections
from sira.kernel.edge.door import Door
from sira.kernel.edge.health import HealthService
from sira.kernel.edge.kernel_service import KernelService
from sira.kernel.edge.link import Links
from sira.kernel.edge.parting import part
from sira.kernel.edge.reflection import ReflectionService
from sira.kernel.edge.server import check_exposure, listen
from sira.kernel.edge.strangers import Strangers
from sira.kernel.edge.world import World, Worlds
from sira.kernel.errors import BadSetting, NodeDraining, SiraError
from sira.kernel.events import Field, Kind
from sira.kernel.guard import Guard
from sira.kernel.identity import SYSTEM
from sira.kernel.introspect import builtin_topic_classes
from sira.kernel.lent import Lent
from sira.kernel.local.direct import Direct, link_limits_of
from sira.kernel.local.lending import limits_of
from sira.kernel.local.listener import Listener, socket_path
from sira.kernel.logs import Logs
from sira.kernel.loopback import is_loopback
from sira.kernel.methods import Catalog
from sira.kernel.metrics import Counts, Loop
from sira.kernel.metrics import Door as DoorCounts
from sira.kernel.parts import Host, Part, TopicKeeper, start_all, stop_all
from sira.kernel.settings import Settings

_LAG_EVERY_S = 0.5
_EPOCH_BYTES = 16
_LAST_WORDS_S = 0.1
# At the end of a connection gRPC asks the peer whether it has read all there was; one that is well
# answers at once. Closed under one that starves the connection is reset, and what it had not read
# may be lost: it is waited for so long, if it was owed an answer (kernel/edge/parting.py). Shorter
# than the supervisor waits after `drain_s`.
_FAREWELL_S = 5.0


class Node:
    """A node in this process. Belongs to the loop that `start` runs on."""

    def __init__(
        self,
        settings: Settings,
        *,
        logs: Logs | None = None,
        holds_folder: bool = False,
        parts: Iterable[Part] = (),
    ) -> None:
        """Take the settings; nothing is opened before `start`.

        Args:
            holds_folder: the data folder's lock is held for this node: it has `sira.sock` there.
            parts: what it has beside the bus.
        """
        self.settings = settings
        self.logs = logs or Logs(
            node=settings.node_name, level=settings.log_level, queue_max=settings.log_queue_max
        )
        self.catalog = Catalog()
        self.loop_lag = Loop()
        self.port = self.mtls_port = 0
        self.stopped = asyncio.Event()
        self.died = asyncio.Event()
        self._draining = False
        self.files_refused = 0
        self._holds_folder = holds_folder
        self._server: grpc.aio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._parts = list(parts)
        self._keeper: TopicKeeper | None = None
        self._started_parts: list[Part] = []
        self._part_counts: dict[str, Callable[[], float]] = {}

    @property
    def bus(self) -> Bus:
        """The world of the tenant `default`. Requires: started."""
        return self.worlds.default.bus

    @property
    def address(self) -> str:
        """HOST:PORT that it listens on. Requires: started."""
        return f"{self.settings.address[0]}:{self.port}"

    async def start(self) -> None:
        """Listen and serve.

        Raises:
            AddressInUse: the port is taken.
            BadSetting: a file that is named cannot be used, or the node would be open to strangers.
            SiraError: why one of its parts cannot start.
        """
        settings = self.settings
        check_exposure(settings)
        loop = asyncio.get_running_loop()
        self.access = Access()
        self.guard = Guard(
            settings,
            self.access,
            changed=self._rules_changed,
            limited=self._set_limits,
            refused=self._file_refused,
        )
        self._loop, self._epoch = loop, os.urandom(_EPOCH_BYTES)
        self.lent = Lent(limits_of(settings))
        self.direct = Direct(link_limits_of(settings), self.lent, loop)
        self.worlds = Worlds(self._make_world, tenants_max=settings.tenants_max)
        self.health = HealthService(self.catalog)
        self._started_parts = await start_all(self._parts, self._host())
        self.telemetry = telemetry.configured(settings)
        self.connections = Connections(
            resets_per_s_max=settings.resets_per_connection_s_max,
            stray_bytes_per_s_max=settings.stray_bytes_per_connection_s_max,
            call_bytes_max=settings.grpc_message_bytes_max + settings.stream_window_bytes,
            hold_s=settings.reset_hold_s,
            closed=self._connection_closed,
        )
        self.strangers = Strangers(
            each_max=settings.strangers_per_address_max,
            all_max=settings.strangers_max,
            empty_per_s_max=settings.empty_per_address_s_max,
            hold_s=settings.reset_hold_s,
            held=self._address_held,
            looked=self.connections.looked,
        )
        self.links = Links()
        self.door = Door(
            self.catalog,
            self.worlds,
            identify=self.guard.identify,
            logs=self.logs,
            telemetry=self.telemetry,
            connections=self.connections,
            strangers=self.strangers,
            links=self.links,
            unary_bytes_max=settings.unary_bytes_max,
            metadata_bytes_max=settings.metadata_bytes_max,
        )
        listening = listen(settings, self.door, self.guard.handshakes)
        self._server, self.port = listening.server, listening.port
        self.mtls_port = listening.mtls_port
        # Before the port answers: local clients that come back look for this one first.
        self.local = Listener(settings, self.door, self.logs, self.lent, self.direct)
        if self._holds_folder and settings.socket_mode != "none" and sys.platform == "linux":
            self._listen_locally()
        self.connections.serve(self.port, self.mtls_port)
        self.attaching = Attaching(self.catalog, self.links, settings)
        self._fill_catalog()
        await self._server.start()
        self._tasks.append(loop.create_task(self._watch(self._server), name="sira-watch"))
        self._tasks.append(loop.create_task(self._measure_lag(), name="sira-lag"))
        self._tasks.append(loop.create_task(self.guard.reloader.run(), name="sira-reload"))
        self._tasks.append(loop.create_task(load.tell(self.worlds), name="sira-load"))
        counting = self.strangers.run(self.port, self.mtls_port)
        self._tasks.append(loop.create_task(counting, name="sira-strangers"))
        self._warn_when_open()
        self.logs.info(
            "node", "started", f"listening on {self.address}", version=__version__,
            epoch=self._epoch.hex(),
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
        self._draining = True
        for world in self.worlds:
            world.bus.drain()
        self.logs.info("node", "draining", f"waiting at most {grace_s:g} s", drain_s=grace_s)
        if grace_s > 0:
            await draining.flush(self.worlds, lambda: self.attaching.calls_now, grace_s)
        left = draining.waiting(self.worlds)
        error = NodeDraining("the node has gone down in order", retry_after_ms=1_000)
        for world in self.worlds:
            world.requests.close()
        farewell_s = min(grace_s, _FAREWELL_S)
        self.links.end_all(error)
        # Time for the writers' last words; a client that does not read gets none.
        await self.links.all_ended(max(min(grace_s, draining.CONFIRM_S), _LAST_WORDS_S))
        self.health.end_watches()
        await self.connections.stop()
        await self.local.close()
        stopping = asyncio.get_running_loop().create_task(server.stop(farewell_s), name="sira-part")
        await part(
            stopping,
            ports=self.connections.ports,
            strays=self.connections.strays,
            farewell_s=farewell_s,
        )
        await stop_all(self._started_parts)
        while any(world.bus.slices.running for world in self.worlds):  # noqa: ASYNC110  they go on at each turn
            await asyncio.sleep(0)
        for task in self._tasks:
            task.cancel()
        for world in self.worlds:
            world.ticker.close()
        self.logs.info("node", "stopped", f"{left} deliveries were left", left=left)
        if self.telemetry is not None:
            await asyncio.get_running_loop().run_in_executor(None, self.telemetry.close)
        for world in self.worlds:
            world.bus.hub.close()
        self.stopped.set()

    async def _watch(self, server: grpc.aio.Server) -> None:
        """Set `died` when the server ends and nobody asked it to: a node that nobody can reach."""
        reason = "it says no reason"
        try:
            await server.wait_for_termination()
        except Exception as error:  # gRPC hands on what its own loop fell over
            reason = f"{type(error).__name__}: {error}"
        if self._server is server:
            self.logs.error("node", "died", f"the gRPC server ended by itself: {reason}")
            self.died.set()

    def _listen_locally(self) -> None:
        """Open `sira.sock`; a folder whose path is too long has none.

        Raises:
            AddressInUse, DataDirUnusable: see `Listener.listen`.
        """
        try:
            path = socket_path(self.settings)
        except BadSetting as error:
            self.logs.warning("node", "no_socket", f"{error}: local clients come by {self.address}")
            return
        self.local.listen(path)

    def _file_refused(self, name: str, error: SiraError) -> None:
        """Say loudly that what a file has become is not in force."""
        self.files_refused += 1
        self.logs.error("node", "reload", f"{name}: the old one stays: {error}", setting=name)
        for world in self.worlds:
            world.bus.events.emit(
                "sira.config.refused", setting=name,
                reason=str(error) if world.tenant == SYSTEM else error.code,
            )  # fmt: skip

    def _connection_closed(self, peer: str, setting: str, tenant: str | None) -> None:
        """Say that a connection has passed a limit; a stranger's is the operators' business."""
        world = self.worlds.get(SYSTEM if tenant is None else tenant)
        limit = float(getattr(self.settings, setting))
        if world is not None:
            world.bus.events.emit("sira.connection.closed", peer=peer, setting=setting, limit=limit)
            return
        self.logs.warning(
            "edge", "connection.closed", f"{peer} is past {setting} = {limit:g}",
            peer=peer, setting=setting,
        )  # fmt: skip

    def _address_held(self, address: str, setting: str, count: int) -> None:
        """Say that nothing new is let in from an address: the operators' business."""
        world, limit = self.worlds.get(SYSTEM), float(getattr(self.settings, setting))
        if world is not None:
            world.bus.events.emit(
                "sira.address.held", address=address, setting=setting, limit=limit, count=count
            )
            return
        self.logs.warning(
            "edge", "address.held",
            f"{count} connections from {address}, past {setting} = {limit:g}: none is let in",
            address=address, setting=setting, count=count,
        )  # fmt: skip

    def say(self, topic: str, /, **fields: Field) -> None:
        """Say a fact of the node's own, known to somebody else, in all worlds; log it once."""
        self.bus.events.emit(topic, **fields)
        for world in self.worlds:
            if world is not self.worlds.default and world.tenant != SYSTEM:
                world.bus.events.repeat(topic, {**fields, "tenant": world.tenant})

    def is_heard(self, topic: str) -> bool:
        """Whether anybody subscribes to a fact, in any world."""
        return any(world.bus.events.is_heard(topic) for world in self.worlds)

    def _soon(self, work: Callable[[], None]) -> None:
        self._loop.call_soon(self.loop_lag.call, work)

    def _log_fact(self, kind: Kind, fields: Mapping[str, Field]) -> None:
        """Write a fact of `sira.>` into the log."""
        self.logs.write(kind.level, "bus", kind.topic, kind.summary, fields)

    def _make_world(self, tenant: str) -> World:
        """Make what a tenant has on this node."""
        bus = Bus(
            self.settings,
            tenant=tenant,
            access=self.access,
            epoch=self._epoch,
            soon=self._soon,
            log=self._log_fact,
            tell=None if tenant == SYSTEM else self._tell_operators,
        )
        bus.settle = partial(self.direct.look, bus)
        if self.guard.limits:
            bus.set_limits(self.guard.limits)
        if self._draining:
            bus.drain()
        return World.around(bus, self.loop_lag)

    def _tell_operators(self, topic: str, fields: Mapping[str, Field]) -> None:
        """Say a fact of one tenant in the operators' world, too."""
        operators = self.worlds.get(SYSTEM)
        if operators is not None:
            operators.bus.events.repeat(topic, fields)

    async def _rules_changed(self, setting: str, value: str) -> None:
        """Say that a file is in force now, and bring what is open in line with it."""
        self.logs.info("node", "reload", f"{setting}: changed, and in force", setting=setting)
        for world in self.worlds:
            bus = world.bus
            bus.tell_config(setting, value if world.tenant == SYSTEM else "changed")
            bus.audit(bus.node.principal, "administer", setting)
        await self.recheck()

    def _set_limits(self, limits: tuple[Limit, ...]) -> None:
        for world in self.worlds:
            world.bus.set_limits(limits)

    async def recheck(self) -> None:
        """End what the rules of now do not allow, a little at a time."""
        for world in self.worlds:
            for _ in world.bus.rules_changed():
                await asyncio.sleep(0)
        for _ in self.links.recheck(self.access):
            await asyncio.sleep(0)

    def _warn_when_open(self) -> None:
        if not self.settings.tls_cert and not is_loopback(self.settings.address[0]):
            self.logs.warning(
                "node", "open", f"{self.address} is reached from outside without TLS: what is "
                "said there can be read and changed on the way, tokens included",
            )  # fmt: skip

    def _fill_catalog(self) -> None:
        catalog = self.catalog
        services = (
            KernelService(
                catalog,
                self.settings,
                self._counts,
                lambda: [w.bus for w in self.worlds],
                partial(memory.parts, self.lent, self.direct),
            ),
            self.attaching,
            BusService(self.links, lambda: self._keeper),
            self.health,
            ReflectionService(catalog),
        )
        for service in services:
            catalog.add_methods(*service.methods())
        for topic_class in builtin_topic_classes():
            catalog.add_topic_class(topic_class)
        for each in self._parts:
            catalog.add_methods(*each.methods())
            for topic_class in each.topic_classes():
                catalog.add_topic_class(topic_class)

    def _keep_topics(self, keeper: TopicKeeper) -> None:
        self._keeper = keeper

    def _host(self) -> Host:
        """Return what parts may use of this node."""
        return Host(
            settings=self.settings,
            logs=self.logs,
            folder=self.settings.data_path if self._holds_folder else None,
            bus_of=lambda tenant: self.worlds.of(tenant).bus,
            bus_if=lambda tenant: getattr(self.worlds.get(tenant), "bus", None),
            say=self.say,
            not_ready=self.health.not_serving,
            keep_topics=self._keep_topics,
            count=self._part_counts.__setitem__,
            limp=self.health.limp,
        )

    def _counts(self, bus: Bus) -> Counts:
        """Return the numbers of one world and of this process."""
        return Counts(
            bus, self.logs, self.loop_lag, self.door, self._door_counts, self.lent,
            self.direct.numbers, self._part_counts,
        )  # fmt: skip

    def _door_counts(self) -> DoorCounts:
        pair = self.guard.handshakes.pair if self.guard.handshakes is not None else None
        return DoorCounts(
            files_refused=self.files_refused,
            calls_unidentified=self.door.unidentified,
            tls_cert_expires_s=pair.expires_s if pair is not None else 0.0,
            token_keys=self.guard.token_keys,
        )

    async def _measure_lag(self) -> None:
        """Notice when something holds the loop."""
        while True:
            before_ns = _native.now_ns()
            await asyncio.sleep(_LAG_EVERY_S)
            lag_ns = _native.now_ns() - before_ns - round(_LAG_EVERY_S * 1e9)
            self.loop_lag.note(max(0, lag_ns))
