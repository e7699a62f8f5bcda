"""Small messages between clients of one host: past the node, as good as by it."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import numpy as np
import pytest

import sira
import sira.testing

from .raw import run, until

pytestmark = pytest.mark.integration
BODY = b"x" * 200


async def past_node(bus: sira.Bus, topic: str, body: Any = BODY) -> int:
    """Publish until it goes past the node; how many went by it."""
    for count in range(10_000):
        if (await bus.publish(topic, body)).lanes == ["shm"]:
            return count
        await asyncio.sleep(0.001)
    raise AssertionError("every message went by the node")


async def past_total(bus: sira.Bus) -> int:
    """How many messages have gone past the node, all clients together."""
    return int((await bus.stats()).values["messages_direct"])


async def settled(bus: sira.Bus, topic: str) -> sira.LedgerRow:
    """The topic's row once nothing is pending."""
    while True:
        ledger = await bus.ledger(topic)
        assert ledger.balanced
        if ledger[topic].pending == 0:
            return ledger[topic]
        await asyncio.sleep(0.01)


# ---- order and counts ----------------------------------------------------------------------------


def test_a_publisher_that_is_faster_than_its_consumer_stays_past_the_node(
    node: sira.testing.Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sira.client.local.direct.ROOM_S", 60.0)  # also where the machine stops

    async def work() -> None:
        async with (
            sira.connect(node.socket_url) as publisher,
            sira.connect(node.socket_url) as subscriber,
            subscriber.subscribe("full.x", window_messages=4) as messages,
        ):
            lanes: list[str] = []
            while lanes != ["shm"]:  # each is taken, so that the node comes to rest
                lanes = (await publisher.publish("full.x")).lanes
                await messages.next()
            outbox = publisher.connection.outgoing.outbox
            granted, posted = outbox.routes_granted, outbox.posted

            async def send() -> None:
                async with publisher.publisher("full.x") as out:
                    for n in range(1000):
                        await out.send(n.to_bytes(4, "big") + BODY)
                for n in range(1000, 1200):
                    await publisher.publish("full.x", n.to_bytes(4, "big") + BODY)
                more = [n.to_bytes(4, "big") + BODY for n in range(1200, 2000)]
                await publisher.publish_many("full.x", more)

            sending = asyncio.create_task(send())
            for n in range(2000):
                assert int.from_bytes((await messages.next()).bytes[:4], "big") == n
            await sending
            assert (outbox.routes_granted, outbox.posted) == (granted, posted + 2000)

    run(work)


def test_messages_pass_the_node_by_and_come_in_order_behind_those_that_did_not(
    node: sira.testing.Node,
) -> None:
    async def work() -> None:
        async with (
            sira.connect(node.socket_url) as bus,
            sira.connect(node.socket_url) as other,
            other.subscribe("direct.order") as messages,
        ):
            got = []

            async def take() -> None:
                async for message in messages:
                    got.append(int.from_bytes(message.bytes, "little"))

            taking = asyncio.create_task(take())
            lanes = []
            while len(lanes) < 300 or lanes[-1] != ["shm"]:
                body = len(lanes).to_bytes(4, "little")
                receipt = await bus.publish("direct.order", body)
                assert (receipt.matched, receipt.grade) == (1, "accepted")
                lanes.append(receipt.lanes)
            assert lanes[0] == ["socket"]
            await until(lambda: len(got) == len(lanes))
            assert got == list(range(len(lanes)))
            taking.cancel()
            row = await settled(bus, "direct.order")
            assert row.published == row.owed == row.delivered == len(lanes)

    run(work)


def test_a_message_says_the_same_whichever_way_it_came(node: sira.testing.Node) -> None:
    async def work() -> None:
        async with (
            sira.connect(node.socket_url, name="camera") as bus,
            sira.connect(node.socket_url) as other,
            other.subscribe("direct.says.*") as messages,
        ):
            fields: dict[str, Any] = {
                "headers": {"a": "b"}, "priority": 3, "ttl_s": 60.0, "type": "kind", "key": "",
                "schema": "s",
            }  # fmt: skip
            await bus.publish("direct.says.x", {"n": 1}, **fields)
            near = await messages.next(timeout_s=60)
            for _ in range(await past_node(bus, "direct.says.x") + 1):
                await messages.next(timeout_s=60)
            receipt = await bus.publish("direct.says.x", {"n": np.float32(2)}, **fields)
            assert receipt.lanes == ["shm"]
            message = await messages.next(timeout_s=60)
            assert (message.id, float(message["n"])) == (receipt.id, 2.0)
            for name in ("topic", "source", "principal", "tenant", "type", "schema", "priority",
                         "headers"):  # fmt: skip
                assert getattr(message, name) == getattr(near, name), name
            assert 0 < message.ttl_ns <= 60_000_000_000

    run(work)


def test_who_subscribes_meanwhile_gets_all_that_is_published_after(
    node: sira.testing.Node,
) -> None:
    async def work() -> None:
        async with (
            sira.connect(node.socket_url) as bus,
            sira.connect(node.socket_url) as other,
            sira.connect(node.url) as far,
            other.subscribe("direct.meanwhile") as first,
        ):
            sent = await past_node(bus, "direct.meanwhile") + 1
            late = []
            for number in range(6):
                messages = (far if number % 2 else other).subscribe("direct.*")
                await messages.open()
                late.append((messages, sent))
                for _ in range(50):
                    await bus.publish("direct.meanwhile", BODY)
                sent += 50
            for messages, before in [(first, 0), *late]:
                for _ in range(sent - before):
                    await messages.next(timeout_s=60)
                with pytest.raises(sira.Timeout):
                    await messages.next(timeout_s=0.01)
            for messages, _ in late:
                await messages.close()

    run(work)


def test_what_a_subscription_leaves_unread_is_counted_as_dropped(node: sira.testing.Node) -> None:
    async def work() -> None:
        async with sira.connect(node.socket_url) as bus, sira.connect(node.socket_url) as other:
            async with other.subscribe("direct.unread") as messages:
                sent = await past_node(bus, "direct.unread") + 1
                for _ in range(20):
                    await bus.publish("direct.unread", BODY)
                for _ in range(sent + 5):
                    await messages.next(timeout_s=60)
            row = await settled(bus, "direct.unread")
            assert (row.owed, row.delivered) == (sent + 20, sent + 5)
            assert row.dropped == {"UNSUBSCRIBED": 15}
            assert (await bus.publish("direct.unread", BODY)).matched == 0

    run(work)


def test_more_topics_than_a_link_has_cells_all_pass_the_node_by(node: sira.testing.Node) -> None:
    async def work() -> None:
        async with (
            sira.connect(node.socket_url) as bus,
            sira.connect(node.socket_url) as other,
            other.subscribe("direct.many.>") as messages,
        ):
            sent = {f"direct.many.t{n}": 0 for n in range(600)}
            got = dict.fromkeys(sent, 0)

            async def take() -> None:
                async for message in messages:
                    got[message.topic] += 1

            taking = asyncio.create_task(take())
            for topic in sent:
                sent[topic] = await past_node(bus, topic) + 1
            await until(lambda: got == sent)
            taking.cancel()

    run(work)


def test_large_bodies_pass_the_node_by_where_they_lie(node: sira.testing.Node) -> None:
    async def work() -> None:
        async with (
            sira.connect(node.socket_url) as bus,
            sira.connect(node.socket_url) as other,
            other.subscribe("direct.large") as messages,
        ):
            sizes = [1_000, 10_000, 100_000, 3_000_000]
            stop = asyncio.Event()
            got = 0

            async def take() -> None:
                nonlocal got
                async for message in messages:
                    assert (message["x"] == message["x"].size % 251).all()
                    got += 1
                    if stop.is_set() and messages.depth == 0:
                        return

            taking = asyncio.create_task(take())
            sent = 0
            for size in sizes:
                body = {"x": np.full(size, size % 251, np.uint8)}
                before = await past_total(bus)
                while await past_total(bus) < before + 50:
                    for _ in range(100):
                        await bus.publish("direct.large", body)
                        sent += 1
            stop.set()
            await until(lambda: got >= sent - 1)
            taking.cancel()

    run(work)


def test_views_that_are_kept_do_not_send_large_bodies_by_the_node(
    node: sira.testing.Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sira.client.local.direct.ROOM_S", 60.0)  # also where the machine stops
    size = 4 << 20

    async def work() -> None:
        async with (
            sira.connect(node.socket_url) as bus,
            sira.connect(node.socket_url) as other,
            other.subscribe("direct.kept", window_bytes=size) as messages,
        ):
            body, outbox, kept = {"x": np.ones(size, np.uint8)}, bus.connection.outgoing.outbox, []
            for _ in range(10):  # so much memory is there, and known to the node, from now on
                await bus.publish("direct.kept", body)
                kept.append((await messages.next())["x"])
            kept.clear()
            await until(lambda: not bus.connection.lender.arenas.lent_bytes)
            while outbox.route_state("direct.kept") != "live" or outbox.posted == 0:
                await bus.publish("direct.kept", body)
                await messages.next()
            granted, posted = outbox.routes_granted, outbox.posted
            for _ in range(8):
                await bus.publish("direct.kept", body)
                kept.append((await messages.next())["x"])
            assert (outbox.routes_granted, outbox.posted) == (granted, posted + 8)
            assert sum(len(each) for each in kept) == 8 * size

    run(work)


# ---- requests ------------------------------------------------------------------------------------


def test_requests_and_replies_pass_the_node_by(node: sira.testing.Node) -> None:
    async def work() -> None:
        async with (
            sira.connect(node.socket_url) as bus,
            sira.connect(node.socket_url) as other,
            other.subscribe("direct.ask") as messages,
        ):

            async def serve() -> None:
                async for message in messages:
                    await message.reply({"y": message["x"] * 2})

            serving = asyncio.create_task(serve())
            went = 0
            while went < 190:  # of 200: questions and answers
                before = await past_total(bus)
                for number in range(100):
                    assert (await bus.request("direct.ask", {"x": number}))["y"] == 2 * number
                went = await past_total(bus) - before
            serving.cancel()

    run(work)


def test_threads_that_wait_take_turns_at_the_bells(node: sira.testing.Node) -> None:
    rounds, askers = 200, 4
    with sira.connect_sync(node.socket_url) as bus, sira.connect_sync(node.socket_url) as other:
        opened = [other.subscribe(f"direct.turns.t{n}").open() for n in range(askers)]
        wrong: list[Any] = []

        def serve(messages: sira.SyncSubscription) -> None:
            for message in messages:
                message.reply({"y": message["x"] + 1})

        def ask(number: int) -> None:
            for turn in range(rounds):
                reply = bus.request(f"direct.turns.t{number}", {"x": turn}, timeout_s=30)
                if int(reply["y"]) != turn + 1:
                    wrong.append((number, turn))

        serving = [threading.Thread(target=serve, args=(each,)) for each in opened]
        asking = [threading.Thread(target=ask, args=(n,)) for n in range(askers)]
        for thread in [*serving, *asking]:
            thread.start()
        for thread in asking:
            thread.join(60)
            assert not thread.is_alive()
        assert not wrong
        assert bus.stats().values["messages_direct"] > 0
        for messages in opened:
            messages.close()
        for thread in serving:
            thread.join(30)
            assert not thread.is_alive()


def test_a_thread_that_waits_at_the_bells_hears_what_comes_by_the_node(
    node: sira.testing.Node,
) -> None:
    with (
        sira.connect_sync(node.socket_url) as bus,
        sira.connect_sync(node.url) as far,
        sira.connect_sync(node.socket_url) as other,
        other.subscribe("direct.both") as messages,
    ):
        while bus.publish("direct.both", BODY).lanes != ["shm"]:
            messages.next(timeout_s=60)
        got = []

        def take() -> None:
            for message in messages:
                got.append(message.source)

        taking = threading.Thread(target=take)
        taking.start()
        for number in range(300):
            (far if number % 3 else bus).publish("direct.both", BODY)
        while len(got) < 301:
            time.sleep(0.001)
        messages.close()
        taking.join(30)
        assert not taking.is_alive()
