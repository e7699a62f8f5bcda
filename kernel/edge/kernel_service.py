"""`sira.v1.Kernel`: what the node is, can do and has counted."""

from __future__ import annotations

import asyncio

from sira import _native
from sira.kernel import introspect, ledger
from sira.kernel.bus import Bus
from sira.kernel.edge.door import Call
from sira.kernel.explain import explain
from sira.kernel.methods import Catalog, Method, method
from sira.kernel.metrics import LATENCY, Counts
from sira.kernel.settings import Settings
from sira.kernel.subscriptions import OVERFLOW_NAMES
from sira.v1 import kernel_pb2

_ROWS_A_STEP = 200  # between two steps others have the loop


class KernelService:
    """Answers from the bus and the table; changes nothing."""

    def __init__(self, bus: Bus, catalog: Catalog, settings: Settings, counts: Counts) -> None:
        self._bus, self._catalog, self._settings = bus, catalog, settings
        self._counts = counts
        self._started_ns = _native.now_ns()

    def methods(self) -> list[Method]:
        """Return the entries for the table."""
        of = kernel_pb2.DESCRIPTOR.services_by_name["Kernel"].methods_by_name
        pb = kernel_pb2
        return [
            method(of["Negotiate"], self.negotiate, effects="read",
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
        return introspect.negotiate(
            request, self._bus, principal=str(call.principal), tenant=call.principal.tenant
        )

    async def introspect(
        self, call: Call, request: kernel_pb2.IntrospectRequest
    ) -> kernel_pb2.IntrospectResponse:
        """Describe the node."""
        del call
        return introspect.introspect(request, self._catalog, self._settings, self._bus)

    async def stats(self, call: Call, request: kernel_pb2.StatsRequest) -> kernel_pb2.StatsResponse:
        """Return what was counted, and each client and subscription."""
        self._bus.may(call.principal, "inspect", "sira.stats")
        response = kernel_pb2.StatsResponse(
            node=self._settings.node_name,
            uptime_ns=_native.now_ns() - self._started_ns,
            values=self._counts.values(),
        )
        for topic_class, counts, sum_ns in self._counts.histograms():
            response.histograms.add(
                name=LATENCY,
                labels={"topic_class": topic_class},
                bounds_ns=_native.HISTOGRAM_BOUNDS_NS,
                counts=counts,
                sum_ns=sum_ns,
            )
        await self._add_clients(response)
        if request.prometheus:
            response.prometheus = self._counts.prometheus()
        return response

    async def ledger(
        self, call: Call, request: kernel_pb2.LedgerRequest
    ) -> kernel_pb2.LedgerResponse:
        """Return the rows of a pattern, all of one instant, and whether they balance.

        Raises:
            BadTopic: the pattern is not well formed.
        """
        if request.pattern:
            _native.check_pattern(request.pattern)
        self._bus.may(call.principal, "inspect", request.pattern or ">")
        response = kernel_pb2.LedgerResponse(epoch=self._bus.epoch)
        counts = list(ledger.select(self._bus.hub.ledger(request.pattern), request.pattern))
        for index, each in enumerate(counts):
            response.rows.append(ledger.row(each, node=self._settings.node_name))
            if index % _ROWS_A_STEP == _ROWS_A_STEP - 1:
                await asyncio.sleep(0)
        response.balanced = ledger.balanced(response.rows)
        return response

    async def explain(
        self, call: Call, request: kernel_pb2.ExplainRequest
    ) -> kernel_pb2.ExplainResponse:
        """Say why. See `explain.explain`."""
        self._bus.may(call.principal, "inspect", request.topic)
        return explain(self._bus, request, call.principal)

    async def _add_clients(self, response: kernel_pb2.StatsResponse) -> None:
        now_ns = _native.now_ns()
        for index, client in enumerate(list(self._bus.clients)):
            entry = response.clients.add(
                id=client.id,
                principal=str(client.principal),
                peer=client.peer,
                published=client.published_before
                + sum(stream.ingress.published for stream in client.publishes),
                delivered=client.delivered_before,
                connected_ns=now_ns - client.connected_ns,
            )
            for stream in client.subscribes:
                entry.queued_bytes += stream.egress.queued_bytes
                for each in stream.subscriptions.values():
                    sub = each.sub
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
            if index % _ROWS_A_STEP == _ROWS_A_STEP - 1:
                await asyncio.sleep(0)
