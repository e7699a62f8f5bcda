"""`sira.v1.Kernel`: what the node is, can do and has counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from sira import _native
from sira.kernel import introspect, ledger
from sira.kernel.bus import Bus
from sira.kernel.edge.door import Call
from sira.kernel.errors import MessageTooLarge
from sira.kernel.explain import NAMED, explain
from sira.kernel.identity import SYSTEM
from sira.kernel.methods import Catalog, Method, method
from sira.kernel.metrics import LATENCY, Counts, prometheus_of_all
from sira.kernel.settings import Settings
from sira.kernel.subscriptions import OVERFLOW_NAMES
from sira.v1 import kernel_pb2

_ROWS_A_STEP = 200  # between two steps others have the loop
_ROW_FRAME_BYTES = 5  # key and length of a row in the answer, at most


class KernelService:
    """Answers from the bus and the table; changes nothing."""

    def __init__(
        self,
        catalog: Catalog,
        settings: Settings,
        counts: Callable[[Bus], Counts],
        buses: Callable[[], Iterable[Bus]] = tuple,
    ) -> None:
        """Read `catalog` and `settings`.

        Args:
            catalog, settings: of the node.
            counts: gives the numbers of one world.
            buses: gives those of all tenants, for operators.
        """
        self._catalog, self._settings, self._counts = catalog, settings, counts
        self._buses = buses
        self._started_ns = _native.now_ns()

    def methods(self) -> list[Method]:
        """Return the entries for the table."""
        of = kernel_pb2.DESCRIPTOR.services_by_name["Kernel"].methods_by_name
        pb = kernel_pb2
        return [
            method(of["Negotiate"], self.negotiate, effects="read", public=True,
                   summary="agree on protocol and lanes; features, limits, who you are",
                   request=pb.NegotiateRequest, response=pb.NegotiateResponse),
            method(of["Introspect"], self.introspect, effects="read",
                   summary="services, methods with schemas, settings, topic classes, events",
                   request=pb.IntrospectRequest, response=pb.IntrospectResponse),
            method(of["Stats"], self.stats, effects="read",
                   summary="numbers, latency histograms, clients and subscriptions",
                   request=pb.StatsRequest, response=pb.StatsResponse),
            method(of["Ledger"], self.ledger, effects="read",
                   summary="deliveries owed and what became of them, per topic",
                   request=pb.LedgerRequest, response=pb.LedgerResponse),
            method(of["Explain"], self.explain, effects="read",
                   summary="why a message goes where it goes",
                   request=pb.ExplainRequest, response=pb.ExplainResponse),
        ]  # fmt: skip

    async def negotiate(
        self, call: Call, request: kernel_pb2.NegotiateRequest
    ) -> kernel_pb2.NegotiateResponse:
        """Agree on protocol and lanes. See `introspect.negotiate`."""
        return introspect.negotiate(request, call.world.bus, call.proved)

    async def introspect(
        self, call: Call, request: kernel_pb2.IntrospectRequest
    ) -> kernel_pb2.IntrospectResponse:
        """Describe the node."""
        return introspect.introspect(request, self._catalog, self._settings, call.world.bus)

    async def stats(self, call: Call, request: kernel_pb2.StatsRequest) -> kernel_pb2.StatsResponse:
        """Return what was counted, and each client and subscription."""
        bus = call.world.bus
        bus.may(call.credential, "inspect", "sira.stats")
        counts = self._counts(bus)
        values = await counts.values()
        response = kernel_pb2.StatsResponse(
            node=self._settings.node_name,
            uptime_ns=_native.now_ns() - self._started_ns,
            values=values,
        )
        for topic_class, buckets, sum_ns in counts.histograms():
            response.histograms.add(
                name=LATENCY,
                labels={"topic_class": topic_class},
                bounds_ns=_native.HISTOGRAM_BOUNDS_NS,
                counts=buckets,
                sum_ns=sum_ns,
            )
        await add_clients(bus, response)
        if request.prometheus:
            if call.principal.tenant == SYSTEM:
                response.prometheus = await prometheus_of_all(map(self._counts, self._buses()))
            else:
                response.prometheus = await counts.prometheus()
        return response

    async def ledger(
        self, call: Call, request: kernel_pb2.LedgerRequest
    ) -> kernel_pb2.LedgerResponse:
        """Return the rows of a pattern, all of one instant, and whether they balance.

        Raises:
            BadTopic: the pattern is not well formed.
            MessageTooLarge: the rows do not fit into one answer.
        """
        if request.pattern:
            _native.check_pattern(request.pattern)
        bus = call.world.bus
        bus.may(call.credential, "inspect", request.pattern or ">")
        response = kernel_pb2.LedgerResponse(epoch=bus.epoch)
        counts = list(ledger.select(bus.hub.ledger(request.pattern), request.pattern))
        response.balanced, size = True, 0
        for index, each in enumerate(counts):
            made = ledger.row(each, node=self._settings.node_name)
            response.rows.append(made)
            response.balanced &= ledger.difference(made) == 0
            size += made.ByteSize() + _ROW_FRAME_BYTES
            if size > self._settings.grpc_message_bytes_max:
                raise _too_long(len(counts), self._settings.grpc_message_bytes_max)
            if index % _ROWS_A_STEP == _ROWS_A_STEP - 1:
                await asyncio.sleep(0)
        return response

    async def explain(
        self, call: Call, request: kernel_pb2.ExplainRequest
    ) -> kernel_pb2.ExplainResponse:
        """Say why. See `explain.explain`."""
        bus = call.world.bus
        named = request.action in NAMED  # on no topic that a rule for `inspect` could name
        bus.may(call.credential, "inspect", "sira.explain" if named else request.topic)
        return explain(bus, request, call.credential)


async def add_clients(bus: Bus, response: kernel_pb2.StatsResponse) -> None:
    """Add each client and subscription; others have the loop meanwhile."""
    now_ns = _native.now_ns()
    rows = 0
    for client in list(bus.clients):
        entry = response.clients.add(
            id=client.id,
            principal=str(client.principal),
            peer=client.peer,
            published=client.published_before
            + sum(stream.ingress.published for stream in client.publishes),
            delivered=client.delivered_before,
            connected_ns=now_ns - client.connected_ns,
        )
        for stream in list(client.subscribes):
            entry.queued_bytes += stream.egress.queued_bytes
            for each in list(stream.subscriptions.values()):
                sub, rows = each.sub, rows + 1
                entry.delivered += sub.delivered
                response.subscriptions.add(
                    client=client.id,
                    pattern=each.pattern,
                    group=each.group_name,
                    overflow=OVERFLOW_NAMES[each.overflow],
                    pending=sub.pending,
                    in_flight=sub.in_flight,
                    delivered=sub.delivered,
                    dropped=sub.dropped,
                    stalled=sub.stalled,
                )
                if rows % _ROWS_A_STEP == 0:
                    await asyncio.sleep(0)
        rows += 1
        if rows % _ROWS_A_STEP == 0:
            await asyncio.sleep(0)


def _too_long(rows: int, limit_bytes: int) -> MessageTooLarge:
    return MessageTooLarge(
        f"the ledger of {rows} rows does not fit into one answer; ask with a pattern",
        details={"setting": "grpc_message_bytes_max", "limit_bytes": str(limit_bytes)},
        help="ask for the topics of a narrower pattern, one after the other",
    )
