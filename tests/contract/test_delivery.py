"""What happens to messages that are not taken at once: overflow, expiry, kept ones, contracts."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

import sira


async def test_block_makes_the_publisher_wait_and_loses_nothing(
    world: Any, topic: str, accounted: Any
) -> None:
    count = 12_000  # more than all that is on the way may hold
    async with (
        world.bus() as bus,
        world.bus() as other,
        other.subscribe(topic, window_messages=4) as messages,
    ):

        async def send() -> None:
            async with bus.publisher(topic, timeout_s=30) as publisher:
                for number in range(count):
                    await publisher.send(number.to_bytes(4, "little"))

        sending = asyncio.create_task(send())
        for number in range(count):
            message = await messages.next(timeout_s=60)
            assert int.from_bytes(message.bytes, "little") == number
        await sending
        row = await accounted(bus, topic)
        assert (row.owed, row.delivered, row.dropped) == (count, count, {})


async def test_a_full_queue_refuses_in_time_and_nobody_got_the_message(
    world: Any, topic: str, accounted: Any
) -> None:
    async def filled(name: str, timeout_s: float) -> bool:
        """Fill a queue; False: the answer did not come in time."""
        async with (
            world.bus() as bus,
            world.bus() as other,
            other.subscribe(name, window_messages=1) as slow,
            bus.subscribe(name) as quick,
        ):
            accepted, refused = 0, None
            while refused is None:
                try:
                    await bus.publish_many(name, [b"x"] * 500, timeout_s=timeout_s)
                    accepted += 500
                except sira.QueueFull as error:
                    refused = error
                    accepted += int(error.details["accepted"])
                except sira.Timeout:
                    return False
            assert refused.retryable
            for messages in (slow, quick):
                for _ in range(accepted):
                    await messages.next(timeout_s=60)
                with pytest.raises(sira.Timeout):
                    await messages.next(timeout_s=0.05)
            row = await accounted(bus, name)
            assert row.delivered == 2 * accepted
            assert row.refused["QUEUE_FULL"] > 0
            return True

    # The node answers after nine tenths of it: a tenth must be enough for its answer, and of the
    # first may not be on a slow machine.
    assert await filled(f"{topic}.hasty", 1.0) or await filled(f"{topic}.patient", 8.0)


async def test_drop_drops_the_new_and_counts_it(
    world: Any, topic: str, accounted: Any, until: Any
) -> None:
    count = 4_000
    async with (
        world.bus() as bus,
        world.bus() as other,
        other.subscribe(topic, overflow="drop", window_messages=1) as messages,
    ):
        await bus.publish(topic, bytes(4))
        await until(lambda: messages.depth == 1)  # the window is full: nothing leaves the queue
        await bus.publish_many(topic, [n.to_bytes(4, "little") for n in range(1, count)])
        got = [await messages.next(timeout_s=60)]
        while True:
            try:
                got.append(await messages.next(timeout_s=0.3))
            except sira.Timeout:
                if not (await bus.ledger(topic)).rows[0].pending:
                    break  # nothing is on its way any more: a slow machine is no empty queue
        numbers = [int.from_bytes(message.bytes, "little") for message in got]
        assert numbers == list(range(len(got)))
        row = await accounted(bus, topic)
        assert len(got) == row.delivered < count
        assert row.dropped == {"QUEUE_FULL": count - len(got)}


async def test_latest_keeps_the_newest(world: Any, topic: str, accounted: Any) -> None:
    count = 500
    async with (
        world.bus() as bus,
        world.bus() as other,
        other.subscribe(topic, overflow="latest") as messages,
    ):
        for number in range(count):
            await bus.publish(topic, {"n": number})
        seen = []
        while not seen or seen[-1] != count - 1:
            seen.append(int((await messages.next(timeout_s=60))["n"]))
        assert seen == sorted(seen)
        assert len(seen) < count
        row = await accounted(bus, topic)
        assert row.delivered + row.superseded == count
        assert row.dropped == {}


async def test_a_latest_topic_gives_its_last_message_to_who_comes_later(
    world: Any, topic: str
) -> None:
    async with world.bus() as bus, world.bus() as other:
        made = await bus.topics.create(topic, kind="latest")
        assert (made.kind, made.declared) == ("latest", True)
        for number in range(3):
            await bus.publish(topic, {"n": number})
        async with other.subscribe(topic) as messages:
            assert (await messages.next(timeout_s=60))["n"] == 2
            await bus.publish(topic, {"n": 3})
            assert (await messages.next(timeout_s=60))["n"] == 3


async def test_a_message_that_expired_is_counted_and_never_delivered(
    world: Any, topic: str, accounted: Any, until: Any
) -> None:
    async def has_expired() -> bool:
        return (await bus.ledger(topic))[topic].expired == 1

    async with (
        world.bus() as bus,
        world.bus() as other,
        other.subscribe(topic, window_messages=1) as messages,
    ):
        await bus.publish(topic, b"in the window")
        await bus.publish(topic, b"expires", ttl_s=0.02)
        await bus.publish(topic, b"stays")
        await until(has_expired)
        assert (await messages.next(timeout_s=60)).bytes == b"in the window"
        assert (await messages.next(timeout_s=60)).bytes == b"stays"
        row = await accounted(bus, topic)
        assert (row.owed, row.delivered, row.expired) == (3, 2, 1)


async def test_a_contract_is_held_at_publish_and_told_in_two_lines(world: Any, topic: str) -> None:
    async with world.bus() as bus, bus.subscribe(topic) as messages:
        await bus.topics.create(topic, contract={"x": "f32|bf16[B, H<=4]"})
        await bus.publish(topic, {"x": np.zeros((2, 3), np.float32)})
        for wrong in (
            {"x": np.zeros((2, 5), np.float32)},
            {"x": np.zeros((2, 3), np.float64)},
            {"y": np.zeros((2, 3), np.float32)},
            {},
        ):
            with pytest.raises(sira.ContractMismatch):
                await bus.publish(topic, wrong)
        assert (await messages.next(timeout_s=60))["x"].shape == (2, 3)
        with pytest.raises(sira.Timeout):
            await messages.next(timeout_s=0.05)


async def test_a_subscriber_whose_contract_cannot_be_met_is_refused(world: Any, topic: str) -> None:
    async with world.bus() as bus:
        await bus.topics.create(topic, contract={"x": "f32[N]"})
        with pytest.raises(sira.ContractMismatch):
            async with bus.subscribe(topic, contract={"x": "u8[N]"}):
                pass
        async with bus.subscribe(topic, contract={"x": "f32[4]"}):
            pass


async def test_topics_are_listed_described_and_deleted(world: Any, topic: str) -> None:
    async with world.bus() as bus:
        await bus.topics.create(f"{topic}.a", contract={"x": "u8[N]"})
        await bus.publish(f"{topic}.b", b"x")
        found = {each.name: each for each in await bus.topics.list(f"{topic}.>")}
        assert set(found) == {f"{topic}.a", f"{topic}.b"}
        assert found[f"{topic}.a"].contract == {"x": "u8[N]"}
        assert (found[f"{topic}.b"].declared, found[f"{topic}.b"].published) == (False, 1)
        again = await bus.topics.create(f"{topic}.a", contract={"x": "u8[N]"})
        assert again == found[f"{topic}.a"]
        with pytest.raises(sira.Conflict):
            await bus.topics.create(f"{topic}.a", kind="latest")
        await bus.topics.delete(f"{topic}.a")
        with pytest.raises(sira.NotFound):
            await bus.topics.delete(f"{topic}.a")


async def test_an_owned_topic_goes_with_its_client(world: Any, topic: str, until: Any) -> None:
    async with world.bus() as bus:
        async with world.bus() as owner:
            made = await owner.topics.create(f"{topic}.mine", owned=True)
            assert made.owned
            await owner.publish(f"{topic}.mine", b"x")
            assert [each.name for each in await bus.topics.list(f"{topic}.*")] == [f"{topic}.mine"]

        async def gone() -> bool:
            return await bus.topics.list(f"{topic}.*") == []

        await until(gone)
        assert (await bus.ledger(">")).balanced


async def test_a_ledger_of_very_many_topics_comes_whole(world: Any, topic: str) -> None:
    names = [f"{topic}.{'long-name-' * 19}{number}" for number in range(3_000)]
    async with world.bus() as bus:
        await asyncio.gather(*(bus.publish(name, b"x", timeout_s=50) for name in names))
        found = await bus.ledger(f"{topic}.>")
        rows = {row.topic: row for row in found if not row.class_row}
        assert rows.keys() == set(names) and len(found) >= 3_000
        assert all(row.dropped == {"NO_MATCH": 1} for row in rows.values())
        assert found.balanced and found.moved == 0


async def test_explain_says_who_would_get_a_message(world: Any, topic: str) -> None:
    async with world.bus() as bus, bus.subscribe(f"{topic}.>", group="g"):
        found = await bus.explain(f"{topic}.a")
        assert (found.decision, found.kind) == ("allow", "volatile")
        assert [(match.pattern, match.group, match.lane) for match in found] == [
            (f"{topic}.>", "g", world.lane_to)
        ]
        assert found.reasons


async def test_a_message_nobody_matched_is_counted(world: Any, topic: str, accounted: Any) -> None:
    async with world.bus() as bus:
        assert (await bus.publish(topic, b"x")).matched == 0
        row = await accounted(bus, topic)
        assert (row.owed, row.dropped) == (1, {"NO_MATCH": 1})


@pytest.mark.large
async def test_a_cancelled_publish_leaves_no_trace_in_the_client(world: Any, topic: str) -> None:
    async with (
        world.bus() as bus,
        world.bus() as other,
        other.subscribe(topic, window_messages=1),
    ):
        waiting = []
        while not waiting or waiting[-1].done():
            waiting.append(asyncio.create_task(bus.publish(topic, b"x" * (1 << 20))))
            await asyncio.sleep(0.01)
        waiting[-1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting[-1]
        assert bus.connection.is_up


async def test_settings_that_cannot_be_are_refused_by_name(world: Any, topic: str) -> None:
    async with world.bus() as bus:
        for call in (
            lambda: bus.subscribe(topic, overflow="never"),
            lambda: bus.subscribe(topic, window_messages=0),
            lambda: bus.subscribe("a..b"),
            lambda: bus.publisher(topic, priority=8),
            lambda: bus.publisher(topic, ttl_s=0),
            lambda: bus.publisher(topic, grade="best"),
            lambda: bus.publisher("a.*"),
        ):
            with pytest.raises(sira.SiraError) as caught:
                call()
            assert caught.value.code in ("BAD_REQUEST", "BAD_TOPIC")
        with pytest.raises(sira.BadRequest):
            await bus.topics.create(topic, kind="eternal")
