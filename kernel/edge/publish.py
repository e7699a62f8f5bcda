"""`Bus.Publish`: frames in, receipts out."""

from __future__ import annotations

import asyncio
from typing import Any

from sira import _native
from sira.kernel.edge.door import EOF, Call
from sira.kernel.edge.link import TURN_NS, Links, StreamLink
from sira.kernel.edge.ticker import Ticker
from sira.kernel.streams import PublishStream

_REST_NS_MAX = 100_000_000


class Publishing:
    """Serves the Publish streams of a node."""

    def __init__(self, links: Links) -> None:
        self._links = links

    async def publish(self, call: Call, _: None) -> None:
        """Take the messages of one stream and answer each with a receipt, in order.

        A refusal is a receipt with an error and ends nothing; a frame that cannot be split ends the
        stream, after the receipts of what came before it. Order holds within the stream. Too much
        that waits for room stops the reading, so that a slow subscriber slows its publishers only;
        what a rate refuses stops it for a while, so that a flood costs its sender and not the node.
        """
        bus, ticker, who = call.world.bus, call.world.ticker, call.credential
        now_ns = _native.now_ns()
        client = bus.join(call.hello, who.principal, call.peer, now_ns)
        link = StreamLink(who, call.method.name, self._links.round)
        stream = bus.open_publish(client, who, wake=link.wake, hello=call.hello, now_ns=now_ns)
        stream.ingress.lane = call.lane
        call.introduce(client.id)
        stream.ingress.lender = call.lender()
        stream.go_direct(call.direct())
        stream.on_lost = link.end
        link.on_end = lambda _error: stream.end_soon()
        stream.lend()
        try:
            with self._links.holding(link):
                reader = asyncio.ensure_future(self._read(call, stream, link, ticker))
                try:
                    await link.written(self._write, call.context, stream)
                finally:
                    reader.cancel()
        finally:
            stream.close(_native.now_ns())
            ticker.hurry()  # what the client owned goes step by step

    async def _read(
        self, call: Call, stream: PublishStream, link: StreamLink, ticker: Ticker
    ) -> None:
        """Feed what comes, as long as there is room."""
        context, ingress = call.context, stream.ingress
        now_ns, round_ = _native.now_ns, self._links.round
        room = asyncio.Event()
        ingress.drained = room.set
        with link.telling_errors():
            while True:
                frame = await context.read()
                if frame is EOF:
                    link.finish()
                    return
                call.traffic.take(len(frame))
                at = 0
                while True:
                    round_.taking = True
                    try:
                        at = ingress.feed(frame, now_ns(), at, TURN_NS)
                    finally:
                        round_.write()
                    if not at:
                        break
                    await asyncio.sleep(0)  # what a frame costs is its sender's choice
                ticker.hurry()
                if ingress.limited_until_ns:
                    await _rest(ingress)
                while ingress.full:
                    room.clear()
                    await room.wait()

    async def _write(self, context: Any, stream: PublishStream, link: StreamLink) -> None:
        """Write receipts until the stream is over."""
        ingress, now_ns, resting = stream.ingress, _native.now_ns, link.writer
        while True:
            frame = ingress.next_frame(now_ns()) if stream.carrier is None else None
            if frame is not None:
                await context.write(frame)
                continue
            if link.error is not None and ingress.parked:
                # Else what was accepted behind it would stay without its answer, and be sent again.
                ingress.refuse_parked(link.error, now_ns())
                continue
            if link.error is not None or link.finished:
                stream.end_soon()
            if not stream.all_carried:
                await resting
                continue
            if link.error is not None:
                return
            if link.finished and not ingress.unanswered:
                return
            await resting


async def _rest(ingress: _native.Ingress) -> None:
    """Read no more until the rates that refused messages of this frame have room, or 100 ms."""
    rest_ns = min(ingress.limited_until_ns - _native.now_ns(), _REST_NS_MAX)
    await asyncio.sleep(max(0, rest_ns) / 1e9)
