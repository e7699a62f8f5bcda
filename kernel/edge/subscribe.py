"""`Bus.Subscribe`: subscriptions and credits in, deliveries out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from sira import _native
from sira.kernel.edge.door import EOF, Call
from sira.kernel.edge.link import TURN_NS, Links, StreamLink
from sira.kernel.edge.ticker import Ticker
from sira.kernel.errors import NodeDraining
from sira.kernel.streams import SubscribeStream


class Subscribing:
    """Serves the Subscribe streams of a node."""

    def __init__(self, links: Links) -> None:
        self._links = links

    async def subscribe(self, call: Call, _: None) -> None:
        """Serve one stream of any number of subscriptions.

        A subscription that is refused or withdrawn ends alone (`Ended`). The stream ends when the
        client ends it; one that has only stopped sending still gets what its credit allows.
        """
        bus, ticker, who = call.world.bus, call.world.ticker, call.credential
        client = bus.join(call.hello, who.principal, call.peer, _native.now_ns())
        link = StreamLink(who, call.method.name, self._links.round)
        stream = bus.open_subscribe(client, who, wake=link.wake, link=call.hello.link)
        stream.lane = call.lane
        call.introduce(client.id)
        stream.borrow(call.reader())
        stream.direct = call.direct()
        link.on_end = lambda error: stream.end_all(error, _native.now_ns())
        try:
            with self._links.holding(link):
                work = self._read(call, stream, link, ticker)
                reader = asyncio.ensure_future(call.world.loop.steps(work))
                try:
                    await link.written(self._write, call.context, stream)
                finally:
                    reader.cancel()
        finally:
            reason = NodeDraining.code if bus.draining else "PEER_LOST"
            stream.close(_native.now_ns(), reason=reason)
            ticker.hurry()  # what the client owned goes step by step

    async def _read(
        self, call: Call, stream: SubscribeStream, link: StreamLink, ticker: Ticker
    ) -> None:
        context, now_ns, round_ = call.context, _native.now_ns, self._links.round
        with link.telling_errors():
            while True:
                frame = await context.read()
                if frame is EOF:
                    link.finish()
                    return
                call.traffic.take(len(frame))
                steps, done = stream.steps(frame, now_ns()), False
                while not done:
                    round_.taking = True
                    try:
                        done = _one_turn(steps)
                    finally:
                        round_.write()
                    if not done:
                        await asyncio.sleep(0)  # a frame has room for 100,000 subscriptions
                ticker.hurry()

    async def _write(self, context: Any, stream: SubscribeStream, link: StreamLink) -> None:
        now_ns, resting, reader = _native.now_ns, link.writer, stream.reader
        while True:
            frame = stream.next_frame(now_ns())
            if frame is not None:
                await context.write(frame)
                if stream.leaving:
                    stream.left()
                if reader is not None:
                    reader.left()
                continue
            if stream.leaving:
                stream.left()
            if link.error is not None:
                if stream.ending:
                    await resting
                    continue
                if stream.rider is not None and stream.rider.ending:
                    await resting  # its last answers leave by this stream
                    continue
                stream.written_out = not link.broken
                return
            if link.finished and not stream.subscriptions and not stream.opening:
                stream.written_out = not link.broken
                return
            await resting


def _one_turn(steps: Iterator[None]) -> bool:
    """Take steps for as long as a turn may last; return whether there are no more."""
    until_ns = _native.now_ns() + TURN_NS
    return all(_native.now_ns() < until_ns for _ in steps)
