"""Answers over very many topics and subscriptions: others have the loop, and they fit the wire."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from sira.kernel.bus import Bus
from sira.kernel.errors import MessageTooLarge
from sira.kernel.identity import Principal
from sira.kernel.settings import load
from sira.kernel.trust.credential import Credential
from sira.testing.doors import Doors, Hello
from sira.v1 import bus_pb2, kernel_pb2

ASKER = Credential(Principal("local", "default", "user", "tester"))
T = TypeVar("T")


class Asked:
    """A kernel with `Doors`, and how often others had the loop during the last call."""

    def __init__(self, **settings: object) -> None:
        loop = asyncio.get_running_loop()
        chosen = load(flags={"data_dir": "/nonexistent", **settings}, environ={})
        self.bus = Bus(chosen, clock_ns=lambda: 1, soon=loop.call_soon)
        self._doors = Doors(self.bus, chosen)
        self.turns = 0

    async def call(self, method: str, request: bytes) -> bytes:
        asking = asyncio.ensure_future(
            self._doors.call(f"/sira.v1.{method}", request, ASKER, Hello())
        )
        self.turns = 0
        while not asking.done():
            self.turns += 1
            await asyncio.sleep(0)
        return await asking


def on_a_loop(work: Callable[[], Awaitable[T]]) -> T:
    async def guarded() -> T:
        async with asyncio.timeout(60):
            return await work()

    return asyncio.run(guarded())


def test_a_page_of_topics_is_made_in_slices() -> None:
    async def work() -> None:
        asked = Asked()
        for number in range(5_000):
            asked.bus.topics.ensure(f"lab.sensor{number}", asked.bus.node.principal)
        request = bus_pb2.ListTopicsRequest(count_max=5_000)
        data = await asked.call("Bus/ListTopics", request.SerializeToString())
        names = [each.name for each in bus_pb2.ListTopicsResponse.FromString(data).topics]
        assert names == sorted(f"lab.sensor{number}" for number in range(5_000))
        assert asked.turns > 5_000 / 200

    on_a_loop(work)


def test_a_page_of_topics_ends_before_it_is_larger_than_a_grpc_message() -> None:
    async def work() -> None:
        asked = Asked()
        contract = {f"tensor{number}": "f32[B, H<=4096, 3]" for number in range(30)}
        for number in range(1_800):
            request = bus_pb2.CreateTopicRequest(name=f"lab.wide{number:04}", contract=contract)
            asked.bus.topics.create(request, owner=0, by=asked.bus.node.principal)
        listing, names, pages = bus_pb2.ListTopicsRequest(count_max=10_000), [], 0
        while pages == 0 or listing.after:
            data = await asked.call("Bus/ListTopics", listing.SerializeToString())
            assert len(data) < 2 << 20
            page = bus_pb2.ListTopicsResponse.FromString(data)
            names += [each.name for each in page.topics]
            listing.after, pages = page.next, pages + 1
        assert names == [f"lab.wide{number:04}" for number in range(1_800)]
        assert pages > 1

    on_a_loop(work)


def test_the_counts_of_very_many_subscriptions_are_gathered_in_slices() -> None:
    async def work() -> None:
        asked = Asked()
        stream = asked.bus.open_subscribe(asked.bus.node, asked.bus.self, wake=lambda: None)
        for number in range(1, 3_001):
            opening = bus_pb2.Open(subscription=number, pattern=f"lab.sensor{number}")
            asked.bus.open_subscription(stream, opening, 1)
        request = kernel_pb2.StatsRequest(prometheus=True)
        data = await asked.call("Kernel/Stats", request.SerializeToString())
        response = kernel_pb2.StatsResponse.FromString(data)
        assert response.values["subscriptions"] == 3_000
        assert "sira_subscriptions 3000.0" in response.prometheus
        assert asked.turns > 3_000 / 1_000

    on_a_loop(work)


def test_a_ledger_too_long_for_one_answer_says_how_to_ask_for_less() -> None:
    async def work() -> None:
        asked = Asked(grpc_message_bytes_max=2 << 20)
        for number in range(40_000):
            name = f"{'lab' if number else 'one'}.room.number.with.a.long.name.sensor{number}"
            asked.bus.topics.ensure(name, asked.bus.node.principal).count_refused("NO_MATCH")
        with pytest.raises(MessageTooLarge, match="pattern") as caught:
            await asked.call("Kernel/Ledger", b"")
        assert caught.value.details["setting"] == "grpc_message_bytes_max"
        request = kernel_pb2.LedgerRequest(pattern="one.>")
        data = await asked.call("Kernel/Ledger", request.SerializeToString())
        assert len(kernel_pb2.LedgerResponse.FromString(data).rows) == 1

    on_a_loop(work)
