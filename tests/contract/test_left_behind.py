"""What a caller gave up leaves nothing behind: not at the node, and nobody who waits for ever."""

# ruff: noqa: SIM117  what is inside needs what is outside
from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

import sira
import sira.testing
from sira.client import subscription
from sira.kernel.errors import NodeDraining

SOON_S = 60.0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON_S):
        while not condition():  # noqa: ASYNC110  nothing tells of it
            await asyncio.sleep(0)


async def until_open(node: sira.testing.LocalNode, count: int) -> None:
    await until(lambda: len(node.kernel.subscriptions) == count)


async def test_a_subscription_that_was_closed_is_not_opened_again_after_a_lost_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subscription, "_CLOSE_S", 3_600.0)
    node = sira.testing.LocalNode()
    async with sira.testing.LocalBus(node) as bus:
        kept = await bus.subscribe("kept")
        closed = await bus.subscribe("closed")
        closing = asyncio.ensure_future(closed.close())
        await asyncio.sleep(0)  # Close is on its way, and nobody has answered it
        node.cut()
        async with asyncio.timeout(SOON_S):  # the loss ends it: nothing is left to wait for
            await closing
        await until_open(node, 1)
        await bus.publish("kept", b"1")
        assert [each.pattern for each in node.kernel.subscriptions] == ["kept"]
        await kept.close()


async def test_entering_a_subscription_that_is_cancelled_leaves_none_open() -> None:
    node = sira.testing.LocalNode()
    async with sira.testing.LocalBus(node) as bus:
        entering = asyncio.ensure_future(bus.subscribe("lab").__aenter__())
        await asyncio.sleep(0)
        assert not entering.done()
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        assert (await bus.publish("other", b"1")).matched == 0
        await until_open(node, 0)
        assert (await bus.publish("lab", b"1")).matched == 0


async def test_a_subscription_that_could_not_be_opened_can_be_opened_later() -> None:
    node = sira.testing.LocalNode()
    async with sira.testing.LocalBus(node) as bus:
        await bus.publish("lab", b"1")  # a stream, so that the loss is noticed
        late = bus.subscribe("lab")
        late._open_s = 0.05
        node.stop()
        await until(lambda: not bus.connection.is_up)
        with pytest.raises(sira.Unreachable):
            await late.open()
        node.start()
        late._open_s = SOON_S
        async with asyncio.timeout(SOON_S):
            await bus.connection._is_up.wait()
            await late.open()
        assert (await bus.publish("lab", b"2")).matched == 1
        assert (await late.next()).bytes == b"2"
        await late.close()


async def test_a_publisher_of_a_closed_bus_refuses_at_once() -> None:
    node = sira.testing.LocalNode()
    async with sira.testing.LocalBus(node) as bus:
        publisher = bus.publisher("lab")
        await publisher.send(b"1")
        await publisher.flush()
    for _ in range(2):
        with pytest.raises(sira.Unreachable):
            await publisher.send(b"2")
    async with asyncio.timeout(SOON_S):
        await publisher.flush()


async def test_who_waits_for_room_hears_that_the_bus_was_closed() -> None:
    node = sira.testing.LocalNode(publish_block_s=3_600)
    async with sira.testing.LocalBus(node) as bus, sira.testing.LocalBus(node) as deaf:
        async with deaf.subscribe("lab", window_messages=1):
            publisher = bus.publisher("lab", timeout_s=3_600)
            while bus.connection.outgoing.outbox.room:
                publisher.send(bytes(200_000))
            waiting = asyncio.ensure_future(publisher._send_later(b"x"))
            await asyncio.sleep(0)
            node.stop()
            bus.connection._end(sira.Unreachable("refused for good", retryable=False))
            async with asyncio.timeout(SOON_S):
                with pytest.raises(sira.Unreachable):
                    await waiting


async def test_a_plain_handler_that_raises_stop_iteration_fails_like_any_other() -> None:
    def handler(x: bytes) -> bytes:
        return next(iter(()))

    node = sira.testing.LocalNode()
    async with sira.testing.LocalBus(node) as bus:
        async with sira.Agent("a", topic="lab", handler=handler, bus=bus):
            for _ in range(2):
                with pytest.raises(sira.HandlerFailed, match="StopIteration"):
                    await bus.request("lab", b"1", timeout_s=60)


async def test_a_part_that_cannot_be_sent_leaves_no_gap_in_a_stream_of_replies() -> None:
    node = sira.testing.LocalNode()
    async with sira.testing.LocalBus(node) as bus, bus.subscribe("lab") as asked:

        async def answer() -> None:
            message = await asked.next()
            with pytest.raises(sira.SiraError):
                await message.reply({"x": object()}, end=False)
            await message.reply(b"1", end=False)
            with pytest.raises(sira.SiraError):
                await message.reply({"x": object()}, end=True)
            await message.reply(b"2")

        answering = asyncio.ensure_future(answer())
        replies = [bytes(each.bytes) async for each in bus.request_stream("lab", b"?")]
        assert replies == [b"1", b"2"]
        await answering


async def test_a_stream_of_replies_opens_within_its_timeout() -> None:
    node = sira.testing.LocalNode()
    async with sira.testing.LocalBus(node) as bus:
        assert bus.request_stream("lab", b"?", timeout_s=0.5)._subscription._open_s == 0.5
        assert bus.request_stream("lab", b"?", timeout_s=None)._subscription._open_s == 5.0


async def parked(bus: sira.Bus) -> asyncio.Future[sira.Receipt]:
    """A publish that the node holds back, because its subscriber takes nothing."""
    for _ in range(2):  # one is with the subscriber, one in its queue
        await bus.publish("lab", b"before")
    publishing = asyncio.ensure_future(bus.publish("lab", b"parked", timeout_s=3_600))
    await until(lambda: bus.local_node.kernel.hub.stats["parked"] == 1)
    return publishing


async def test_what_was_given_up_while_disconnected_leaves_no_doubt_about_what_follows() -> None:
    node = sira.testing.LocalNode(queue_messages_max=1)
    async with sira.testing.LocalBus(node) as bus, sira.testing.LocalBus(node) as deaf:
        await deaf.subscribe("lab", window_messages=1)
        publishing = await parked(bus)
        node.stop()
        await until(lambda: not bus.connection.is_up)
        publishing.cancel()
        await asyncio.wait([publishing])
        node.start()
        assert (await bus.publish("other", b"new")).grade == "accepted"


async def test_a_draining_node_that_took_nothing_makes_no_message_new_again() -> None:
    """Sent to a node that was lost, then refused by one that drains: still sent before."""
    node = sira.testing.LocalNode(queue_messages_max=1)
    async with sira.testing.LocalBus(node) as bus, sira.testing.LocalBus(node) as deaf:
        await deaf.subscribe("lab", window_messages=1)
        publishing = await parked(bus)
        node.stop()
        node.start()
        node.kernel.draining = True
        refused = 0
        stop = bus.connection._requeue

        def counted(error: sira.SiraError | None, heard_out: bool) -> None:
            nonlocal refused
            refused += isinstance(error, NodeDraining)
            stop(error, heard_out)

        bus.connection._requeue = counted  # type: ignore[method-assign]
        await until(lambda: refused > 0)
        node.kernel.draining = False
        with pytest.raises(sira.OutcomeUnknown):
            await publishing
        assert (await bus.publish("other", b"new")).grade == "accepted"


async def test_a_fault_of_the_sdk_while_it_reads_costs_no_more_than_the_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = sira.testing.LocalNode()
    async with sira.testing.LocalBus(node) as bus:

        def faulty(_outcome: object) -> None:
            raise ZeroDivisionError("a fault of ours")

        bus.connection.push("lab", b"1", None, faulty)
        assert (await bus.publish("lab", b"2")).grade == "accepted"
        assert "a fault of ours" in caplog.text

        async with bus.subscribe("lab") as subscription:
            subscription.opened = faulty  # type: ignore[method-assign, assignment]
            node.cut()
            await until(lambda: caplog.text.count("a fault of ours") > 1)
            del subscription.opened
            await until_open(node, 1)
