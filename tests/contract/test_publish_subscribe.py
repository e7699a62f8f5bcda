"""Publishing and subscribing: what arrives, where, in which order, and what the receipt says."""

from __future__ import annotations

import asyncio
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import sira

DTYPES = [
    np.bool_, np.uint8, np.uint16, np.uint32, np.uint64, np.int8, np.int16, np.int32, np.int64,
    np.float16, np.float32, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e5m2, ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2fnuz, ml_dtypes.int4,
    ml_dtypes.uint4, np.complex64, np.complex128,
]  # fmt: skip


async def test_a_message_arrives_with_topic_id_headers_and_tensors(world: Any, topic: str) -> None:
    image = np.arange(12, dtype=np.float32).reshape(3, 4)
    async with world.bus(name="camera") as bus, bus.subscribe(topic) as messages:
        receipt = await bus.publish(topic, {"image": image, "n": 7}, headers={"study": "7"})
        message = await messages.next(timeout_s=60)
        assert (message.topic, message.id) == (topic, receipt.id)
        assert message.headers == {"study": "7"}
        assert message.source == "camera"
        assert message.attempt == 1
        assert message.keys() == ("image", "n")
        np.testing.assert_array_equal(message["image"], image)
        assert message["n"] == 7
        assert not message["image"].flags.writeable
        assert (receipt.grade, receipt.matched, receipt.lanes) == ("accepted", 1, world.lanes)
        assert receipt.offset is None
        assert receipt.bytes == image.nbytes + message["n"].nbytes


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda each: np.dtype(each).name)
async def test_every_dtype_arrives_bit_exact(world: Any, topic: str, dtype: Any) -> None:
    sent = (np.arange(15) % 7).astype(dtype).reshape(3, 5)
    async with world.bus() as bus, bus.subscribe(topic) as messages:
        await bus.publish(topic, {"x": sent, "empty": sent[:0], "scalar": sent[0, 0]})
        got = await messages.next(timeout_s=60)
        assert got["x"].dtype == sent.dtype
        assert got["x"].tobytes() == sent.tobytes()
        assert got["empty"].shape == (0, 5)
        assert got["scalar"].shape == ()


async def test_bytes_text_and_empty_bodies_arrive(world: Any, topic: str) -> None:
    async with world.bus() as bus, bus.subscribe(topic) as messages:
        await bus.publish(topic, b"\x00\xff")
        await bus.publish(topic, "Grüße")
        await bus.publish(topic)
        assert bytes((await messages.next(timeout_s=60)).bytes) == b"\x00\xff"
        assert (await messages.next(timeout_s=60)).text == "Grüße"
        empty = await messages.next(timeout_s=60)
        assert (len(empty), empty.payload_bytes) == (0, 0)


async def test_a_received_message_is_passed_on_without_decoding(world: Any, topic: str) -> None:
    async with world.bus() as bus, bus.subscribe(f"{topic}.*") as messages:
        await bus.publish(f"{topic}.a", {"x": np.ones(3)})
        first = await messages.next(timeout_s=60)
        await bus.publish(f"{topic}.b", first)
        second = await messages.next(timeout_s=60)
        assert second.topic == f"{topic}.b"
        np.testing.assert_array_equal(second["x"], np.ones(3))


async def test_patterns_match_one_token_and_the_rest(world: Any, topic: str) -> None:
    async with (
        world.bus() as bus,
        bus.subscribe(f"{topic}.*.c") as one,
        bus.subscribe(f"{topic}.>") as rest,
        bus.subscribe(f"{topic}.a.b.c") as exact,
    ):
        for name, matched in (("a.c", 2), ("a.b.c", 2), ("b.c", 2), ("a", 1)):
            assert (await bus.publish(f"{topic}.{name}")).matched == matched
        assert (await bus.publish(topic)).matched == 0
        ends = [f"{topic}.{name}" for name in ("a.c", "a.b.c", "b.c", "a")]
        assert [(await rest.next(timeout_s=60)).topic for _ in ends] == ends
        assert [(await one.next(timeout_s=60)).topic for _ in range(2)] == [ends[0], ends[2]]
        assert (await exact.next(timeout_s=60)).topic == ends[1]


async def test_a_group_shares_messages_and_counts_as_one_match(world: Any, topic: str) -> None:
    async with (
        world.bus() as bus,
        world.bus() as other,
        bus.subscribe(topic, group="billing") as first,
        other.subscribe(topic, group="billing") as second,
        bus.subscribe(topic) as alone,
    ):
        receipts = await bus.publish_many(topic, [{"n": n} for n in range(200)])
        assert {receipt.matched for receipt in receipts} == {2}
        seen: list[int] = []

        async def take(messages: sira.Subscription) -> int:
            count = 0
            async for message in messages:
                seen.append(int(message["n"]))
                count += 1
                if len(seen) == 200:
                    await first.close()
                    await second.close()
            return count

        counts = await asyncio.gather(take(first), take(second))
        assert sorted(seen) == list(range(200))
        assert min(counts) > 0
        assert [int((await alone.next(timeout_s=60))["n"]) for _ in range(200)] == list(range(200))


async def test_order_holds_for_each_publisher(world: Any, topic: str) -> None:
    count = 3_000
    async with world.bus() as bus, bus.subscribe(topic) as messages:
        async with bus.publisher(topic) as publisher:
            for number in range(count):
                await publisher.send(number.to_bytes(4, "little"))
        got = [
            int.from_bytes((await messages.next(timeout_s=60)).bytes, "little")
            for _ in range(count)
        ]
        assert got == list(range(count))


async def test_higher_priority_overtakes_what_is_not_taken(
    world: Any, topic: str, until: Any
) -> None:
    async with world.bus() as bus, bus.subscribe(topic) as messages:
        for number, priority in enumerate([0, 0, 7, 3]):
            await bus.publish(topic, {"n": number}, priority=priority)
        await until(lambda: messages.depth == 4)
        assert [int((await messages.next())["n"]) for _ in range(4)] == [2, 3, 0, 1]


async def test_publish_many_returns_receipts_in_order(world: Any, topic: str) -> None:
    async with world.bus() as bus, bus.subscribe(topic) as messages:
        receipts = await bus.publish_many(topic, [{"x": np.full(3, n)} for n in range(50)])
        got = [await messages.next(timeout_s=60) for _ in range(50)]
        assert [receipt.id for receipt in receipts] == [message.id for message in got]


async def test_publish_many_says_which_message_was_refused(world: Any, topic: str) -> None:
    async with world.bus() as bus:
        await bus.topics.create(topic, contract={"x": "f32[N]"})
        good, bad = {"x": np.zeros(2, np.float32)}, {"x": np.zeros(2, np.int8)}
        with pytest.raises(sira.ContractMismatch) as caught:
            await bus.publish_many(topic, [good, bad, good])
        assert caught.value.details["index"] == "1"
        assert caught.value.details["accepted"] == "2"


async def test_a_publisher_gives_receipts_in_order(world: Any, topic: str) -> None:
    async with world.bus() as bus, bus.subscribe(topic) as messages:
        async with bus.publisher(topic, priority=2) as publisher:
            for number in range(300):
                await publisher.send({"n": number})
            receipts = [receipt async for receipt in publisher.receipts()]
            await publisher.flush()
            assert len(publisher.receipts()) == 0
        got = [await messages.next(timeout_s=60) for _ in range(300)]
        assert [receipt.id for receipt in receipts] == [message.id for message in got]
        assert {message.priority for message in got} == {2}
        assert (publisher.sent, publisher.accepted, publisher.refused) == (300, 300, 0)


async def test_a_refused_message_of_a_publisher_is_never_silent(world: Any, topic: str) -> None:
    async with world.bus() as bus:
        await bus.topics.create(topic, contract={"x": "f32[2]"})
        with pytest.raises(sira.ContractMismatch):
            async with bus.publisher(topic) as publisher:
                await publisher.send({"x": np.zeros(2, np.float32)})
                await publisher.send({"x": np.zeros(3, np.float32)})
        assert (publisher.accepted, publisher.refused) == (1, 1)


@pytest.mark.large
@pytest.mark.parametrize("shape", [(300_000,), (3, 1_500_000), (20_000_000,)])
async def test_a_large_message_arrives_whole(
    world: Any, topic: str, shape: tuple[int, ...]
) -> None:
    sent = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    async with world.bus() as bus, world.bus() as other, other.subscribe(topic) as messages:
        receipt = await bus.publish(topic, {"small": np.ones(3), "x": sent})
        message = await messages.next(timeout_s=60)
        assert message.id == receipt.id
        assert receipt.bytes == sent.nbytes + 24
        np.testing.assert_array_equal(message["x"], sent)
        np.testing.assert_array_equal(message["small"], np.ones(3))
        assert message["x"].ctypes.data % 64 == 0


async def test_a_strided_array_is_gathered(world: Any, topic: str) -> None:
    sent = np.arange(100).reshape(10, 10)[::2, 1::3].T
    async with world.bus() as bus, bus.subscribe(topic) as messages:
        await bus.publish(topic, {"x": sent})
        np.testing.assert_array_equal((await messages.next(timeout_s=60))["x"], sent)


@pytest.mark.large
async def test_a_small_message_passes_a_large_one(world: Any, topic: str) -> None:
    large = np.zeros(128 << 20, np.uint8)
    async with (
        world.bus() as bus,
        world.bus() as other,
        other.subscribe(f"{topic}.large") as larges,
        other.subscribe(f"{topic}.small") as smalls,
        bus.publisher(f"{topic}.small") as publisher,
    ):
        sending = asyncio.create_task(bus.publish(f"{topic}.large", {"x": large}))
        await asyncio.sleep(0)
        await publisher.send(b"x")
        await smalls.next(timeout_s=60)
        if world.kind in ("local", "node", "copied"):  # by reference nothing is large
            assert (larges.depth, sending.done()) == (0, False)
        assert (await larges.next(timeout_s=60))["x"].nbytes == large.nbytes
        await sending


@pytest.mark.large
@pytest.mark.parametrize(("count", "size"), [(256, 1 << 20), (40, 12 << 20)])
async def test_large_messages_one_after_the_other_keep_moving(
    world: Any, topic: str, count: int, size: int
) -> None:
    """More than all windows hold, to a reader that pauses: nothing waits for what follows it."""
    async with (
        world.bus() as bus,
        world.bus() as other,
        other.subscribe(topic) as messages,
        bus.publisher(topic, timeout_s=120) as publisher,
    ):

        async def send() -> None:
            body = np.zeros(size, np.uint8)
            for _ in range(count):
                await publisher.send({"x": body})
            await publisher.flush()

        sending = asyncio.create_task(send())
        for number in range(count):
            message = await messages.next(timeout_s=60)
            assert message["x"].nbytes == size
            if number % 16 == 0:
                await asyncio.sleep(0.01)
        await sending
        assert (publisher.accepted, publisher.refused) == (count, 0)


async def test_messages_of_several_tasks_go_to_one_each(world: Any, topic: str) -> None:
    async with world.bus() as bus, bus.subscribe(topic) as messages:
        takers = [asyncio.create_task(messages.next(timeout_s=60)) for _ in range(4)]
        await bus.publish_many(topic, [{"n": n} for n in range(4)])
        got = [int(message["n"]) for message in await asyncio.gather(*takers)]
        assert sorted(got) == [0, 1, 2, 3]


async def test_iteration_ends_when_the_subscription_is_closed(world: Any, topic: str) -> None:
    async with world.bus() as bus:
        messages = await bus.subscribe(topic)
        await bus.publish(topic, b"one")
        assert (await messages.next(timeout_s=60)).bytes == b"one"
        taker = asyncio.create_task(anext(messages, None))
        await asyncio.sleep(0)
        await messages.close()
        assert await taker is None
        assert [message async for message in messages] == []
        assert (await bus.publish(topic)).matched == 0


async def test_next_without_a_message_is_a_timeout(world: Any, topic: str) -> None:
    async with world.bus() as bus, bus.subscribe(topic) as messages:
        with pytest.raises(sira.Timeout) as caught:
            await messages.next(timeout_s=0.02)
        assert isinstance(caught.value, TimeoutError)
        await bus.publish(topic, b"late")
        assert (await messages.next(timeout_s=60)).bytes == b"late"


@pytest.mark.parametrize("name", ["", "a..b", "a.*", "a.>", "a b", "x" * 300])
async def test_a_topic_that_is_none_is_refused(world: Any, name: str) -> None:
    async with world.bus() as bus:
        with pytest.raises(sira.BadTopic):
            await bus.publish(name)
        with pytest.raises(sira.SiraError):
            await bus.request(name, timeout_s=1)


async def test_names_of_the_node_are_refused_to_clients(world: Any) -> None:
    async with world.bus() as bus:
        with pytest.raises(sira.Denied):
            await bus.publish("sira.mine")
        with pytest.raises(PermissionError):
            await bus.publish("sira.mine")


async def test_what_cannot_be_encoded_is_refused_before_it_is_sent(world: Any, topic: str) -> None:
    async with world.bus() as bus, bus.subscribe(topic) as messages:
        for body in ({"x": np.array([object()])}, {"x": np.array(["text"])}, 3.5):
            with pytest.raises((sira.SiraError, TypeError)):
                await bus.publish(topic, body)
        await bus.publish(topic, b"fine")
        assert (await messages.next(timeout_s=60)).bytes == b"fine"
