"""Requests and replies: one, many, none, late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

import sira


@asynccontextmanager
async def serving(bus: sira.Bus, topic: str, answer: Any) -> AsyncIterator[sira.Subscription]:
    """Answer every message of `topic` by `await answer(message)` while inside."""
    async with bus.subscribe(topic) as messages:

        async def run() -> None:
            async for message in messages:
                await answer(message)

        task = asyncio.create_task(run())
        try:
            yield messages
        finally:
            task.cancel()


async def test_a_reply_comes_back_and_names_its_request(
    world: Any, topic: str, accounted: Any
) -> None:
    asked: list[sira.Message] = []

    async def echo(message: sira.Message) -> None:
        asked.append(message)
        await message.reply({"y": message["x"] * 2})

    async with world.bus() as bus, world.bus() as other, serving(other, topic, echo):
        reply = await bus.request(topic, {"x": np.arange(3)}, timeout_s=60)
        np.testing.assert_array_equal(reply["y"], [0, 2, 4])
        request = asked[0]
        assert reply.stream_id == reply.causation_id == reply.correlation_id == request.id
        assert request.correlation_id == request.id
        assert 0 < request.ttl_ns <= 60_000_000_000
        row = await accounted(other, topic)
        assert (row.owed, row.delivered) == (1, 1)


async def test_many_requests_at_once_get_each_its_own_reply(world: Any, topic: str) -> None:
    async def echo(message: sira.Message) -> None:
        await message.reply(bytes(message.bytes))

    async with world.bus() as bus, world.bus() as other, serving(other, topic, echo):
        bodies = [number.to_bytes(4, "little") for number in range(500)]
        replies = await asyncio.gather(*(bus.request(topic, b, timeout_s=60) for b in bodies))
        assert [bytes(reply.bytes) for reply in replies] == bodies


@pytest.mark.large
async def test_a_large_request_gets_a_large_reply(world: Any, topic: str) -> None:
    async def double(message: sira.Message) -> None:
        await message.reply({"y": message["x"] + 1})

    sent = np.arange(2_000_000, dtype=np.int32)
    async with world.bus() as bus, world.bus() as other, serving(other, topic, double):
        reply = await bus.request(topic, {"x": sent}, timeout_s=60)
        np.testing.assert_array_equal(reply["y"], sent + 1)


async def test_nobody_there_is_no_match_at_once(world: Any, topic: str) -> None:
    async with world.bus() as bus:
        with pytest.raises(sira.NoMatch) as caught:
            await bus.request(topic, {"x": 1}, timeout_s=60)
        assert caught.value.code == "NO_MATCH"


async def test_no_reply_in_time_is_a_timeout_that_names_the_topic(world: Any, topic: str) -> None:
    async with world.bus() as bus, bus.subscribe(topic):
        with pytest.raises(sira.Timeout, match=topic) as caught:
            await bus.request(topic, timeout_s=0.05)
        assert caught.value.details["timeout_s"] == "0.05"


async def test_a_late_reply_is_nobody_elses(world: Any, topic: str) -> None:
    async with world.bus() as bus, world.bus() as other, other.subscribe(topic) as messages:
        taking = asyncio.create_task(messages.next(timeout_s=60))
        while not taking.done():  # on a slow machine the time may be over before it was sent
            with pytest.raises(sira.Timeout):
                await bus.request(topic, b"first", timeout_s=0.1)
        late = await taking
        asking = asyncio.create_task(bus.request(topic, b"second", timeout_s=60))
        while (second := await messages.next(timeout_s=60)).bytes != b"second":
            pass
        await late.reply(b"late")
        await second.reply(b"second")
        assert (await asking).bytes == b"second"


async def test_a_request_nobody_took_expires_with_its_caller(
    world: Any, topic: str, accounted: Any, until: Any
) -> None:
    # Past the node one waits at the reader, who finds out that it has expired when it looks.
    pending_max = 2 if world.kind == "direct" else 1

    async def has_expired() -> bool:
        with pytest.raises(sira.Timeout):  # on a slow machine perhaps before it was sent
            await bus.request(topic, b"nobody takes it", timeout_s=0.05)
        row = (await bus.ledger(topic))[topic]
        return row.expired > 0 and row.pending <= pending_max

    async with (
        world.bus() as bus,
        world.bus() as other,
        other.subscribe(topic, window_messages=1) as messages,
    ):
        await bus.publish(topic, b"in the window")
        await until(has_expired)
        await asyncio.sleep(0.2)  # longer than any of them lives: the window gets none
        assert (await messages.next(timeout_s=60)).bytes == b"in the window"
        looking = asyncio.create_task(messages.next(timeout_s=60))
        row = await accounted(bus, topic)
        assert row.delivered == 1 and row.owed == 1 + row.expired + sum(row.dropped.values())
        assert not looking.done()
        looking.cancel()


async def test_a_stream_of_replies_comes_in_order_and_ends(world: Any, topic: str) -> None:
    async def count(message: sira.Message) -> None:
        for number in range(5):
            await message.reply({"n": number}, end=number == 4)

    async with world.bus() as bus, world.bus() as other, serving(other, topic, count):
        replies = [reply async for reply in bus.request_stream(topic, timeout_s=60)]
        assert [int(reply["n"]) for reply in replies] == list(range(5))
        assert [reply.stream_seq for reply in replies] == list(range(5))
        assert [reply.stream_end for reply in replies] == [False] * 4 + [True]


async def test_a_plain_reply_is_a_stream_of_one(world: Any, topic: str) -> None:
    async def echo(message: sira.Message) -> None:
        await message.reply(b"only")

    async with world.bus() as bus, serving(bus, topic, echo):
        replies = [reply async for reply in bus.request_stream(topic, timeout_s=60)]
        assert [bytes(reply.bytes) for reply in replies] == [b"only"]


async def test_a_stream_to_nobody_is_no_match(world: Any, topic: str) -> None:
    async with world.bus() as bus:
        with pytest.raises(sira.NoMatch):
            await anext(bus.request_stream(topic, timeout_s=60))


async def test_a_missing_part_is_a_gap_not_a_shorter_stream(world: Any, topic: str) -> None:
    async def skip_one(message: sira.Message) -> None:
        answers = message.context
        answers.push(message, b"0", kind=2, seq=0, end=False)
        answers.push(message, b"2", kind=2, seq=2, end=False)

    async with world.bus() as bus, serving(bus, topic, skip_one):
        stream = bus.request_stream(topic, timeout_s=60)
        assert (await anext(stream)).bytes == b"0"
        with pytest.raises(sira.StreamTruncated) as caught:
            await anext(stream)
        assert caught.value.details["kept"] == "1"


async def test_a_stream_that_stops_midway_says_how_much_came(world: Any, topic: str) -> None:
    async def one(message: sira.Message) -> None:
        await message.reply(b"0", end=False)

    async with world.bus() as bus, serving(bus, topic, one):
        stream = bus.request_stream(topic, timeout_s=1.5)
        assert (await anext(stream)).bytes == b"0"
        with pytest.raises(sira.Timeout) as caught:
            await anext(stream)
        assert caught.value.details["kept"] == "1"


async def test_who_answers_a_stream_nobody_reads_is_told(world: Any, topic: str) -> None:
    told: asyncio.Future[sira.SiraError] = asyncio.get_running_loop().create_future()

    async def endless(message: sira.Message) -> None:
        try:
            while True:
                await message.reply(b"more", end=False)
        except sira.SiraError as error:
            told.set_result(error)

    async with world.bus() as bus, world.bus() as other, serving(other, topic, endless):
        async with bus.request_stream(topic, timeout_s=60) as stream:
            for _ in range(3):
                await anext(stream)
        assert (await told).code in ("NO_MATCH", "UNSUBSCRIBED")


async def test_a_slow_reader_of_a_stream_slows_its_writer_and_loses_nothing(
    world: Any, topic: str, until: Any
) -> None:
    sent = 0

    async def many(message: sira.Message) -> None:
        nonlocal sent
        for sent in range(3_000):
            await message.reply(sent.to_bytes(4, "little"), end=sent == 2_999)

    async with world.bus() as bus, world.bus() as other, serving(other, topic, many):
        got = 0
        async for reply in bus.request_stream(topic, timeout_s=50):
            assert int.from_bytes(reply.bytes, "little") == got
            if got == 0:
                await until(lambda: sent > 1_200)  # far ahead, and then held back by the window
            got += 1
        assert got == 3_000


async def test_a_cancelled_request_leaves_nothing_behind(
    world: Any, topic: str, until: Any
) -> None:
    async with world.bus() as bus, bus.subscribe(topic):
        asking = asyncio.create_task(bus.request(topic, timeout_s=60))
        await until(lambda: bus._requests is not None and bus._requests._pending)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert bus._requests is not None
        assert bus._requests._pending == {}


async def test_only_who_was_asked_can_reply(world: Any, topic: str) -> None:
    async with world.bus() as bus, bus.subscribe(topic) as messages:
        await bus.publish(topic, b"no question")
        message = await messages.next(timeout_s=60)
        with pytest.raises(sira.BadRequest):
            await message.reply(b"answer")


async def test_replies_of_others_cannot_be_overheard(world: Any, topic: str) -> None:
    async with world.bus() as bus:
        with pytest.raises(sira.SiraError):
            async with bus.subscribe("_reply.>"):
                pass
        with pytest.raises(sira.SiraError):
            async with bus.subscribe("_reply.*"):
                pass


async def test_acks_are_refused_by_name_where_there_is_no_log(world: Any, topic: str) -> None:
    async with world.bus() as bus, bus.subscribe(topic) as messages:
        await bus.publish(topic, b"x")
        message = await messages.next(timeout_s=60)
        with pytest.raises(sira.Unsupported):
            await message.ack()
        with pytest.raises(sira.Unsupported):
            await message.nack(delay_s=2)
