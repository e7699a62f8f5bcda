"""The node in process: its clock is the test's, its losses are real."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

import sira
import sira.testing
from sira.testing.streams import LocalStream


async def test_a_frozen_clock_expires_nothing_until_it_is_stepped() -> None:
    async with sira.testing.LocalBus() as bus, bus.another() as other:
        bus.clock.freeze()
        async with other.subscribe("a", window_messages=1) as messages:
            await bus.publish("a", b"in the window")
            await bus.publish("a", b"expires", ttl_s=60)
            await bus.publish("a", b"stays", ttl_s=120)
            await asyncio.sleep(0.05)
            assert (await bus.ledger("a"))["a"].expired == 0
            bus.clock.step(61)
            assert (await bus.ledger("a"))["a"].expired == 1
            assert (await messages.next(timeout_s=60)).bytes == b"in the window"
            assert (await messages.next(timeout_s=60)).bytes == b"stays"


async def test_a_publish_that_waits_for_room_is_refused_when_the_clock_says_so(until: Any) -> None:
    node = sira.testing.LocalNode(queue_messages_max=1)
    async with (
        sira.testing.LocalBus(node) as bus,
        bus.another() as other,
        other.subscribe("a", window_messages=1),
    ):
        bus.clock.freeze()
        await bus.publish("a", b"in the window")
        await bus.publish("a", b"in the queue")
        waiting = asyncio.create_task(bus.publish("a", b"no room", timeout_s=8))
        await until(lambda: node.kernel.hub.stats["parked"] == 1)
        bus.clock.step(7.5)
        with pytest.raises(sira.QueueFull):
            await waiting


async def test_a_subscriber_that_stands_still_is_stalled_and_said_so() -> None:
    node = sira.testing.LocalNode(queue_messages_max=2)
    async with (
        sira.testing.LocalBus(node) as bus,
        bus.another() as other,
        other.subscribe("a", window_messages=1) as slow,
        bus.subscribe("sira.stalled") as facts,
    ):
        for _ in range(3):
            await bus.publish("a", b"x")
        bus.clock.step(11)
        assert json.loads((await facts.next(timeout_s=60)).text)["pattern"] == "a"
        assert (await bus.publish("a", b"dropped")).matched == 1
        assert (await bus.ledger("a"))["a"].dropped == {"STALLED": 1}
        for _ in range(3):
            assert (await slow.next(timeout_s=60)).bytes == b"x"


async def test_buses_of_one_node_see_each_other_and_of_two_do_not() -> None:
    async with (
        sira.testing.LocalBus() as bus,
        sira.testing.LocalBus() as stranger,
        bus.another() as other,
        other.subscribe("a"),
    ):
        assert (await bus.publish("a")).matched == 1
        assert (await stranger.publish("a")).matched == 0


async def test_nothing_is_left_on_the_loop_when_the_buses_are_closed() -> None:
    before = asyncio.all_tasks()
    async with sira.testing.LocalBus() as bus, bus.subscribe("a"):
        await bus.publish("a", b"x")
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_a_request_and_its_reply_cost_four_messages_and_no_receipt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Credits come in batches, later; a receipt for a question or an answer would be a fifth."""
    counts: Counter[tuple[str, str]] = Counter()
    write, read = LocalStream.write, LocalStream.read

    async def counted_write(self: LocalStream, frame: bytes) -> None:
        counts[type(self).__name__, "up"] += 1
        await write(self, frame)

    async def counted_read(self: LocalStream) -> bytes | None:
        frame = await read(self)
        counts[type(self).__name__, "down"] += 1
        return frame

    monkeypatch.setattr(LocalStream, "write", counted_write)
    monkeypatch.setattr(LocalStream, "read", counted_read)
    async with (
        sira.testing.LocalBus() as bus,
        bus.another() as other,
        other.subscribe("a") as asked,
    ):

        async def answer() -> None:
            async for message in asked:
                await message.reply(b"y")

        answering = asyncio.create_task(answer())
        await bus.request("a", b"x", timeout_s=60)  # opens what is opened once
        counts.clear()
        for _ in range(100):
            await bus.request("a", b"x", timeout_s=60)
        assert counts["LocalPublish", "up"] == 200
        assert counts["LocalPublish", "down"] == 0
        assert counts["LocalSubscribe", "down"] == 200
        answering.cancel()
