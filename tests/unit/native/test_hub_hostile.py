"""What one client can cost the node, or do to others, has a limit."""

from __future__ import annotations

import sys

import pytest

from sira.kernel.errors import SiraError
from sira.v1 import bus_pb2, message_pb2, tensor_pb2

from .hub_harness import SECOND_NS, Bench, chunks, frame, head, item, message
from .test_hub_transfers import expected, reassemble

KIB, MIB = 1 << 10, 1 << 20


def only_item(got: bytes) -> bus_pb2.Item:
    (made,) = bus_pb2.Frame.FromString(got).items
    return made


def test_a_chunk_goes_on_without_what_its_publisher_hung_on_it() -> None:
    """Another subscription's number on a chunk would misroute it at its reader."""
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("x")
    made = head("x", [30_000])
    publisher.send(bus_pb2.Item(head=made))
    items = subscriber.items()
    plain, tagged, late = (only_item(part) for part in chunks(made, 10_000))
    tagged.subscriptions.append(77)
    twice = bus_pb2.Chunk(message_id=made.id, offset=1, tensor=3).SerializeToString()
    double = b"\x1a" + bytes([len(twice)]) + twice + late.SerializeToString()
    publisher.stream.feed(frame(plain), bench.now_ns)
    publisher.stream.feed(frame(tagged), bench.now_ns)
    publisher.stream.feed(
        b"\x0a" + bytes([len(double) & 0x7F | 0x80, len(double) >> 7]) + double, bench.now_ns
    )
    bench.now_ns += SECOND_NS
    items += subscriber.items()
    assert all(not i.subscriptions for i in items if i.HasField("chunk"))
    assert reassemble(items, sub.subscription) == [expected(made)]


def test_a_small_chunk_does_not_hold_the_large_frame_it_came_in() -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    subscriber.open("x")
    made = head("x", [100])
    publisher.send(bus_pb2.Item(head=made))
    for part in chunks(made, 1):
        (made_item,) = bus_pb2.Frame.FromString(part).items
        padding = b"\x7a\x80\x80\x04" + bytes(64 * KIB)  # a field of a later version
        big = padding + part
        before = _references(big)
        publisher.stream.feed(big, bench.now_ns)
        assert _references(big) == before
        assert made_item.chunk.message_id == made.id


def test_a_middling_message_does_not_hold_the_large_frame_it_came_in() -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    subscriber.open("x")
    big = b"\x7a\x80\x80\x04" + bytes(64 * KIB) + frame(item(message("x", bytes(5000))))
    before = _references(big)
    publisher.stream.feed(big, bench.now_ns)
    assert _references(big) == before
    assert subscriber.payloads() == [bytes(5000)]


def _references(value: object) -> int:
    return sys.getrefcount(value)


def test_large_envelopes_count_in_queues_though_they_carry_nothing() -> None:
    bench = Bench(queue_bytes_max=200_000)
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("x", overflow=2)
    for _ in range(10):
        publisher.publish("x", b"", headers={"k": "v" * 50_000})
    assert sub.pending == 3 and sub.dropped == 7


def test_large_messages_under_way_have_a_limit_and_those_refused_do_not_count() -> None:
    bench = Bench(transfers_per_stream_max=3, queue_messages_max=1)
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("full", window_messages=1)
    for _ in range(2):
        publisher.publish("full")
        subscriber.items()
    publisher.receipts()
    for _ in range(5):  # refused: no room, and no wish to wait
        publisher.send(bus_pb2.Item(head=head("full", [10]), wait_ms=0))
    assert {r.error.code for r in publisher.receipts()} == {"QUEUE_FULL"}
    made = [head("x", [10]) for _ in range(4)]
    for one in made:
        publisher.send(bus_pb2.Item(head=one))
    (refusal,) = publisher.receipts()
    assert refusal.id == made[3].id and refusal.error.code == "QUOTA_EXCEEDED"
    for part in chunks(made[0], 10):
        publisher.stream.feed(part, bench.now_ns)
    again = head("x", [10])
    publisher.send(bus_pb2.Item(head=again))
    assert [r.id for r in publisher.receipts()] == [made[0].id]
    assert bench.hub.stats["transfers"] == 3 and sub.in_flight == 1


def test_many_large_messages_under_way_are_told_apart() -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("x")
    made = [head("x", [n % 7 + 1]) for n in range(500)]
    for one in made:
        publisher.send(bus_pb2.Item(head=one))
    items = subscriber.items()
    for one in reversed(made):
        for part in chunks(one, 2):
            publisher.stream.feed(part, bench.now_ns)
        items += subscriber.items()
    assert sorted(reassemble(items, sub.subscription)) == sorted(expected(m) for m in made)


def test_a_subscriber_that_reads_no_answers_is_cut_off_at_a_limit() -> None:
    bench = Bench()
    subscriber = bench.subscriber()
    opens = frame(bus_pb2.Item(open=bus_pb2.Open(subscription=1, pattern="x")))
    with pytest.raises(SiraError) as caught:
        for _ in range(100_000):
            for kind, body in subscriber.stream.feed(opens, bench.now_ns) or ():
                subscriber.stream.control(kind, body)
    assert caught.value.code == "QUOTA_EXCEEDED"
    assert all(len(got) <= 65 * KIB for got in subscriber.frames())


def test_credit_for_nothing_does_not_hide_a_stall() -> None:
    bench = Bench(queue_messages_max=1, stall_ns=SECOND_NS)
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("x", window_messages=1)
    for _ in range(3):
        publisher.publish("x")
        subscriber.items()
    for _ in range(4):
        bench.tick(0.3)
        subscriber.take(sub, 0)
    bench.tick()
    assert sub.stalled


def test_of_parked_messages_each_waits_its_own_time() -> None:
    bench = Bench(queue_messages_max=1)
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("x", window_messages=1)
    publisher.publish("x", b"0")
    subscriber.items()
    publisher.publish("x", b"1")
    long, short = message("x", b"long"), message("x", b"short")
    publisher.send(item(long, wait_ms=60_000), item(short, wait_ms=300))
    publisher.receipts()
    bench.tick(1)
    assert publisher.stream.parked == 1
    subscriber.take(sub, 1)
    subscriber.items()
    bench.tick()
    got = {r.id: r.error.code for r in publisher.receipts()}
    assert got == {long.id: "", short.id: "QUEUE_FULL"}


def test_chunks_of_a_higher_priority_overtake_and_equals_take_turns() -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    subscriber.open(">")
    low = [head("x", [10_000], priority=1) for _ in range(2)]
    for one in low:
        publisher.send(bus_pb2.Item(head=one))
    subscriber.items()  # the node holds no head any more
    for one in low:
        for part in chunks(one, 1000):
            publisher.stream.feed(part, bench.now_ns)
    frames = subscriber.frames()
    order = [only_item(next(frames)).chunk.message_id for _ in range(4)]
    assert order == [low[0].id, low[1].id, low[0].id, low[1].id]
    high = head("y", [3000], priority=6)
    publisher.send(bus_pb2.Item(head=high))
    for part in chunks(high, 1000):
        publisher.stream.feed(part, bench.now_ns)
    rest = [i for got in frames for i in bus_pb2.Frame.FromString(got).items]
    ids = [i.chunk.message_id for i in rest if i.HasField("chunk")]
    at = [n for n, id_ in enumerate(ids) if id_ == high.id]
    assert at[-1] - at[0] == 2 and at[0] <= 1


def test_a_large_message_whole_too_late_does_not_replace_a_newer_retained_one() -> None:
    bench = Bench()
    bench.hub.declare("state", retain=True)
    publisher = bench.publisher()
    old = head("state", [10])
    publisher.send(bus_pb2.Item(head=old))
    publisher.publish("state", b"new")
    for part in chunks(old, 10):
        publisher.stream.feed(part, bench.now_ns)
    subscriber = bench.subscriber()
    sub = subscriber.open("state")
    topic = bench.hub.topic("state")
    assert topic is not None
    sub.deliver_retained(topic, bench.now_ns)
    assert subscriber.payloads() == [b"new"]
    row = bench.row("state")
    assert (row["retained"], row["superseded"]) == (1, 1)
    bench.assert_balanced()


def test_a_request_to_a_latest_topic_that_nobody_reads_is_refused_and_not_kept() -> None:
    bench = Bench()
    topic = bench.hub.declare("state", retain=True)
    publisher = bench.publisher()
    publisher.publish("state", reply_to="_reply.1")
    large = head("state", [10], reply_to="_reply.1")
    publisher.send(bus_pb2.Item(head=large))
    assert [r.error.code for r in publisher.receipts()] == ["NO_MATCH", "NO_MATCH"]
    assert not topic.has_retained and bench.hub.stats["transfers"] == 0
    bench.assert_balanced()


def test_a_large_message_that_waits_for_room_is_counted_as_unanswered() -> None:
    """A client that has ended its side still gets its receipt."""
    bench = Bench(queue_messages_max=1)
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("x", window_messages=1)
    for _ in range(2):
        publisher.publish("x")
        subscriber.items()
    publisher.receipts()
    made = head("x", [10])
    publisher.send(bus_pb2.Item(head=made))
    for part in chunks(made, 10):
        publisher.stream.feed(part, bench.now_ns)
    assert publisher.receipts() == [] and publisher.stream.unanswered == 1
    subscriber.take(sub, 1)
    subscriber.items()
    assert [r.id for r in publisher.receipts()] == [made.id] and publisher.stream.unanswered == 0


def test_an_empty_tensor_list_is_a_message_like_any_other() -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    subscriber.open("x")
    empty = tensor_pb2.Tensor(dtype=tensor_pb2.DTYPE_U8, shape=[0])
    made = message_pb2.Message(id=head("x", [1]).id, topic="x", tensors=[empty])
    publisher.send(bus_pb2.Item(head=made))
    assert [i.head.id for i in subscriber.items()] == [made.id]
    assert [r.id for r in publisher.receipts()] == [made.id]
    assert bench.hub.stats["transfers"] == 0
