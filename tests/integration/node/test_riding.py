"""The SDK on a real node: its credits ride, and are heard also where nothing carries them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import sira
from sira.kernel import introspect
from sira.kernel.edge import draining
from sira.kernel.errors import NodeDraining
from sira.kernel.node import Node

from .plain import Plain, message, running, session, until, within

pytestmark = pytest.mark.integration


def echoing(work: Callable[[Node, Plain, sira.Bus], Awaitable[None]], **flags: object) -> None:
    """Run `work` with a client of the SDK beside the plain one."""

    async def both(node: Node, plain: Plain) -> None:
        async with sira.connect(f"sira://{node.address}") as bus:
            await work(node, plain, bus)

    session(both, **flags)


async def echo(bus: sira.Bus, messages: Any, count: int) -> None:
    for i in range(count):
        await bus.publish("own", i.to_bytes(4, "big"), timeout_s=60)
        assert (await messages.next(timeout_s=60)).bytes == i.to_bytes(4, "big")


async def all_delivered(plain: Plain, topic: str, count: int) -> None:
    async def check() -> bool:
        row = (await plain.ledger(topic))[topic]
        assert not row.dropped
        return row.delivered == count

    await until(check)


def frames_in(node: Node) -> int:
    return int(node.bus.hub.stats["frames_in"])


def test_an_echo_costs_the_node_one_frame_in() -> None:
    """But for a credit now and then: of a thousand echoes it hears no thousand credits."""

    async def work(node: Node, plain: Plain, bus: sira.Bus) -> None:
        async with bus.subscribe("own") as messages:
            await echo(bus, messages, 10)
            before, out = frames_in(node), int(node.bus.hub.stats["frames_out"])
            await echo(bus, messages, 1_000)
            assert 1_000 <= frames_in(node) - before < 1_200
            assert 1_000 <= int(node.bus.hub.stats["frames_out"]) - out < 1_200
            await all_delivered(plain, "own", 1_010)

    echoing(work)


def test_credits_that_rode_with_what_the_node_does_not_read_are_told_all_the_same() -> None:
    async def work(node: Node, plain: Plain, bus: sira.Bus) -> None:
        async with Plain(node.address) as other, bus.subscribe("own") as messages:
            slow, pub = other.subscribing(), other.publishing()
            await slow.opened(1, "full", window_messages=1)
            await echo(bus, messages, 3)
            stuck = [asyncio.ensure_future(bus.publish("full", b"x")) for _ in range(40)]
            (held,) = [c for c in node.bus.clients if c.id == bus.connection.client_id]
            (stream,) = held.publishes
            await until(lambda: _true(stream.ingress.full))
            for i in range(200):
                await pub.publish(message("own"))
                await messages.next(timeout_s=60)
                if i % 20 == 0:  # takes what is to ride with it, and is not read
                    stuck.append(asyncio.ensure_future(bus.publish("full", b"x")))
                    await asyncio.sleep(0)
            await all_delivered(plain, "own", 203)
            for _ in stuck:
                await slow.next()
            assert [(await within(each)).matched for each in stuck] == [1] * len(stuck)

    echoing(work, queue_messages_max=1, publish_held_messages_max=16, publish_block_s=60)


async def _true(value: bool) -> bool:
    return value


def test_a_node_that_goes_down_in_order_hears_every_credit_and_tells_every_receipt() -> None:
    async def main() -> None:
        async with running() as node:
            bus = sira.connect(
                f"sira://{node.address}", retry=sira.Retry(connects=False, publishes=False)
            )
            async with bus, bus.subscribe("own") as messages:
                got: list[bytes] = []
                accepted: list[bytes] = []

                async def take() -> None:
                    async for each in messages:
                        got.append(bytes(each.bytes))

                async def talk() -> None:
                    for i in range(100_000):
                        await bus.publish("own", i.to_bytes(4, "big"))
                        accepted.append(i.to_bytes(4, "big"))

                taking, talking = asyncio.ensure_future(take()), asyncio.ensure_future(talk())
                await until(lambda: _true(len(accepted) > 50))
                left: list[int] = []
                end_all = node.links.end_all
                node.links.end_all = lambda error: (  # type: ignore[method-assign]
                    left.append(draining.waiting(node.worlds)), end_all(error))[1]  # fmt: skip
                await node.stop(10)
                (refused,) = await asyncio.gather(talking, return_exceptions=True)
                assert isinstance(refused, NodeDraining)
                assert left == [0]
                assert got == accepted
                taking.cancel()

    asyncio.run(main())


@pytest.mark.parametrize("why", ["unknown to the node", "narrow windows"])
def test_without_asides_the_sdk_does_as_before(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {}
    if why == "unknown to the node":
        monkeypatch.delitem(introspect.FEATURES, "asides")
    else:
        flags["window_bytes"] = 1 << 20

    async def work(node: Node, plain: Plain, bus: sira.Bus) -> None:
        async with bus.subscribe("own") as messages:
            await echo(bus, messages, 300)
            (client,) = [c for c in node.bus.clients if c.id == bus.connection.client_id]
            (stream,) = client.subscribes
            assert (stream.link, stream.rider) == ("", None)
            await all_delivered(plain, "own", 300)

    echoing(work, **flags)


def test_a_client_that_subscribes_again_and_again_keeps_nothing_of_it() -> None:
    async def work(node: Node, plain: Plain, bus: sira.Bus) -> None:
        for _ in range(20):
            async with bus.subscribe("own") as messages:
                await echo(bus, messages, 3)
        await all_delivered(plain, "own", 60)
        incoming = bus.connection.incoming
        assert not (incoming._totals or incoming._rode or incoming._hasty)

    echoing(work)
