"""Nothing holds the loop for long, however many topics there are: work is done in slices."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from sira.kernel import listening
from sira.kernel.edge import load
from sira.kernel.edge.world import World, Worlds
from sira.kernel.errors import (
    NodeDraining,
)
from sira.kernel.metrics import Loop
from sira.kernel.slices import at_once
from sira.v1 import bus_pb2, kernel_pb2

from .crowd import (
    ASKER,
    CALLS_A_TURN_MAX,
    TOPICS,
    Crowd,
    most_calls_of_a_turn,
    name_of,
    on_a_loop,
)


@pytest.mark.slow
def test_the_counting_notices_what_goes_through_all_topics_at_once() -> None:
    async def work() -> None:
        crowd = Crowd()
        crowd.use()

        async def all_at_once() -> None:
            for name in crowd.bus.topics.names():
                crowd.bus.hub.topic(name)

        assert await most_calls_of_a_turn(all_at_once) > TOPICS > CALLS_A_TURN_MAX

    on_a_loop(work)


async def _pages(crowd: Crowd) -> None:
    request, rows = kernel_pb2.LedgerRequest(page_rows=TOPICS), 0
    while not rows or request.page_token:
        page = kernel_pb2.LedgerResponse.FromString(await crowd.call("Kernel/Ledger", request))
        rows, request.page_token = rows + len(page.rows), page.next
        assert len(page.rows) < TOPICS // 2
    assert rows == TOPICS


async def _at_once(crowd: Crowd) -> None:
    request = kernel_pb2.LedgerRequest()
    answer = kernel_pb2.LedgerResponse.FromString(await crowd.call("Kernel/Ledger", request))
    assert len(answer.rows) == TOPICS and answer.balanced


async def _narrow(crowd: Crowd) -> None:
    request = kernel_pb2.LedgerRequest(pattern=name_of(7))
    answer = kernel_pb2.LedgerResponse.FromString(await crowd.call("Kernel/Ledger", request))
    assert [row.topic for row in answer.rows] == [name_of(7)]


async def _stats(crowd: Crowd) -> None:
    request = kernel_pb2.StatsRequest(prometheus=True)
    answer = kernel_pb2.StatsResponse.FromString(await crowd.call("Kernel/Stats", request))
    assert answer.values["topics"] == TOPICS


async def _explain(crowd: Crowd) -> None:
    await crowd.call("Kernel/Explain", kernel_pb2.ExplainRequest(topic=name_of(7)))


async def _list(crowd: Crowd) -> None:
    request = bus_pb2.ListTopicsRequest(count_max=10_000, pattern="lab.>")
    answer = bus_pb2.ListTopicsResponse.FromString(await crowd.call("Bus/ListTopics", request))
    assert len(answer.topics) > 1_000 and answer.next


async def _class(crowd: Crowd) -> None:
    request = bus_pb2.CreateTopicRequest(name="lab.>", kind=bus_pb2.TOPIC_KIND_LATEST)
    await crowd.call("Bus/CreateTopic", request)
    await crowd.tick_through()
    assert crowd.bus.topics.retained_count == TOPICS
    await crowd.call("Bus/DeleteTopic", bus_pb2.DeleteTopicRequest(name="lab.>"))
    await crowd.tick_through()
    assert crowd.bus.topics.retained_count == 0


async def _idle(crowd: Crowd) -> None:
    for _ in range(3):
        crowd.now_ns += 1_000_000_000_000
        await crowd.tick_through()
    assert len(crowd.bus.topics) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "work", [_pages, _at_once, _narrow, _stats, _explain, _list, _class, _idle]
)
def test_with_very_many_topics_in_use_no_turn_is_long(
    work: Callable[[Crowd], Awaitable[None]],
) -> None:
    async def main() -> None:
        crowd = Crowd(grpc_message_bytes_max=64 << 20)
        crowd.use()
        assert await most_calls_of_a_turn(lambda: work(crowd)) < CALLS_A_TURN_MAX

    on_a_loop(main)


@pytest.mark.slow
def test_with_very_many_classes_no_turn_is_long() -> None:
    async def work() -> None:
        crowd = Crowd()
        for number in range(TOPICS):
            request = bus_pb2.CreateTopicRequest(name=f"lab{number}.>")
            at_once(crowd.bus.topics.creating(request, owner=0, by=ASKER))
        for number in range(500):
            crowd.bus.topics.ensure(f"lab{number}.a", ASKER)

        async def ask() -> None:
            await crowd.call("Kernel/Introspect", kernel_pb2.IntrospectRequest())
            await crowd.call("Kernel/Stats", kernel_pb2.StatsRequest(prometheus=True))

        assert await most_calls_of_a_turn(ask) < CALLS_A_TURN_MAX

    on_a_loop(work)


@pytest.mark.slow
def test_a_wildcard_subscription_is_compared_with_very_many_contracts_in_slices() -> None:
    async def work() -> None:
        crowd = Crowd()
        crowd.declare(contract={"x": "f32[3]"})
        most = await most_calls_of_a_turn(
            lambda: crowd.open(pattern="lab.>", contract={"x": "f32[B]"})
        )
        assert most < CALLS_A_TURN_MAX
        assert 1 in crowd.stream.subscriptions

    on_a_loop(work)


@pytest.mark.slow
def test_what_very_many_latest_topics_kept_reaches_a_new_subscription_in_slices() -> None:
    async def work() -> None:
        crowd = Crowd(queue_messages_max=TOPICS)
        crowd.declare(kind=bus_pb2.TOPIC_KIND_LATEST)
        crowd.publish()
        most = await most_calls_of_a_turn(lambda: crowd.open(pattern="lab.>"))
        assert most < CALLS_A_TURN_MAX
        assert crowd.stream.subscriptions[1].sub.pending == TOPICS

    on_a_loop(work)


@pytest.mark.slow
def test_a_client_that_goes_takes_very_many_topics_and_subscriptions_with_it_in_slices() -> None:
    async def work() -> None:
        crowd = Crowd()
        crowd.declare(owned=True)
        for number in range(20_000):
            opening = bus_pb2.Open(subscription=number + 1, pattern=name_of(number))
            listening.open_now(crowd.bus, crowd.stream, opening, 1)

        async def go() -> None:
            crowd.stream.close(1)
            await crowd.sliced()
            await crowd.tick_through()

        assert await most_calls_of_a_turn(go) < CALLS_A_TURN_MAX
        assert len(crowd.bus.subscriptions) == len(crowd.bus.topics) == len(crowd.bus.clients) == 0

    on_a_loop(work)


def test_the_longest_step_of_an_interval_is_told_when_the_interval_ends() -> None:
    loop = Loop()
    loop.held(6_000_000)
    loop.held(2_000)
    loop.note(0)
    assert (loop.held_ns_last, loop.held_ns_max, loop.held_over_5_ms) == (6_000_000, 6_000_000, 1)
    loop.held(3_000)
    loop.note(0)
    assert (loop.held_ns_last, loop.held_ns_max, loop.held_over_5_ms) == (3_000, 6_000_000, 1)


def test_work_in_steps_is_awaited_cancelled_and_fails_as_without_them() -> None:
    async def work() -> None:
        loop, noted = Loop(), []

        async def add(one: int, other: int) -> int:
            await asyncio.sleep(0)
            return one + other

        async def fail() -> None:
            await asyncio.sleep(0)
            raise ValueError("as it was")

        async def wait() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                noted.append("ended")

        assert await loop.steps(add(1, 2)) == 3
        assert loop.held_now_ns > 0
        with pytest.raises(ValueError, match="as it was"):
            await loop.steps(fail())
        waiting = asyncio.ensure_future(loop.steps(wait()))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert noted == ["ended"]

    on_a_loop(work)


@pytest.mark.slow
def test_very_many_subscriptions_are_ended_and_told_so_in_slices() -> None:
    async def work() -> None:
        crowd = Crowd()
        crowd.listen(20_000)

        async def end() -> None:
            crowd.stream.end_all(NodeDraining(), 1)
            await crowd.sliced()

        assert await most_calls_of_a_turn(end) < CALLS_A_TURN_MAX
        assert not crowd.stream.ending and not crowd.stream.subscriptions
        told = 0
        while (data := crowd.stream.egress.next_frame(1)) is not None:
            told += sum(i.ended.error.code != "" for i in bus_pb2.Frame.FromString(data).items)
        assert told == 20_000

    on_a_loop(work)


@pytest.mark.slow
def test_a_declaration_is_compared_with_very_many_expectations_in_slices() -> None:
    async def work() -> None:
        crowd = Crowd()
        crowd.listen(20_000, contract={"x": "f32[B]"})
        request = bus_pb2.CreateTopicRequest(name="lab.>", contract={"x": "f32[3]"})
        most = await most_calls_of_a_turn(lambda: crowd.call("Bus/CreateTopic", request))
        assert most < CALLS_A_TURN_MAX
        assert crowd.bus.topics.declarations.get("lab.>") is not None

    on_a_loop(work)


@pytest.mark.slow
@pytest.mark.parametrize("many", ["topics", "subscriptions"])
def test_what_goes_on_is_told_in_slices(many: str) -> None:
    async def work() -> None:
        crowd = Crowd()
        heard = bus_pb2.Open(subscription=TOPICS + 1, pattern="sira.load.node")
        listening.open_now(crowd.bus, crowd.stream, heard, 1)
        if many == "topics":
            crowd.use()
        else:
            crowd.listen(20_000)
        tenant = World.around(crowd.bus, Loop())
        worlds = Worlds(lambda _: tenant, tenants_max=1)

        async def hear() -> None:
            telling = asyncio.ensure_future(load.tell(worlds))
            while crowd.stream.egress.next_frame(2) is None:  # noqa: ASYNC110  it comes of itself
                await asyncio.sleep(0)
            for _ in range(1_000):
                await asyncio.sleep(0)  # what the first look found is let go of
            telling.cancel()

        assert await most_calls_of_a_turn(hear) < CALLS_A_TURN_MAX

    on_a_loop(work)
