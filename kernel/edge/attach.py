"""`Kernel.Attach`: a service brings methods into the table and answers their calls."""

from __future__ import annotations

import asyncio

from sira import _native
from sira.kernel.attach.calls import Calls, Pending
from sira.kernel.attach.offer import read_offer
from sira.kernel.edge.door import Call, intent
from sira.kernel.edge.link import Links, StreamLink
from sira.kernel.errors import (
    HandlerFailed,
    NodeDraining,
    PeerLost,
    ProtocolError,
    QuotaExceeded,
    SiraError,
    Timeout,
)
from sira.kernel.methods import Brought, Catalog, Method, method
from sira.kernel.settings import Settings
from sira.v1 import kernel_pb2

# What of a call's metadata the service is told.
_PASSED = ("traceparent", "tracestate", "sira-intent")
_PASSED_CHARS_MAX = 512


class Attaching:
    """Serves the Attach streams of a node."""

    def __init__(self, catalog: Catalog, links: Links, settings: Settings) -> None:
        """Bring what services offer into `catalog`; `links` holds their streams."""
        self._catalog, self._links, self._settings = catalog, links, settings
        self._attached: set[_Attached] = set()

    def methods(self) -> list[Method]:
        """Return the entry for the table."""
        of = kernel_pb2.DESCRIPTOR.services_by_name["Kernel"].methods_by_name
        return [
            method(of["Attach"], self.attach, effects="once", parting=True,
                   summary="bring methods of a service into the table while the stream lasts",
                   request=kernel_pb2.AttachRequest, response=kernel_pb2.AttachResponse),
        ]  # fmt: skip

    @property
    def calls_now(self) -> int:
        """Calls under way at attached services."""
        return sum(len(each.calls) for each in self._attached)

    async def attach(self, call: Call, _: None) -> None:
        """Serve one service for as long as its stream lasts; what it brought goes with it.

        Raises:
            ProtocolError: it does not begin with an offer, or answers what it was not asked.
            Timeout: the offer did not come.
            Denied: it may not attach under the name, or bring a service of that name.
            BadRequest, MessageTooLarge, Unsupported, Conflict, QuotaExceeded: the offer is refused.
        """
        settings = self._settings
        if call.world.bus.draining:
            raise NodeDraining(retry_after_ms=1_000)
        if len(self._attached) >= settings.attached_max:
            raise QuotaExceeded(
                f"attached_max = {settings.attached_max} is reached",
                details={"setting": "attached_max", "limit": str(settings.attached_max)},
            )
        link = StreamLink(call.credential, call.method.name, self._links.round)
        attached = _Attached(link, settings)
        self._attached.add(attached)  # counted while its offer is awaited, too
        brought: Brought | None = None
        try:
            offer = await _offer(call, settings.handshake_s)
            # In a thread: types by the thousand take tens of ms, and others want the loop.
            brought = await asyncio.to_thread(
                read_offer,
                offer,
                tenant=call.principal.tenant,
                handler=attached.call,
                bytes_max=settings.attach_offer_bytes_max,
            )
            for name in sorted({offer.name, *(each.service for each in brought.methods)}):
                call.world.bus.may(call.credential, "attach", name)
                link.rights += (("attach", name),)
            self._catalog.bring(brought)
            await self._serve(call, attached, brought)
        finally:
            self._attached.discard(attached)
            if brought is not None:
                self._catalog.take_away(brought)

    async def _serve(self, call: Call, attached: _Attached, brought: Brought) -> None:
        bus, link, settings = call.world.bus, attached.link, self._settings
        told = {"service": brought.name, "principal": str(call.principal)}

        def over(error: SiraError) -> None:
            # At once, though a service that does not read keeps its stream open a while longer.
            self._catalog.take_away(brought)
            attached.calls.close(error)

        link.on_end = over
        bus.audit(call.principal, "attach", brought.name, intent=intent(call.metadata))
        bus.events.emit("sira.service.attached", methods=len(brought.methods), **told)
        try:
            with self._links.holding(link):
                accepted = kernel_pb2.AttachAccepted(
                    name=brought.name,
                    tenant=brought.tenant,
                    calls_max=settings.attach_calls_max,
                    held_bytes_max=settings.attach_held_bytes_max,
                )
                await call.write(kernel_pb2.AttachResponse(accepted=accepted))
                reader = asyncio.ensure_future(self._read(call, attached, brought))
                try:
                    await link.written(_write, call, attached)
                finally:
                    reader.cancel()
        finally:
            over(PeerLost(f"the service {brought.name} has gone"))
            reason = link.error.code if isinstance(link.error, SiraError) else PeerLost.code
            bus.events.emit("sira.service.gone", reason=reason, **told)

    async def _read(self, call: Call, attached: _Attached, brought: Brought) -> None:
        link = attached.link
        with link.telling_errors():
            while (request := await call.read()) is not None:
                if request.HasField("reply"):
                    attached.calls.heard(request.reply)
                elif request.HasField("leave"):
                    self._catalog.take_away(brought)
                else:
                    raise ProtocolError("after the offer a service sends replies")
                if attached.calls.has_out:
                    link.wake()
            link.finish()


class _Attached:
    """One service and its calls."""

    def __init__(self, link: StreamLink, settings: Settings) -> None:
        self.link = link
        self.calls = Calls(
            calls_max=settings.attach_calls_max, held_bytes_max=settings.attach_held_bytes_max
        )

    async def call(self, call: Call, request: bytes) -> None:
        """Have the service answer one call; the handler of each method that it brought.

        Raises:
            QueueFull: it is behind. PeerLost, NodeDraining: it has gone, or the node goes.
            HandlerFailed: it answered a unary call with none or many.
            SiraError: what it answered.
        """
        event = asyncio.Event()
        remaining_s = call.time_remaining_s()
        pending = self.calls.begin(
            call.method.name,
            principal=str(call.principal),
            tenant=call.principal.tenant,
            end_ns=0 if remaining_s is None else _native.now_ns() + round(remaining_s * 1e9),
            metadata=_passed(call),
            request=request,
            wake=event.set,
        )
        self.link.wake()
        try:
            count = await self._pass_replies(call, pending, event)
        finally:
            self.calls.finish(pending)
            self.link.wake()
        if count != 1 and not call.method.response_stream:
            raise _one(call.method.name, count)

    async def _pass_replies(self, call: Call, pending: Pending, event: asyncio.Event) -> int:
        """Write each reply as it comes; return how many there were."""
        count = 0
        while True:
            event.clear()
            reply = self.calls.take(pending)
            if reply is None:
                if pending.ended:
                    return count
                await event.wait()
                continue
            count += 1
            if count > 1 and not call.method.response_stream:
                raise _one(call.method.name, count)
            await call.context.write(reply)
            if self.calls.has_out:
                self.link.wake()


async def _offer(call: Call, wait_s: float) -> kernel_pb2.AttachOffer:
    """Wait for the first message."""
    try:
        async with asyncio.timeout(wait_s):
            request = await call.read()
    except TimeoutError:
        raise Timeout(f"no offer came in {wait_s:g} s") from None
    if request is None or not request.HasField("offer"):
        raise ProtocolError("a service begins with its offer")
    offer: kernel_pb2.AttachOffer = request.offer
    return offer


async def _write(call: Call, attached: _Attached, link: StreamLink) -> None:
    """Tell the service of calls, credits and cancellations until its stream ends."""
    resting = link.writer
    while True:
        response = attached.calls.next_out(_native.now_ns())
        if response is not None:
            await call.write(response)
            continue
        if link.error is not None or link.finished:
            return
        await resting


def _passed(call: Call) -> dict[str, str]:
    """Return what the service is told of the metadata."""
    found = ((name, call.metadata.get(name)) for name in _PASSED)
    return {
        name: value
        for name, value in found
        if isinstance(value, str) and len(value) <= _PASSED_CHARS_MAX
    }


def _one(method: str, count: int) -> HandlerFailed:
    what = "without a reply" if not count else "more than once"
    return HandlerFailed(f"the service answered {method} {what}", details={"method": method})
