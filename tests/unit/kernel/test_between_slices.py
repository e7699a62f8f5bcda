"""What happens between two slices of a long work leaves nothing out and does nothing twice."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator

import pytest

from sira.kernel import listening
from sira.kernel.admission.limits import Limit
from sira.kernel.clients import Hello
from sira.kernel.errors import (
    Conflict,
    ContractMismatch,
    NodeDraining,
    PeerLost,
    QuotaExceeded,
    SiraError,
)
from sira.kernel.slices import Slices, at_once
from sira.kernel.streams import SubscribeStream
from sira.v1 import bus_pb2

from .crowd import (
    ASKER,
    CLIENT,
    WHO,
    Crowd,
    name_of,
    on_a_loop,
)


def _ended(stream: SubscribeStream) -> bus_pb2.Ended:
    """Return the one Ended that waits to be sent."""
    data = stream.egress.next_frame(1)
    assert data is not None
    (item,) = bus_pb2.Frame.FromString(data).items
    assert item.WhichOneof("kind") == "ended"
    return item.ended


def test_what_is_declared_while_a_subscription_is_compared_is_compared_too() -> None:
    async def work() -> None:
        crowd = Crowd()
        crowd.declare(1_000, contract={"x": "f32[3]"})
        opening = asyncio.ensure_future(crowd.open(pattern="lab.>", contract={"x": "f32[3]"}))
        await asyncio.sleep(0)
        assert 1 in crowd.stream.opening and 1 not in crowd.stream.subscriptions
        request = bus_pb2.CreateTopicRequest(name="lab.late", contract={"x": "i64[9]"})
        at_once(crowd.bus.topics.creating(request, owner=0, by=ASKER))
        await opening
        assert not crowd.stream.subscriptions and not crowd.stream.opening
        error = _ended(crowd.stream).error
        assert error.code == ContractMismatch.code and "lab.late" in error.message

    on_a_loop(work)


@pytest.mark.parametrize("again", [False, True])
def test_a_subscription_closed_while_it_is_compared_is_ended_and_its_number_free(
    again: bool,
) -> None:
    async def work() -> None:
        crowd = Crowd()
        crowd.declare(1_000, contract={"x": "f32[3]"})
        opening = asyncio.ensure_future(crowd.open(pattern="lab.>", contract={"x": "f32[3]"}))
        await asyncio.sleep(0)
        items = [bus_pb2.Item(close=bus_pb2.Close(subscription=1))]
        if again:
            items.append(bus_pb2.Item(open=bus_pb2.Open(subscription=1, pattern="other.>")))
        crowd.stream.feed(bus_pb2.Frame(items=items).SerializeToString(), 1)
        await opening
        assert not crowd.stream.opening
        patterns = [each.pattern for each in crowd.stream.subscriptions.values()]
        assert patterns == (["other.>"] if again else [])

    on_a_loop(work)


def test_a_number_that_is_being_compared_is_refused_to_another_subscription() -> None:
    async def work() -> None:
        crowd = Crowd()
        crowd.declare(1_000, contract={"x": "f32[3]"})
        opening = asyncio.ensure_future(crowd.open(pattern="lab.>", contract={"x": "f32[3]"}))
        await asyncio.sleep(0)
        other = bus_pb2.Item(open=bus_pb2.Open(subscription=1, pattern="other.>"))
        crowd.stream.feed(bus_pb2.Frame(items=[other]).SerializeToString(), 1)
        assert _ended(crowd.stream).error.code == Conflict.code
        await opening
        assert [each.pattern for each in crowd.stream.subscriptions.values()] == ["lab.>"]

    on_a_loop(work)


def test_subscriptions_that_are_being_compared_count_for_the_limit() -> None:
    async def work() -> None:
        crowd = Crowd(subscriptions_per_client_max=1)
        crowd.declare(1_000, contract={"x": "f32[3]"})
        opening = asyncio.ensure_future(crowd.open(pattern="lab.>", contract={"x": "f32[3]"}))
        await asyncio.sleep(0)
        other = bus_pb2.Item(open=bus_pb2.Open(subscription=2, pattern="other.>"))
        crowd.stream.feed(bus_pb2.Frame(items=[other]).SerializeToString(), 1)
        assert _ended(crowd.stream).error.code == QuotaExceeded.code
        await opening
        assert list(crowd.stream.subscriptions) == [1]

    on_a_loop(work)


def test_of_many_works_one_slice_is_done_in_a_turn_each_in_its_order() -> None:
    soon: deque[Callable[[], None]] = deque()
    slices, done = Slices(soon.append), []

    def work(name: str, count: int) -> Iterator[None]:
        for number in range(count):
            done.append(f"{name}{number}")
            yield

    slices.run(work("a", 2))
    slices.run(work("b", 3))
    turns = 0
    while soon:
        before = len(done)
        soon.popleft()()
        turns += 1
        assert len(done) <= before + 1
    assert done == ["a0", "b0", "a1", "b1", "b2"] and slices.running == 0 and turns == 5


def test_work_that_fails_leaves_the_others_their_turns() -> None:
    soon: deque[Callable[[], None]] = deque()
    slices, done = Slices(soon.append), []

    def fail() -> Iterator[None]:
        yield
        raise ValueError("broken")

    def work() -> Iterator[None]:
        yield
        done.append("done")

    slices.run(fail())
    slices.run(work())
    with pytest.raises(ValueError, match="broken"):
        soon.popleft()()
    soon.popleft()()
    assert done == ["done"] and slices.running == 0 and not soon


def test_a_message_taken_between_the_slices_is_delivered_once_and_nothing_older_after_it() -> None:
    async def work() -> None:
        crowd = Crowd()
        crowd.declare(2_000, kind=bus_pb2.TOPIC_KIND_LATEST)
        crowd.publish(2_000)
        opening = asyncio.ensure_future(crowd.open(pattern="lab.>"))
        await asyncio.sleep(0)
        assert 0 < crowd.stream.subscriptions[1].sub.pending < 2_000
        crowd.publish(2_000)  # on all topics, whether their turn has come or not
        fresh = crowd.stream.subscriptions[1].sub.pending
        await opening
        assert crowd.stream.subscriptions[1].sub.pending == fresh

    on_a_loop(work)


def test_another_member_is_owed_what_was_kept_when_the_first_one_goes_between_slices() -> None:
    async def work() -> None:
        crowd = Crowd()
        crowd.declare(2_000, kind=bus_pb2.TOPIC_KIND_LATEST)
        crowd.publish(2_000)
        opening = asyncio.ensure_future(crowd.open(pattern="lab.>", group="g"))
        await asyncio.sleep(0)
        other = crowd.bus.open_subscribe(crowd.client, WHO, wake=lambda: None)
        request = bus_pb2.Open(subscription=1, pattern="lab.>", group="g")
        heir = listening.open_now(crowd.bus, other, request, 1)
        crowd.stream.close(1)
        await opening
        assert heir.sub.pending == 2_000

    on_a_loop(work)


def test_whoever_comes_back_at_once_has_room_for_as_many_subscriptions_again() -> None:
    async def work() -> None:
        crowd = Crowd(subscriptions_per_client_max=1_000)
        for number in range(1_000):
            opening = bus_pb2.Open(subscription=number + 1, pattern=name_of(number))
            listening.open_now(crowd.bus, crowd.stream, opening, 1)
        crowd.stream.close(1)
        assert crowd.bus.subscriptions  # some have still to go
        client = crowd.bus.join(CLIENT, ASKER, "here", 1)
        again = crowd.bus.open_subscribe(client, WHO, wake=lambda: None)
        for number in range(1_000):
            opening = bus_pb2.Open(subscription=number + 1, pattern=name_of(number))
            listening.open_now(crowd.bus, again, opening, 1)
        await crowd.sliced()
        assert len(crowd.bus.subscriptions) == 1_000
        assert crowd.client.subscription_count == 1_000

    on_a_loop(work)


def test_a_subscription_that_opens_while_a_declaration_is_compared_is_compared_too() -> None:
    async def work() -> None:
        crowd = Crowd()
        crowd.listen(1_000, contract={"x": "f32[B]"})
        request = bus_pb2.CreateTopicRequest(name="lab.>", contract={"x": "f32[3]"})
        steps = crowd.bus.topics.creating(request, owner=0, by=ASKER)
        next(steps)
        late = bus_pb2.Open(subscription=5_000, pattern="lab.late", contract={"x": "i64[9]"})
        listening.open_now(crowd.bus, crowd.stream, late, 1)
        with pytest.raises(ContractMismatch, match=r"lab\.late"):
            at_once(steps)
        assert crowd.bus.topics.declarations.get("lab.>") is None

    on_a_loop(work)


def test_a_subscription_that_goes_while_a_declaration_is_compared_contradicts_nothing() -> None:
    async def work() -> None:
        crowd = Crowd()
        crowd.listen(1_000, contract={"x": "f32[B]"})
        odd = bus_pb2.Open(subscription=5_000, pattern="lab.odd", contract={"x": "i64[9]"})
        listening.open_now(crowd.bus, crowd.stream, odd, 1)
        request = bus_pb2.CreateTopicRequest(name="lab.>", contract={"x": "f32[3]"})
        steps = crowd.bus.topics.creating(request, owner=0, by=ASKER)
        next(steps)
        gone = crowd.stream.subscriptions[5_000]
        listening.close(crowd.bus, gone, 1, reason="UNSUBSCRIBED")
        assert at_once(steps).name == "lab.>"

    on_a_loop(work)


@pytest.mark.parametrize("same", [True, False])
def test_of_two_declarations_compared_at_once_the_first_one_counts(same: bool) -> None:
    async def work() -> None:
        crowd = Crowd()
        crowd.listen(1_000, contract={"x": "f32[B]"})
        requests = [
            bus_pb2.CreateTopicRequest(name="lab.>", contract={"x": text})
            for text in ("f32[3]", "f32[3]" if same else "f32[4]")
        ]
        creating = crowd.bus.topics.creating
        first, second = (creating(each, owner=0, by=ASKER) for each in requests)
        next(first)
        next(second)
        made = at_once(first)
        if same:
            assert at_once(second) is made
        else:
            with pytest.raises(Conflict):
                at_once(second)

    on_a_loop(work)


def test_a_topic_whose_owner_goes_while_it_is_compared_is_not_made() -> None:
    async def work() -> None:
        crowd = Crowd()
        crowd.listen(1_000, contract={"x": "f32[B]"})
        owner = crowd.bus.join(Hello("d" * 32), ASKER, "here", 1)
        stream = crowd.bus.open_subscribe(owner, WHO, wake=lambda: None)
        request = bus_pb2.CreateTopicRequest(name="lab.a", contract={"x": "f32[3]"})
        steps = crowd.bus.topics.creating(request, owner=owner.number, by=ASKER)
        next(steps)
        stream.close(1)
        with pytest.raises(PeerLost):
            at_once(steps)
        assert crowd.bus.topics.declarations.get("lab.a") is None

    on_a_loop(work)


def test_a_stream_that_closes_while_its_subscriptions_are_ended_goes_whole() -> None:
    async def work() -> None:
        crowd = Crowd()
        crowd.listen(1_000)
        crowd.stream.end_all(NodeDraining(), 1)
        assert crowd.stream.ending and crowd.stream.subscriptions
        crowd.stream.close(1)
        await crowd.sliced()
        assert len(crowd.bus.subscriptions) == len(crowd.bus.clients) == 0
        assert crowd.client.subscription_count == 0

    on_a_loop(work)


def test_limits_are_given_back_when_a_client_has_gone_in_slices() -> None:
    async def work() -> None:
        crowd = Crowd()
        crowd.bus.set_limits((Limit("few", "principal", connections=1, topics=1_000),))
        with pytest.raises(QuotaExceeded):  # it counts those that are there
            crowd.bus.join(Hello("e" * 32), ASKER, "here", 1)
        crowd.declare(1_000, owned=True)
        with pytest.raises(QuotaExceeded):
            crowd.bus.topics.ensure("lab.more", ASKER)
        crowd.listen(1_000)
        crowd.stream.close(1)
        assert crowd.bus.subscriptions  # some have still to go, and the client with them
        await crowd.sliced()
        await crowd.tick_through()
        crowd.bus.join(Hello("e" * 32), ASKER, "here", 1)
        for number in range(1_000):
            crowd.bus.topics.ensure(f"other.n{number}", ASKER)

    on_a_loop(work)


def test_answers_ride_on_the_stream_that_came_back_and_not_on_the_one_that_goes_in_slices() -> None:
    async def work() -> None:
        crowd = Crowd()
        old = crowd.bus.open_subscribe(crowd.client, WHO, wake=lambda: None, link="l")
        for number in range(1_000):
            listening.open_now(
                crowd.bus, old, bus_pb2.Open(subscription=number + 1, pattern=name_of(number)), 1
            )
        lost: list[SiraError] = []
        ridden = crowd.publishing(link="l")
        ridden.on_lost = lost.append
        ridden.lend()
        assert ridden.carrier is old
        old.close(1)
        assert [each.code for each in lost] == [PeerLost.code] and old.subscriptions
        new = crowd.bus.open_subscribe(crowd.client, WHO, wake=lambda: None, link="l")
        again = crowd.publishing(link="l")
        again.lend()
        assert again.carrier is new
        await crowd.sliced()
        assert again.carrier is new and again in crowd.client.publishes

    on_a_loop(work)


def test_the_long_work_of_one_tenant_takes_no_turn_from_another() -> None:
    async def work() -> None:
        soon: deque[Callable[[], None]] = deque()
        one, other = (Crowd(soon=soon.append, tenant=tenant) for tenant in ("one", "other"))
        one.listen(10_000)
        other.listen(150)
        one.stream.close(1)
        other.stream.close(1)
        soon.popleft()()
        soon.popleft()()
        assert len(one.bus.subscriptions) == 9_800
        assert len(other.bus.subscriptions) == len(other.bus.clients) == 0

    on_a_loop(work)
