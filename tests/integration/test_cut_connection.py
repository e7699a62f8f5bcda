"""A connection cut between SDK and node, while both live on: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

import sira
import sira.testing

pytestmark = pytest.mark.integration
WATCHDOG_S = 60.0
MESSAGES = 6_000
CUTS = 6


class Relay:
    """Forwards TCP to a node, and breaks what it forwards when told to."""

    def __init__(self, target: str) -> None:
        """Prepare to forward to `host:port`."""
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._pipes: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.connections = 0
        self.accepted = asyncio.Event()

    async def start(self) -> str:
        """Listen; return the URL."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        return f"sira://{host}:{port}"

    def cut(self) -> None:
        """Reset every connection; bytes under way in either direction are gone."""
        for writer in self._writers:
            writer.transport.abort()

    async def close(self) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._pipes)

    async def _accept(self, near: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        far, far_out = await asyncio.open_connection(self._host, self._port)
        self.connections += 1
        self.accepted.set()
        self._writers |= {near_out, far_out}
        for reader, writer in ((near, far_out), (far, near_out)):
            task = asyncio.ensure_future(self._pipe(reader, writer))
            self._pipes.add(task)

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
        self._writers.discard(writer)


@contextlib.asynccontextmanager
async def _behind_a_relay() -> AsyncIterator[tuple[Any, Relay, str]]:
    """A node process, and a relay before it."""
    with sira.testing.node() as node:
        relay = Relay(node.url.removeprefix("sira://"))
        url = await relay.start()
        try:
            yield node, relay, url
        finally:
            await relay.close()


@pytest.mark.parametrize("size", [8, 300_000], ids=["small", "large"])
@pytest.mark.parametrize("hears", [False, True], ids=["", "hears-itself"])
def test_what_a_cut_left_unanswered_is_sent_again_and_taken_once(size: int, hears: bool) -> None:
    """Also by a client whose receipts come down beside its deliveries, and are lost with them."""
    asyncio.run(_publish_over_cuts(size, hears))


async def _publish_over_cuts(size: int, hears: bool) -> None:
    count = MESSAGES if size < 1_000 else 60
    rng = random.Random(size)
    cuts = sorted(rng.sample(range(1, count), CUTS))
    got: list[int] = []

    own: list[int] = []

    async def take(messages: Any, numbers: list[int]) -> None:
        while True:
            message = await messages.next(timeout_s=WATCHDOG_S)
            number = int.from_bytes(bytes(message.bytes)[:8], "little")
            if number == count:  # the last of all
                return
            numbers.append(number)

    async def surely(call: Callable[[], Awaitable[None]]) -> None:
        """Call until nothing is raised of messages that were sent before."""
        while True:
            try:
                return await call()
            except sira.OutcomeUnknown:
                # Of a large one nothing is kept when its last byte has left. It is told, not lost.
                assert size > 1_000

    async with (
        _behind_a_relay() as (node, relay, url),
        sira.connect(node.url) as other,
        other.subscribe("cut") as messages,
        sira.connect(url) as bus,
        contextlib.AsyncExitStack() as stack,
        bus.publisher("cut") as publisher,
    ):
        if hears:
            heard = await stack.enter_async_context(bus.subscribe("cut"))
            hearing = asyncio.ensure_future(take(heard, own))
            stack.callback(hearing.cancel)
        taking = asyncio.ensure_future(take(messages, got))
        await bus.publish("met")  # a client whose first stream never arrived is told "unknown"
        for number in range(count):
            body = number.to_bytes(8, "little").ljust(size, b"x")
            await surely(lambda body=body: publisher.send(body))  # type: ignore[misc]
            if number in cuts:
                await asyncio.sleep(0)  # let some of it leave
                relay.accepted.clear()
                relay.cut()
                await asyncio.wait_for(relay.accepted.wait(), WATCHDOG_S)
        await surely(lambda: publisher.flush(timeout_s=WATCHDOG_S))
        await bus.publish("cut", count.to_bytes(8, "little"), timeout_s=WATCHDOG_S)
        await asyncio.wait_for(taking, WATCHDOG_S)
        assert got == sorted(set(got)) and len(got) >= count - publisher.refused
        with pytest.raises(sira.Timeout):
            await messages.next(timeout_s=0.2)
        row = (await other.ledger("cut"))["cut"]
        if not hears:
            owed = len(got) + 1 + sum(row.dropped.values())
            assert (row.owed, row.unknown) == (owed, {})
        if hears:  # what was on its way to the client that was cut off went with the connection
            assert own == sorted(set(own)) and set(row.dropped) <= {"PEER_LOST"}
        elif size < 1_000:
            assert not row.dropped
        assert relay.connections >= CUTS + 1
