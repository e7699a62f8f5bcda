"""Losing the node and coming back: what is told, what is sent again, what is never done twice."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import sira
import sira.testing
from sira.client.sync import SyncBus

# More than a node takes to start, on a slow machine, too; less than the watchdog of a test.
PATIENT_S = 100.0


class Local:
    """A node in this process that can be cut off, killed and started."""

    def __init__(self) -> None:
        self.node = sira.testing.LocalNode()

    def bus(self, **settings: Any) -> sira.Bus:
        return sira.testing.LocalBus(self.node, **settings)

    def kill(self) -> None:
        self.node.stop()

    def start(self) -> None:
        self.node.start()

    def close(self) -> None:
        return


class Real:
    """A node process of the test's own."""

    def __init__(self) -> None:
        self.node = sira.testing.Node().start()

    def bus(self, **settings: Any) -> sira.Bus:
        return sira.connect(self.url, **settings)

    @property
    def url(self) -> str:
        return self.node.url

    def kill(self) -> None:
        self.node.kill()

    def stop(self) -> None:
        assert self.node.stop() == 0

    def start(self) -> None:
        self.node.start()

    def close(self) -> None:
        self.node.close()


class BySocket(Real):
    """The same, reached by its Unix socket."""

    @property
    def url(self) -> str:
        return self.node.socket_url


@pytest.fixture(params=[Local, Real, BySocket], ids=["local", "node", "socket"])
def own(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A node that the test may break."""
    node = request.param()
    yield node
    node.close()


async def test_who_only_calls_finds_the_next_node(own: Any) -> None:
    async with own.bus() as bus:
        for _ in range(2):
            for change in (own.kill, own.start):
                if isinstance(own, Local):  # it belongs to this loop
                    change()
                else:
                    await asyncio.to_thread(change)
            assert (await bus.ledger(timeout_s=PATIENT_S)).balanced


async def test_a_subscription_lives_over_the_end_of_its_node(own: Any, until: Any) -> None:
    async with own.bus() as bus, bus.subscribe("a.>") as messages:
        await bus.publish("a.b", b"before")
        assert (await messages.next(timeout_s=60)).bytes == b"before"
        own.kill()
        await until(lambda: messages.reconnects == 1)
        own.start()

        async def matched() -> bool:
            return (await bus.publish("a.b", b"after", timeout_s=PATIENT_S)).matched == 1

        await until(matched)
        assert (await messages.next(timeout_s=60)).bytes == b"after"


async def test_what_waits_for_the_node_is_sent_when_it_is_back(own: Any, until: Any) -> None:
    async with own.bus() as bus:
        await bus.publish("a", b"warm")
        own.kill()
        await until(lambda: not bus.connection.is_up)
        waiting = asyncio.create_task(bus.publish("a", b"patient", timeout_s=PATIENT_S))
        asking = asyncio.create_task(bus.request("nobody", timeout_s=PATIENT_S))
        await asyncio.sleep(0.05)
        own.start()
        assert (await waiting).grade == "accepted"
        with pytest.raises(sira.NoMatch):
            await asking


async def test_a_publish_is_unreachable_when_the_node_stays_away(own: Any, until: Any) -> None:
    async with own.bus() as bus:
        await bus.publish("a", b"warm")
        own.kill()
        await until(lambda: not bus.connection.is_up)
        with pytest.raises(sira.Unreachable) as caught:
            await bus.publish("a", b"lost", timeout_s=0.2)
        assert isinstance(caught.value, ConnectionError)
        with pytest.raises(sira.Unreachable):
            await bus.request("a", timeout_s=0.2)
        with pytest.raises(sira.Unreachable):
            await bus.ledger(timeout_s=0.2)


async def test_a_publish_whose_node_died_is_unknown_not_repeated(
    own: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIRA_SHM", "off")  # by reference large ones wait for no room

    async def take_all(messages: sira.Subscription) -> None:
        async for _ in messages:
            pass

    async def some_wait_for_room() -> bool:
        return any(task.done() for task in first) and (await bus.stats()).values["parked"] > 0

    async with own.bus() as bus, own.bus() as other:
        async with other.subscribe("a", window_messages=1) as messages:
            first = [
                asyncio.create_task(bus.publish("a", bytes(1 << 20), timeout_s=PATIENT_S))
                for _ in range(80)
            ]
            await until(some_wait_for_room)
            own.kill()
            await until(lambda: not bus.connection.is_up)
            own.start()
            taking = asyncio.create_task(take_all(messages))  # the next node has room again
            outcomes = await asyncio.gather(*first, return_exceptions=True)
            taking.cancel()
        codes = {getattr(outcome, "code", "accepted") for outcome in outcomes}
        assert "OUTCOME_UNKNOWN" in codes
        assert codes <= {"OUTCOME_UNKNOWN", "accepted", "QUEUE_FULL"}


async def test_what_left_by_reference_to_a_node_that_died_is_unknown_not_repeated(
    until: Any,
) -> None:
    own = BySocket()
    try:
        async with own.bus() as bus, own.bus() as other, other.subscribe("a") as messages:
            assert (await bus.publish("a", bytes(1 << 20))).lanes == ["shm"]
            assert (await messages.next(timeout_s=60)).bytes == bytes(1 << 20)
            os.kill(own.node.pid, signal.SIGSTOP)
            first = [
                asyncio.create_task(bus.publish("a", bytes(1 << 20), timeout_s=PATIENT_S))
                for _ in range(20)
            ]
            outbox = bus.connection.outgoing.outbox
            await until(lambda: outbox.unanswered == 20 and not outbox.transfer_bytes)
            own.kill()
            await until(lambda: not bus.connection.is_up)
            own.start()
            outcomes = await asyncio.gather(*first, return_exceptions=True)
            assert {getattr(each, "code", "accepted") for each in outcomes} == {"OUTCOME_UNKNOWN"}
            await until(lambda: messages.reconnects == 1)

            async def matched() -> bool:
                return (await bus.publish("a", b"after", timeout_s=PATIENT_S)).matched == 1

            await until(matched)
            assert (await messages.next(timeout_s=60)).bytes == b"after"
    finally:
        own.close()


async def test_a_request_under_way_is_unknown_unless_it_may_be_repeated(own: Any) -> None:
    async with own.bus() as bus, own.bus() as other, other.subscribe("a") as messages:
        asking = asyncio.create_task(bus.request("a", b"once", timeout_s=PATIENT_S))
        again = asyncio.create_task(
            bus.request("a", b"again", timeout_s=PATIENT_S, idempotent=True)
        )
        for _ in range(2):
            await messages.next(timeout_s=60)
        own.kill()
        with pytest.raises(sira.OutcomeUnknown):
            await asking
        own.start()
        while True:
            # Whoever asks again may be back before who answers: NO_MATCH is an answer too.
            message = await asyncio.wait_for(_next_or_done(messages, again), PATIENT_S)
            if message is None:
                break
            assert message.bytes == b"again"
            await message.reply(b"answered")
        outcome = (await asyncio.gather(again, return_exceptions=True))[0]
        assert isinstance(outcome, sira.NoMatch) or outcome.bytes == b"answered"


async def _past_the_node(bus: sira.Bus, messages: sira.Subscription, topic: str) -> None:
    """Publish until messages on a topic go past the node; they are taken."""
    while True:
        receipt = await bus.publish(topic, b"warm", timeout_s=PATIENT_S)
        assert (await messages.next(timeout_s=60)).bytes == b"warm"
        if receipt.lanes == ["shm"]:
            return


async def _answered(bus: sira.Bus, messages: sira.Subscription, topic: str) -> None:
    """Ask, and answer: then replies find this bus."""
    asking = asyncio.create_task(bus.request(topic, b"ping", timeout_s=PATIENT_S, idempotent=True))
    while (message := await messages.next(timeout_s=60)).bytes != b"ping":
        pass
    await message.reply(b"pong")
    assert (await asking).bytes == b"pong"


@pytest.mark.parametrize("idempotent", [True, False])
async def test_what_was_asked_past_a_node_that_died_is_asked_again_by_the_next_where_it_may(
    until: Any, idempotent: bool
) -> None:
    own = BySocket()

    async def matched() -> bool:
        return (await bus.publish("a", b"anybody?", timeout_s=PATIENT_S)).matched == 1

    try:
        async with own.bus() as bus, own.bus() as other, other.subscribe("a") as messages:
            await _answered(bus, messages, "a")
            await _past_the_node(bus, messages, "a")
            own.kill()
            await until(lambda: not bus.connection.is_up)
            request = bus.request("a", b"do it", timeout_s=PATIENT_S, idempotent=idempotent)
            asking = asyncio.create_task(request)
            first = await messages.next(timeout_s=60)
            assert first.bytes == b"do it", "it went past the node that is dead"
            own.start()
            if idempotent:
                if not await _asked_again(messages, asking):
                    return
            else:
                await until(lambda: bus.connection.is_up)
                await until(matched)
                await _answered(bus, messages, "a")
                await first.reply(b"done")  # who was asked may take its time
            assert (await asking).bytes == b"done"
    finally:
        own.close()


async def test_a_thread_that_asked_past_a_node_that_died_asks_the_next(until: Any) -> None:
    own = BySocket()

    def work(bus: SyncBus) -> Any:
        while bus.publish("a", b"warm", timeout_s=PATIENT_S).lanes != ["shm"]:
            pass
        return bus.request("a", b"do it", timeout_s=PATIENT_S, idempotent=True)

    try:
        with sira.connect_sync(own.url) as bus:
            async with own.bus() as other, other.subscribe("a") as messages:
                ping = asyncio.create_task(asyncio.to_thread(bus.request, "a", b"ping"))
                await (await messages.next(timeout_s=60)).reply(b"pong")
                await ping
                asking = asyncio.create_task(asyncio.to_thread(work, bus))
                while (await messages.next(timeout_s=60)).bytes != b"do it":
                    pass
                own.kill()
                await until(lambda: messages.reconnects == 1)
                own.start()
                if await _asked_again(messages, asking):
                    assert (await asking).bytes == b"done"
    finally:
        own.close()


async def _asked_again(messages: sira.Subscription, asking: asyncio.Task[Any]) -> bool:
    """Answer what is asked a second time; False: who answers came back later than who asks.

    Then the next node has said that nobody listens, so it was asked, too.
    """
    again = await asyncio.wait_for(_next_or_done(messages, asking), PATIENT_S)
    if again is None:
        with pytest.raises(sira.NoMatch):
            await asking
        return False
    assert again.bytes == b"do it"
    await again.reply(b"done")
    return True


async def _next_or_done(messages: sira.Subscription, task: asyncio.Task[Any]) -> Any:
    taking = asyncio.ensure_future(messages.next())
    await asyncio.wait([taking, task], return_when=asyncio.FIRST_COMPLETED)
    if taking.done():
        return taking.result()
    taking.cancel()
    return None


async def test_a_stream_of_replies_is_truncated_when_the_node_is_lost(own: Any) -> None:
    async with own.bus() as bus, own.bus() as other, other.subscribe("a") as messages:
        stream = bus.request_stream("a", timeout_s=PATIENT_S)
        first = asyncio.ensure_future(anext(stream))
        message = await messages.next(timeout_s=60)
        await message.reply(b"0", end=False)
        assert (await first).bytes == b"0"
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        own.kill()
        with pytest.raises(sira.StreamTruncated) as caught:
            await waiting
        assert caught.value.details["kept"] == "1"


async def test_owned_topics_are_made_again(own: Any, until: Any) -> None:
    async with own.bus() as bus:
        await bus.topics.create("mine.a", owned=True, contract={"x": "f32[N]"})
        own.kill()
        await until(lambda: not bus.connection.is_up)
        own.start()

        async def there() -> bool:
            return [each.name for each in await bus.topics.list("mine.*", timeout_s=PATIENT_S)] == [
                "mine.a"
            ]

        await until(there)
        with pytest.raises(sira.ContractMismatch):
            await bus.publish("mine.a", {"x": np.zeros(1, np.int8)})


async def test_without_retry_a_lost_node_is_the_end(own: Any) -> None:
    retry = sira.Retry(connects=False, publishes=False)
    async with own.bus(retry=retry) as bus, bus.subscribe("a") as messages:
        own.kill()
        with pytest.raises(sira.Unreachable):
            await messages.next(timeout_s=60)
        with pytest.raises(sira.Unreachable):
            await bus.publish("a")


@pytest.mark.parametrize("kind", [Real, BySocket], ids=["node", "socket"])
async def test_a_node_that_is_restarted_in_order_loses_nothing_of_its_clients(
    until: Any, kind: type[Real]
) -> None:
    own = kind()
    try:
        async with own.bus() as bus, own.bus() as other, other.subscribe("a") as messages:
            await bus.publish("a", b"0")
            stopping = asyncio.create_task(asyncio.to_thread(own.stop))
            assert (await messages.next(timeout_s=60)).bytes == b"0"
            await stopping
            asking = asyncio.create_task(bus.publish("b", b"x", timeout_s=PATIENT_S))
            own.start()
            await asking
            await until(lambda: messages.reconnects == 1)

            async def matched() -> bool:
                return (await bus.publish("a", b"1", timeout_s=PATIENT_S)).matched == 1

            await until(matched)
            assert (await messages.next(timeout_s=60)).bytes == b"1"
    finally:
        own.close()


async def test_several_addresses_are_tried_in_order(reach: Any) -> None:
    with sira.testing.node() as node:
        url = f"sira://127.0.0.1:1,{reach(node)}"
        async with sira.connect(url) as bus:
            assert (await bus.publish("a", b"x")).matched == 0


async def test_a_lost_node_is_replaced_by_the_next_address(until: Any, reach: Any) -> None:
    first, second = sira.testing.Node().start(), sira.testing.Node().start()
    try:
        async with (
            sira.connect(f"{reach(first)},{reach(second)}") as bus,
            bus.subscribe("a") as messages,
        ):
            assert (await bus.publish("a", b"x")).matched == 1
            await messages.next(timeout_s=60)
            first.kill()
            await until(lambda: messages.reconnects == 1)

            async def matched() -> bool:
                return (await bus.publish("a", b"y", timeout_s=PATIENT_S)).matched == 1

            await until(matched)
            assert (await messages.next(timeout_s=60)).bytes == b"y"
    finally:
        first.close()
        second.close()


async def test_a_node_that_goes_down_in_order_costs_no_publish_and_no_request(
    until: Any, reach: Any
) -> None:
    first, second = sira.testing.Node().start(), sira.testing.Node().start()
    done, stopped = 0, asyncio.Event()

    async def probe(bus: sira.Bus) -> None:
        nonlocal done
        while not stopped.is_set() or done < 100:
            assert (await bus.publish("a", b"x", timeout_s=PATIENT_S)).grade == "accepted"
            with pytest.raises(sira.NoMatch):
                await bus.request("nobody", timeout_s=PATIENT_S, idempotent=True)
            done += 1

    try:
        async with (
            sira.connect(f"{reach(first)},{reach(second)}") as bus,
            bus.subscribe("b") as messages,
        ):
            probing = asyncio.create_task(probe(bus))
            await until(lambda: done > 10 or probing.done())
            await asyncio.to_thread(first.stop)
            stopped.set()
            await probing
            await until(lambda: messages.reconnects == 1)
            async with sira.connect(reach(second)) as other:

                async def matched() -> bool:
                    return (await other.publish("b", b"y")).matched == 1

                await until(matched)
            assert (await messages.next(timeout_s=60)).bytes == b"y"
    finally:
        first.close()
        second.close()


async def test_no_node_is_unreachable_and_names_the_address() -> None:
    with pytest.raises(sira.Unreachable) as caught:
        await sira.connect("sira://127.0.0.1:1", timeout_s=0.3)
    assert "127.0.0.1:1" in str(caught.value) + str(caught.value.details)
    assert caught.value.help
    with pytest.raises(sira.Unreachable):
        await sira.connect("sira://127.0.0.1:1", retry=sira.Retry(connects=False))


async def test_a_bus_that_was_closed_or_never_opened_says_so(world: Any) -> None:
    bus = world.bus()
    with pytest.raises(sira.Unreachable, match="not connected"):
        await bus.publish("a")
    async with bus:
        messages = await bus.subscribe("a")
        await bus.publish("a", b"x")
    await bus.close()
    with pytest.raises(sira.Unreachable, match="closed"):
        await bus.publish("a")
    with pytest.raises(sira.Unreachable, match="closed"):
        bus.subscribe("a")
    with pytest.raises(sira.SiraError):
        await messages.open()


async def test_a_cut_connection_repeats_publishes_once(until: Any) -> None:
    """The node that is reached again knows what it has taken: nothing is lost, nothing doubled."""
    node = sira.testing.LocalNode()
    count = 20_000
    async with (
        sira.testing.LocalBus(node) as other,
        other.subscribe("a", window_messages=65_536) as messages,
    ):
        async with sira.testing.LocalBus(node) as bus, bus.publisher("a") as publisher:
            for number in range(count):
                await publisher.send(number.to_bytes(4, "little"))
                if number % 4_000 == 3_999:
                    # Only the publisher's streams: the subscriber must not miss anything.
                    for stream in list(node._streams):
                        if type(stream).__name__ == "LocalPublish":
                            stream.lose(sira.Unreachable("cut"))
            await publisher.flush(timeout_s=PATIENT_S)
        got = [
            int.from_bytes((await messages.next(timeout_s=60)).bytes, "little")
            for _ in range(count)
        ]
        assert got == list(range(count))
        with pytest.raises(sira.Timeout):
            await messages.next(timeout_s=0.1)
        assert (await other.ledger("a"))["a"].owed == count
