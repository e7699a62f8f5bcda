"""`sira.v1.Kernel`: what the node is, can do and has counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator

from sira import _native
from sira.kernel import explain, introspect, ledger, memory
from sira.kernel.bus import Bus
from sira.kernel.edge.door import Call
from sira.kernel.edge.parts import Parts, taking_turns
from sira.kernel.errors import MessageTooLarge
from sira.kernel.identity import SYSTEM
from sira.kernel.methods import Catalog, Method, method
from sira.kernel.metrics import LATENCY, Counts, prometheus_of_all
from sira.kernel.settings import Settings
from sira.kernel.subscriptions import OVERFLOW_NAMES, readers
from sira.kernel.topics import is_pattern
from sira.v1 import kernel_pb2

_PAGE_BYTES = 256 << 10  # a page ends after so many: more take a client long to read
_LAST_PART_BYTES = 128  # what comes after the rows, at most
_CLASSES_MAX, _MATCHES_MAX = 1_000, 1_000  # of one answer
_LISTENERS_A_STEP = 5_000


class KernelService:
    """Answers from the bus and the table; changes nothing."""

    def __init__(
        self,
        catalog: Catalog,
        settings: Settings,
        counts: Callable[[Bus], Counts],
        buses: Callable[[], Iterable[Bus]] = tuple,
        memory_parts: Callable[[memory.Asked, int], Iterator[kernel_pb2.MemoryResponse]] = (
            memory.none
        ),
    ) -> None:
        """Read `catalog` and `settings`.

        Args:
            catalog, settings: of the node.
            counts: gives the numbers of one world.
            buses: gives those of all tenants, for operators.
            memory_parts: tells what memory clients share, as `memory.parts` does.
        """
        self._catalog, self._settings, self._counts = catalog, settings, counts
        self._buses, self._memory_parts = buses, memory_parts
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
            method(of["Memory"], self.memory, effects="read",
                   summary="memory that clients share: whose, how old, who looks at it",
                   request=pb.MemoryRequest, response=pb.MemoryResponse),
        ]  # fmt: skip

    async def negotiate(
        self, call: Call, request: kernel_pb2.NegotiateRequest
    ) -> kernel_pb2.NegotiateResponse:
        """Agree on protocol and lanes. See `introspect.negotiate`."""
        return introspect.negotiate(request, call.world.bus, call.proved, call.lane)

    async def introspect(self, call: Call, request: kernel_pb2.IntrospectRequest) -> bytes:
        """Describe the node."""
        bus = call.world.bus
        parts = Parts()
        for part in introspect.introspect(request, self._catalog, self._settings, bus.tenant):
            await parts.add(part)
        names = bus.topics.declarations.class_names()
        for start in range(0, min(len(names), _CLASSES_MAX), Parts.ROWS):
            step = names[start : min(start + Parts.ROWS, _CLASSES_MAX)]
            await parts.add(introspect.declared(bus, step))
        left = max(0, len(names) - _CLASSES_MAX)
        await parts.add(kernel_pb2.IntrospectResponse(topic_classes_left_out=left))
        return parts.whole()

    async def stats(self, call: Call, request: kernel_pb2.StatsRequest) -> bytes:
        """Return what was counted, and each client and subscription."""
        bus = call.world.bus
        bus.may(call.credential, "inspect", "sira.stats")
        numbers = self._counts(bus)
        parts, values = Parts(), await numbers.values()
        await parts.add(
            kernel_pb2.StatsResponse(
                node=self._settings.node_name,
                uptime_ns=_native.now_ns() - self._started_ns,
                values=values,
            )
        )
        for histograms in numbers.histograms():
            part = kernel_pb2.StatsResponse()
            for topic_class, counts, sum_ns in histograms:
                part.histograms.add(
                    name=LATENCY,
                    labels={"topic_class": topic_class},
                    bounds_ns=_native.HISTOGRAM_BOUNDS_NS,
                    counts=counts,
                    sum_ns=sum_ns,
                )
            await parts.add(part)
        for part in clients(bus):
            await parts.add(part)
        if request.prometheus:
            if call.principal.tenant == SYSTEM:
                text = await prometheus_of_all(map(self._counts, self._buses()))
            else:
                text = await numbers.prometheus()
            await parts.add(kernel_pb2.StatsResponse(prometheus=text))
        return parts.whole()

    async def ledger(self, call: Call, request: kernel_pb2.LedgerRequest) -> bytes:
        """Return the rows of a pattern, or a page of them, and whether they balance.

        Each row is of one instant and balances for itself. `moved` says how many topics went since
        the first page was begun: what was delivered on those may stand in two rows.

        Raises:
            BadTopic: the pattern is not well formed.
            BadRequest: `page_token` is none of this method's.
            MessageTooLarge: the rows do not fit into one answer, and pages were not asked for.
        """
        if request.pattern:
            _native.check_pattern(request.pattern)
        bus = call.world.bus
        bus.may(call.credential, "inspect", request.pattern or ">")
        await taking_turns(bus.settle())
        hub, epoch, node = bus.hub, bus.epoch, self._settings.node_name
        token = ledger.Token.read(request.page_token, epoch)
        token = token or ledger.Token(0, hub.stats["topics_folded"])
        walk, parts, rows, balanced = hub.walk(token.position), Parts(), 0, True
        while not walk.done:
            count = min(Parts.ROWS, request.page_rows - rows) if request.page_rows else Parts.ROWS
            found = ledger.select(walk.rows(count, request.pattern), request.pattern)
            part = kernel_pb2.LedgerResponse(rows=[ledger.row(each, node=node) for each in found])
            balanced &= all(ledger.difference(each) == 0 for each in part.rows)
            rows += len(part.rows)
            await parts.add(part)
            if request.page_rows:
                if rows >= request.page_rows or parts.bytes_now >= _PAGE_BYTES:
                    break
            elif parts.bytes_now > self._settings.grpc_message_bytes_max - _LAST_PART_BYTES:
                raise _too_long(rows, self._settings.grpc_message_bytes_max)
        last = kernel_pb2.LedgerResponse(
            epoch=epoch,
            balanced=balanced,
            next=b"" if walk.done else ledger.Token(walk.position, token.folded).write(epoch),
            moved=max(0, hub.stats["topics_folded"] - token.folded),
        )
        await parts.add(last)
        return parts.whole()

    async def explain(self, call: Call, request: kernel_pb2.ExplainRequest) -> bytes:
        """Say why. See `explain.explain`."""
        bus = call.world.bus
        named = request.action in explain.NAMED  # on no topic that a rule for `inspect` could name
        bus.may(call.credential, "inspect", "sira.explain" if named else request.topic)
        parts = Parts()
        await parts.add(explain.explain(bus, request, call.credential))
        if named or is_pattern(request.topic):
            return parts.whole()
        count = 0
        first, listeners = bus.subscriptions.match_first(request.topic, _MATCHES_MAX)
        for start in range(0, len(first), Parts.ROWS):
            await parts.add(explain.matches(bus, first[start : start + Parts.ROWS], request))
        for start in range(0, len(listeners), _LISTENERS_A_STEP):
            count += sum(map(readers, listeners[start : start + _LISTENERS_A_STEP]))
            await asyncio.sleep(0)
        last = kernel_pb2.ExplainResponse(matches_left_out=max(0, count - len(first)))
        if not count:
            last.reasons.append("NO_MATCH: nobody listens")
        elif request.action in ("", "publish"):
            last.reasons.append(explain.past_the_node(bus, listeners, request, call.credential))
        if request.action in ("", "publish"):
            await self._publishers(bus, request, parts)
        await parts.add(last)
        return parts.whole()

    @staticmethod
    async def _publishers(bus: Bus, request: kernel_pb2.ExplainRequest, parts: Parts) -> None:
        every, found = list(bus.clients), 0
        for start in range(0, len(every), Parts.ROWS):
            part = kernel_pb2.ExplainResponse()
            part.publishers.extend(
                explain.publishers(bus, every[start : start + Parts.ROWS], request)
            )
            found += len(part.publishers)
            await parts.add(part)
            if found >= _MATCHES_MAX:
                return

    async def memory(self, call: Call, request: kernel_pb2.MemoryRequest) -> bytes:
        """Return the memory that clients of the caller's tenant share; operators see all of it.

        Raises:
            BadTopic: the pattern is not well formed.
        """
        if request.pattern:
            _native.check_pattern(request.pattern)
        call.world.bus.may(call.credential, "inspect", "sira.memory")
        tenant = call.principal.tenant
        asked = memory.Asked("" if tenant == SYSTEM else tenant, request.pattern)
        await taking_turns(call.world.bus.settle())
        parts = Parts()
        for part in self._memory_parts(asked, _native.now_ns()):
            await parts.add(part)
        return parts.whole()


def clients(bus: Bus) -> Iterator[kernel_pb2.StatsResponse]:
    """Yield each client and subscription, a part of an answer at a time.

    Others may have the loop between two parts: who has gone meanwhile may be left out.
    """
    now_ns = _native.now_ns()
    part, rows = kernel_pb2.StatsResponse(), 0
    for client in list(bus.clients):
        delivered, queued_bytes = client.delivered_before, 0
        for stream in list(client.subscribes):
            queued_bytes += stream.egress.queued_bytes
            for each in list(stream.subscriptions.values()):
                sub, rows = each.sub, rows + 1
                delivered += sub.delivered
                part.subscriptions.add(
                    client=client.id,
                    pattern=each.pattern,
                    group=each.group_name,
                    overflow=OVERFLOW_NAMES[each.overflow],
                    pending=each.pending,
                    in_flight=sub.in_flight,
                    delivered=sub.delivered,
                    dropped=sub.dropped,
                    stalled=sub.stalled,
                )
                if rows % Parts.ROWS == 0:
                    yield part
                    part = kernel_pb2.StatsResponse()
        part.clients.add(
            id=client.id,
            principal=str(client.principal),
            peer=client.peer,
            published=client.published_before
            + sum(stream.ingress.published for stream in client.publishes),
            delivered=delivered,
            connected_ns=now_ns - client.connected_ns,
            queued_bytes=queued_bytes,
        )
        rows += 1
        if rows % Parts.ROWS == 0:
            yield part
            part = kernel_pb2.StatsResponse()
    yield part


def _too_long(rows: int, limit_bytes: int) -> MessageTooLarge:
    return MessageTooLarge(
        f"a ledger of more than {rows} rows does not fit into one answer; ask in pages, or with a "
        "pattern",
        details={"setting": "grpc_message_bytes_max", "limit_bytes": str(limit_bytes)},
        help="set page_rows and follow `next`, or ask for the topics of a narrower pattern",
    )
