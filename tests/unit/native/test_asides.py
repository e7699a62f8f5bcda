"""What rides beside a message: credits as totals, and frames for the client's other stream."""

from __future__ import annotations

import random

import pytest

from sira import _native
from sira.kernel.errors import SiraError
from sira.v1 import bus_pb2

from .hub_harness import Bench, Subscriber, frame, item, message

ASIDE = bus_pb2.Item.ASIDE_FIELD_NUMBER


def tell(subscriber: Subscriber, sub: _native.Sub, total: int, taken: int = 0) -> None:
    credit = bus_pb2.Credit(subscription=sub.subscription, taken=taken, total=total)
    subscriber.stream.feed(frame(bus_pb2.Item(credit=credit)), subscriber.bench.now_ns)


def sent(bench: Bench, count: int) -> tuple[Subscriber, _native.Sub]:
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("x", window_messages=count)
    for i in range(count):
        publisher.publish("x", bytes([i % 256]))
    assert len(subscriber.messages()) == count
    return subscriber, sub


def test_totals_in_any_order_and_twice_confirm_as_the_largest_alone() -> None:
    bench = Bench()
    subscriber, sub = sent(bench, 200)
    rng, heard = random.Random(7), 0
    totals = [rng.randrange(1, 200) for _ in range(100)]
    for total in totals:
        tell(subscriber, sub, total)
        heard = max(heard, total)
        assert (sub.delivered, sub.in_flight) == (heard, 200 - heard)
        bench.assert_balanced()


def test_a_total_counts_what_was_confirmed_by_number_before() -> None:
    bench = Bench()
    subscriber, sub = sent(bench, 10)
    subscriber.take(sub, 4)
    tell(subscriber, sub, 4)
    assert sub.delivered == 4
    tell(subscriber, sub, 6, taken=9)  # the total stands in the place of `taken`
    assert sub.delivered == 6
    subscriber.take(sub, 4)
    assert (sub.delivered, sub.in_flight) == (10, 0)
    assert bench.row("x")["delivered"] == 10


def test_a_total_beyond_what_was_sent_is_an_error_and_confirms_nothing() -> None:
    bench = Bench()
    subscriber, sub = sent(bench, 3)
    for total in (4, 2**64 - 1):
        with pytest.raises(SiraError) as caught:
            tell(subscriber, sub, total)
        assert caught.value.code == "PROTOCOL_ERROR"
    assert (sub.delivered, sub.in_flight) == (0, 3)
    bench.assert_balanced()


def test_a_subscription_of_a_number_used_before_counts_from_nothing() -> None:
    bench = Bench()
    subscriber, sub = sent(bench, 5)
    tell(subscriber, sub, 5)
    subscriber.close_sub(sub)
    subscriber.next_id = sub.subscription
    again = subscriber.open("y")
    bench.publisher().publish("y")
    subscriber.messages()
    with pytest.raises(SiraError):
        tell(subscriber, again, 5)
    tell(subscriber, again, 1)
    assert again.delivered == 1


def test_an_aside_is_handed_over_in_its_place_and_the_rest_of_the_frame_is_taken() -> None:
    bench = Bench()
    publisher = bench.publisher()
    heard: list[tuple[bytes, int, int]] = []

    def take(inner: bytes, now_ns: int) -> None:
        heard.append((inner, now_ns, publisher.stream.published))

    publisher.stream.aside = take
    inner = bus_pb2.Frame(items=[bus_pb2.Item(credit=bus_pb2.Credit(subscription=1, total=2))])
    aside = bus_pb2.Item(aside=inner)
    made = [item(message("x", bytes([i]))) for i in range(3)]
    publisher.send(made[0], aside, *made[1:])
    assert heard == [(inner.SerializeToString(), bench.now_ns, 1)]
    assert len(publisher.receipts()) == 3
    publisher.stream.aside = None
    publisher.send(aside)  # nobody asks for it: skipped
    assert len(heard) == 1


def test_what_the_taker_of_an_aside_raises_ends_the_frame() -> None:
    bench = Bench()
    publisher = bench.publisher()

    def refuse(_inner: bytes, _now_ns: int) -> None:
        raise ValueError("not here")

    publisher.stream.aside = refuse
    first, second = item(message("x")), item(message("x"))
    with pytest.raises(ValueError, match="not here"):
        publisher.send(first, bus_pb2.Item(aside=bus_pb2.Frame()), second)
    assert len(publisher.receipts()) == 1  # of what came before it


def test_a_taker_that_closes_the_stream_leaves_nothing_behind() -> None:
    bench = Bench()
    publisher = bench.publisher()
    publisher.stream.aside = lambda _inner, now_ns: publisher.stream.close(now_ns)
    publisher.send(bus_pb2.Item(aside=bus_pb2.Frame()))
    assert publisher.stream.aside is None
    bench.assert_balanced()


def test_an_aside_comes_out_of_an_inbox_as_it_is_and_an_outbox_skips_it() -> None:
    inner = bus_pb2.Frame(items=[bus_pb2.Item(receipt=bus_pb2.Receipt(id=b"i" * 16))])
    aside = _native.control_frame(ASIDE, inner.SerializeToString())
    assert bus_pb2.Frame.FromString(aside).items[0].aside == inner
    assert _native.Inbox().feed(aside) == [(ASIDE, inner.SerializeToString())]
    assert _native.Outbox().feed(aside) == []
