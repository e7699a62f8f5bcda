"""Answers over very many topics and subscriptions: others have the loop, and they fit the wire."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sira.kernel import listening
from sira.kernel.bus import Bus
from sira.kernel.errors import BadRequest, MessageTooLarge
from sira.kernel.identity import Principal
from sira.kernel.settings import load
from sira.kernel.slices import at_once
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
            at_once(asked.bus.topics.creating(request, owner=0, by=asked.bus.node.principal))
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
            listening.open_now(asked.bus, stream, opening, 1)
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


def test_the_pages_of_a_ledger_have_each_row_once_while_topics_come_and_go() -> None:
    async def work() -> None:
        asked = Asked()
        for number in range(3_000):
            asked.bus.topics.ensure(f"lab.old{number}", ASKER.principal).count_refused("NO_MATCH")
        request, rows, moved = kernel_pb2.LedgerRequest(page_rows=700), [], []
        while not rows or request.page_token:
            data = await asked.call("Kernel/Ledger", request.SerializeToString())
            page = kernel_pb2.LedgerResponse.FromString(data)
            assert page.balanced and len(page.rows) <= 700
            rows += page.rows
            moved.append(page.moved)
            request.page_token = page.next
            asked.bus.topics.ensure(f"lab.new{len(moved)}", ASKER.principal).count_refused(
                "NO_MATCH"
            )
            if len(moved) == 2:
                asked.bus.topics.delete("lab.old2999")  # read already
                asked.bus.topics.delete("lab.old7")  # not yet
        names = [row.topic for row in rows if row.topic.startswith("lab.old")]
        assert sorted(names) == sorted(f"lab.old{n}" for n in range(3_000) if n != 7)
        (other,) = [row for row in rows if row.class_row]
        assert other.refused == {"NO_MATCH": 2}  # one of them stands twice, and the answer says so
        assert moved[:2] == [0, 0] and moved[-1] == 2

    on_a_loop(work)


def test_a_page_of_another_life_of_the_node_begins_anew_and_a_made_up_one_is_refused() -> None:
    async def work() -> None:
        before, now = Asked(), Asked()
        for asked in (before, now):
            for number in range(5):
                asked.bus.topics.ensure(f"lab.sensor{number}", ASKER.principal).count_refused(
                    "NO_MATCH"
                )
        request = kernel_pb2.LedgerRequest(page_rows=3)
        data = await before.call("Kernel/Ledger", request.SerializeToString())
        request.page_token = kernel_pb2.LedgerResponse.FromString(data).next
        data = await now.call("Kernel/Ledger", request.SerializeToString())
        page = kernel_pb2.LedgerResponse.FromString(data)
        assert [row.topic for row in page.rows] == [f"lab.sensor{n}" for n in (4, 3, 2)]
        assert page.epoch == now.bus.epoch
        request.page_token = b"made up"
        with pytest.raises(BadRequest):
            await now.call("Kernel/Ledger", request.SerializeToString())

    on_a_loop(work)


def test_an_explanation_names_the_first_thousand_matches_and_counts_the_others() -> None:
    async def work() -> None:
        asked = Asked(subscriptions_per_client_max=2_000)
        stream = asked.bus.open_subscribe(asked.bus.node, ASKER, wake=lambda: None)
        for number in range(1, 1_501):
            group = "workers" if number > 600 else ""
            opening = bus_pb2.Open(subscription=number, pattern="lab.a", group=group)
            listening.open_now(asked.bus, stream, opening, 1)
        request = kernel_pb2.ExplainRequest(topic="lab.a")
        data = await asked.call("Kernel/Explain", request.SerializeToString())
        found = kernel_pb2.ExplainResponse.FromString(data)
        assert len(found.matches) == 1_000 and found.matches_left_out == 500
        assert found.decision == "allow" and found.kind == "volatile"
        assert [each.group for each in found.matches].count("workers") == 400

    on_a_loop(work)


def test_what_very_many_classes_have_is_described_and_rendered_whole() -> None:
    async def work() -> None:
        asked = Asked()
        for number in range(1_200):
            request = bus_pb2.CreateTopicRequest(name=f"lab{number}.>")
            at_once(asked.bus.topics.creating(request, owner=0, by=ASKER.principal))
            asked.bus.topics.ensure(f"lab{number}.a", ASKER.principal)
        data = await asked.call("Kernel/Introspect", b"")
        described = kernel_pb2.IntrospectResponse.FromString(data)
        user = [c for c in described.topic_classes if c.kind == kernel_pb2.TOPIC_CLASS_KIND_USER]
        assert len(user) + described.topic_classes_left_out == 1_200
        data = await asked.call("Kernel/Stats", b"\x08\x01")
        text = kernel_pb2.StatsResponse.FromString(data).prometheus
        families = {each.name: each for each in text_string_to_metric_families(text)}
        latency = families["sira_node_latency_seconds"]
        counts = [s for s in latency.samples if s.name.endswith("_count")]
        assert {s.labels["topic_class"] for s in counts} == {f"lab{n}.>" for n in range(1_200)}
        assert text.count("# TYPE sira_node_latency_seconds ") == 1

    on_a_loop(work)
