"""A client that hears what it says: credits and receipts ride, and the books stay exact."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np


async def test_each_echo_is_counted_as_delivered_even_when_it_is_unsubscribed_at_once(
    world: Any, topic: str, accounted: Any
) -> None:
    async with world.bus() as bus, bus.publisher(topic) as publisher:
        for rounds in range(1, 6):
            async with bus.subscribe(topic) as messages:
                for i in range(40):
                    await publisher.send(bytes([i]))
                    assert (await messages.next(timeout_s=60)).bytes == bytes([i])
            row = await accounted(bus, topic)
            assert (row.owed, row.delivered, row.dropped) == (rounds * 40, rounds * 40, {})
        await publisher.flush(timeout_s=60)
        assert (publisher.accepted, publisher.refused) == (200, 0)


async def test_receipts_come_in_order_whether_awaited_pipelined_or_large(
    world: Any, topic: str, accounted: Any
) -> None:
    large = np.arange(500_000, dtype=np.float32)
    async with (
        world.bus() as bus,
        bus.subscribe(topic, window_bytes=4 << 20) as messages,
        bus.publisher(topic) as publisher,
    ):

        async def take(count: int) -> list[int]:
            return [int((await messages.next(timeout_s=60))["i"]) for _ in range(count)]

        taking = asyncio.ensure_future(take(330))
        for i in range(0, 330, 11):
            for j in range(i, i + 9):
                await publisher.send({"i": j})
            await publisher.send({"i": i + 9, "x": large})
            receipt = await bus.publish(topic, {"i": i + 10})
            assert receipt.matched == 1
        await publisher.flush(timeout_s=60)
        assert sorted(await taking) == list(range(330))
        small = [r for r in publisher.receipts() if r.bytes < 100]
        assert len(small) == 270 and [r.id for r in small] == sorted(r.id for r in small)
        row = await accounted(bus, topic)
        assert (row.owed, row.delivered) == (330, 330)


async def test_a_narrow_window_never_stalls_a_client_that_fills_it_itself(
    world: Any, topic: str, accounted: Any
) -> None:
    async with (
        world.bus() as bus,
        bus.subscribe(topic, window_messages=2) as messages,
        bus.publisher(topic, timeout_s=60) as publisher,  # two at a time, on a busy machine
    ):

        async def pour() -> None:
            for i in range(3_000):
                await publisher.send(i.to_bytes(2, "big"))
            await publisher.flush(timeout_s=60)

        pouring = asyncio.ensure_future(pour())
        for i in range(3_000):
            number = int.from_bytes((await messages.next(timeout_s=60)).bytes, "big")
            assert number == i, (messages.reconnects, (await bus.ledger(topic)).rows)
        await pouring
        assert (await accounted(bus, topic)).delivered == 3_000


async def test_what_is_taken_after_the_last_message_is_confirmed_by_itself(
    world: Any, topic: str, accounted: Any
) -> None:
    async with world.bus() as bus, bus.subscribe(topic) as messages:
        for i in range(10):
            await bus.publish(topic, bytes([i]))
        for _ in range(10):
            await messages.next(timeout_s=60)
        assert (await accounted(bus, topic)).delivered == 10
