"""The node's data plane: routing, windows, overflow, groups, order, receipts and the ledger."""

from __future__ import annotations

import pytest

from sira import _native
from sira.kernel.errors import SiraError
from sira.v1 import bus_pb2, error_pb2, message_pb2

from .hub_harness import SECOND_NS, Bench, frame, item, message, rows

BLOCK, DROP, LATEST = 1, 2, 3


def test_a_message_reaches_every_match_with_the_nodes_stamp_and_a_receipt() -> None:
    bench = Bench()
    publisher, first, second = bench.publisher(), bench.subscriber(), bench.subscriber()
    one, two = first.open("lab.*"), second.open("lab.x")
    sent = publisher.publish("lab.x", b"payload", headers={"k": "v"})
    (got,), (again,) = first.messages(), second.messages()
    assert got.id == again.id == sent.id
    assert got.tensors[0].data == b"payload"
    assert got.headers == {"k": "v"}
    assert (got.principal, got.tenant) == ("sira://c/default/user/anonymous", "default")
    (receipt,) = publisher.receipts()
    assert (receipt.id, receipt.matched, receipt.grade) == (sent.id, 2, bus_pb2.GRADE_ACCEPTED)
    assert list(receipt.lanes) == [bus_pb2.LANE_GRPC]
    assert bench.row("lab.x")["pending"] == 2
    first.take(one, 1)
    second.take(two, 1)
    row = bench.row("lab.x")
    assert (row["owed"], row["delivered"], row["pending"]) == (2, 2, 0)


def test_a_message_nobody_matches_is_counted_and_a_request_is_refused_at_once() -> None:
    bench = Bench()
    publisher = bench.publisher()
    publisher.publish("lab.x")
    publisher.send(item(message("lab.x", reply_to="_reply.me"), quiet=True))
    plain, refused = publisher.receipts()
    assert plain.matched == 0 and not plain.HasField("error")
    assert refused.error.code == "NO_MATCH"
    assert bench.row("lab.x")["dropped"] == {"NO_MATCH": 2}
    bench.assert_balanced()


def test_routes_are_resolved_once_and_again_only_when_touched() -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    subscriber.open("lab.x")
    for _ in range(10):
        publisher.publish("lab.x")
    assert bench.resolves == 1
    bench.hub.touch("lab.x")
    publisher.publish("lab.x")
    assert bench.resolves == 2
    subscriber.open("lab.>")
    publisher.publish("lab.x")
    assert bench.resolves == 3
    assert len(subscriber.messages()) == 13


def test_receipts_come_in_the_order_of_messages_refusals_among_them() -> None:
    bench = Bench()
    bench.refuse = lambda topic: PermissionError("no") if topic == "no" else None
    publisher = bench.publisher()
    sent = [publisher.publish(t) for t in ("a", "no", "b", "no", "c")]
    receipts = publisher.receipts()
    assert [r.id for r in receipts] == [m.id for m in sent]
    assert [r.HasField("error") for r in receipts] == [False, True, False, True, False]


def test_what_a_client_may_not_set_is_refused() -> None:
    bench = Bench()
    publisher = bench.publisher()
    publisher.publish("lab.x", principal="sira://c/default/user/root")
    publisher.publish("lab..x")
    publisher.publish("lab.x", priority=8)
    publisher.publish("lab.x", dedupe_key="k")
    publisher.send(item(message("lab.x"), grade=bus_pb2.GRADE_DISK))
    codes = [r.error.code for r in publisher.receipts()]
    assert codes == ["DENIED", "BAD_TOPIC", "BAD_REQUEST", "UNSUPPORTED", "GRADE_UNAVAILABLE"]


def test_no_more_than_the_window_is_sent_before_it_is_confirmed() -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("x", window_messages=3)
    for i in range(10):
        publisher.publish("x", bytes([i]))
    assert subscriber.payloads() == [b"\0", b"\1", b"\2"]
    assert (sub.pending, sub.in_flight) == (7, 3)
    subscriber.take(sub, 2)
    assert subscriber.payloads() == [b"\3", b"\4"]


def test_confirming_more_than_was_sent_ends_the_stream_with_an_error() -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("x")
    publisher.publish("x")
    subscriber.messages()
    with pytest.raises(Exception, match="confirms 2 messages, 1 were sent"):
        subscriber.take(sub, 2)


def test_higher_priority_overtakes_what_is_not_yet_sent() -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    subscriber.open("x")
    for priority in (0, 3, 7, 0, 3):
        publisher.publish("x", bytes([priority]), priority=priority)
    assert subscriber.payloads() == [b"\7", b"\3", b"\3", b"\0", b"\0"]


def test_block_waits_for_room_and_posts_in_order_when_there_is_some() -> None:
    bench = Bench(queue_messages_max=2)
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("x", window_messages=1)
    sent = [publisher.publish("x", bytes([i])) for i in range(5)]
    assert len(publisher.receipts()) == 2  # two are queued, three wait: nobody got those
    assert bench.row("x")["owed"] == 2
    got = []
    for _ in range(5):
        got += subscriber.payloads()
        subscriber.take(sub, 1)
    assert got == [bytes([i]) for i in range(5)]
    assert [r.id for r in publisher.receipts()] == [m.id for m in sent[2:]]
    bench.assert_balanced()


def test_behind_a_slow_subscriber_all_wait_while_it_takes_and_are_refused_when_it_does_not() -> (
    None
):
    bench = Bench(queue_messages_max=1, stall_ns=100 * SECOND_NS, block_ns=SECOND_NS)
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("x", window_messages=1)
    for number in range(20):
        publisher.publish("x", bytes([number]))
    got = subscriber.payloads()
    for _ in range(10):  # far longer than one waits for room
        bench.tick(0.9)
        subscriber.take(sub, 1)
        got += subscriber.payloads()
    assert got == [bytes([number]) for number in range(11)]
    assert [r.error.code for r in publisher.receipts()] == [""] * 12
    publisher.publish("x", b"late")
    bench.tick(1.1)  # since it took one, and since the last one came
    assert [r.error.code for r in publisher.receipts()] == ["QUEUE_FULL"] * 9
    bench.assert_balanced()


def test_block_refuses_after_the_time_given_and_nobody_got_it() -> None:
    bench = Bench(queue_messages_max=1)
    publisher, slow, fast = bench.publisher(), bench.subscriber(), bench.subscriber()
    slow.open("x", window_messages=1)
    fast.open("x")
    publisher.publish("x", b"0")
    publisher.send(item(message("x", b"1"), wait_ms=100), item(message("x", b"2"), wait_ms=0))
    fast.messages()
    bench.tick(0.2)
    receipts = publisher.receipts()
    assert [r.error.code for r in receipts] == ["", "QUEUE_FULL", "QUEUE_FULL"]
    assert fast.payloads() == []
    assert bench.row("x")["refused"] == {"QUEUE_FULL": 2}
    bench.assert_balanced()


def test_a_blocked_topic_does_not_hold_up_another_topic_of_the_same_stream() -> None:
    bench = Bench(queue_messages_max=1)
    publisher, subscriber = bench.publisher(), bench.subscriber()
    subscriber.open("slow", window_messages=1)
    subscriber.open("quick")
    for _ in range(3):
        publisher.publish("slow", b"s")
    publisher.publish("quick", b"q")
    assert b"q" in subscriber.payloads()


def test_drop_and_latest_never_hold_the_publisher_up() -> None:
    bench = Bench(queue_messages_max=4)
    publisher, subscriber = bench.publisher(), bench.subscriber()
    drop = subscriber.open("x", overflow=DROP, window_messages=1)
    latest = subscriber.open("x", overflow=LATEST, window_messages=1)
    for i in range(10):
        publisher.publish("x", bytes([i]))
    assert len(publisher.receipts()) == 10
    got = {1: [], 2: []}
    for _ in range(10):
        for i in subscriber.items():
            got[i.subscriptions[0]].append(i.message.tensors[0].data[0])
        for sub in (drop, latest):
            if sub.in_flight:
                subscriber.take(sub, sub.in_flight)
    assert got[drop.subscription] == [0, 1, 2, 3]
    assert got[latest.subscription] == [9]
    row = bench.row("x")
    assert row["dropped"] == {"QUEUE_FULL": 6} and row["superseded"] == 9
    bench.assert_balanced()


def test_latest_keeps_the_newest_of_each_publisher_and_topic() -> None:
    bench = Bench()
    one, two, subscriber = bench.publisher(), bench.publisher(), bench.subscriber()
    subscriber.open("cam.>", overflow=LATEST)
    for i in range(3):
        one.publish("cam.a", b"1a%d" % i)
        one.publish("cam.b", b"1b%d" % i)
        two.publish("cam.a", b"2a%d" % i)
    assert sorted(subscriber.payloads()) == [b"1a2", b"1b2", b"2a2"]


def test_an_expired_message_is_freed_counted_and_never_sent() -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("x", window_messages=1)
    publisher.publish("x", b"0")
    subscriber.messages()
    publisher.publish("x", b"1", ttl_ns=SECOND_NS)
    publisher.publish("x", b"2", ttl_ns=10 * SECOND_NS)
    bench.tick(2)
    assert (sub.pending, bench.row("x")["expired"]) == (1, 1)
    subscriber.take(sub, 1)
    (kept,) = subscriber.messages()
    assert kept.tensors[0].data == b"2"
    assert kept.ttl_ns == 8 * SECOND_NS  # what is left, rewritten in place
    bench.assert_balanced()


def test_a_subscriber_that_takes_nothing_is_dropped_to_until_it_takes_again() -> None:
    bench = Bench(queue_messages_max=1, stall_ns=10 * SECOND_NS, block_ns=60 * SECOND_NS)
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("x", window_messages=1)
    publisher.publish("x")
    subscriber.messages()
    publisher.publish("x")
    publisher.publish("x")
    assert bench.tick(9) == []
    assert bench.tick(2) == [("stalled", sub)]
    assert len(publisher.receipts()) == 3
    assert bench.row("x")["dropped"] == {"STALLED": 1}
    subscriber.take(sub, 1)
    assert bench.tick() == [("resumed", sub)]
    assert not sub.stalled
    publisher.publish("x")
    assert bench.row("x")["dropped"] == {"STALLED": 1}
    bench.assert_balanced()


def test_a_subscriber_may_stall_again_after_it_was_idle() -> None:
    """Time passes only for those that hold something: who holds something again is looked at."""
    bench = Bench(queue_messages_max=1, stall_ns=10 * SECOND_NS, block_ns=60 * SECOND_NS)
    publisher, subscriber = bench.publisher(), bench.subscriber()
    idle = [subscriber.open(f"idle.{i}", window_messages=1) for i in range(3)]
    sub = subscriber.open("x", window_messages=1)
    for _ in range(2):
        publisher.publish("x")
        subscriber.messages()
        publisher.publish("x")
        assert bench.tick(11) == [("stalled", sub)]
        while sub.in_flight:
            subscriber.take(sub, 1)
            subscriber.messages()
        assert bench.tick() == [("resumed", sub)]
        assert bench.tick(60) == [] and not any(each.stalled for each in idle)
    bench.assert_balanced()


def test_a_group_shares_work_and_is_owed_one_delivery() -> None:
    bench = Bench()
    publisher, a, b = bench.publisher(), bench.subscriber(), bench.subscriber()
    group = _native.Group("workers")
    a.open("x", group=group)
    b.open("x", group=group)
    for i in range(10):
        publisher.publish("x", bytes([i]))
    shares = a.payloads(), b.payloads()
    assert [len(s) for s in shares] == [5, 5]
    assert sorted(shares[0] + shares[1]) == [bytes([i]) for i in range(10)]
    assert bench.row("x")["owed"] == 10
    assert {r.matched for r in publisher.receipts()} == {1}


def test_a_dead_members_unread_messages_go_to_another_and_what_it_had_is_lost() -> None:
    bench = Bench()
    publisher, a, b = bench.publisher(), bench.subscriber(), bench.subscriber()
    group = _native.Group("workers")
    a.open("x", group=group, window_messages=2)
    b_sub = b.open("x", group=group, window_messages=3)
    for i in range(10):
        publisher.publish("x", bytes([i]))
    lost = a.payloads()
    assert len(lost) == 2 and a.stream.pending > 0
    a.close()
    got: list[bytes] = []
    while more := b.payloads():
        got += more
        b.take(b_sub, len(more))
    assert sorted(got + lost) == [bytes([i]) for i in range(10)]
    row = bench.row("x")
    assert (row["delivered"], row["dropped"]) == (8, {"PEER_LOST": 2})
    bench.assert_balanced()


def test_a_killed_subscriber_loses_what_it_had_not_confirmed_and_no_more() -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("x", window_messages=4)
    for _ in range(10):
        publisher.publish("x")
    subscriber.messages()
    subscriber.take(sub, 3)
    subscriber.close()
    row = bench.row("x")
    assert (row["delivered"], row["pending"], row["dropped"]) == (3, 0, {"PEER_LOST": 7})
    bench.assert_balanced()


def test_a_latest_topic_hands_its_last_message_to_a_new_subscriber() -> None:
    bench = Bench()
    bench.hub.declare("state", retain=True)
    publisher, subscriber = bench.publisher(), bench.subscriber()
    for i in range(3):
        publisher.publish("state", bytes([i]))
    topic = bench.hub.topic("state")
    assert topic is not None and topic.has_retained
    sub = subscriber.open("state")
    sub.deliver_retained(topic, bench.now_ns)
    assert subscriber.payloads() == [b"\2"]
    subscriber.take(sub, 1)
    row = bench.row("state")
    assert (row["owed"], row["retained"], row["superseded"], row["delivered"]) == (4, 1, 2, 1)
    bench.assert_balanced()


def test_a_dropped_topic_folds_into_its_class_and_what_is_pending_goes_on_there() -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("job.*.out")
    for i in range(5):
        name = f"job.{i}.out"
        bench.hub.declare(name, owner=7, group="job.*.out")
        publisher.publish(name)
        bench.hub.drop(name)
    assert {row["topic"] for row in rows(bench.hub)} == {"job.*.out"}
    assert bench.row("job.*.out")["pending"] == 5
    subscriber.messages()
    subscriber.take(sub, 5)
    assert bench.row("job.*.out")["delivered"] == 5
    bench.assert_balanced()


def test_a_retry_by_id_gets_the_first_receipt_and_is_not_delivered_twice() -> None:
    bench = Bench()
    history = _native.History()
    subscriber = bench.subscriber()
    subscriber.open("x")
    lost = bench.publisher(history=history)
    sent = [lost.publish("x", bytes([i])) for i in range(4)]
    lost.close()
    again = bench.publisher(history=history, resume=3)
    fresh = message("x", b"new")
    again.send(item(sent[1]), item(sent[2]), item(sent[3]), item(fresh))
    assert [(r.id, r.matched) for r in again.receipts()] == [(m.id, 1) for m in [*sent[1:], fresh]]
    assert subscriber.payloads() == [b"\0", b"\1", b"\2", b"\3", b"new"]


def test_a_publisher_that_reads_no_answers_is_not_read_until_it_does() -> None:
    bench = Bench()
    publisher, drained = bench.publisher(), []
    publisher.stream.drained = lambda: drained.append(True)
    bad = [item(message("x", priority=9)) for _ in range(1024)]
    heads = [bus_pb2.Item(head=message_pb2.Message(id=_native.new_id(), topic="x", priority=9))]
    sent = 0
    while not publisher.stream.full:
        publisher.send(*bad, *heads)
        sent += len(bad) + len(heads)
        assert sent < 100_000
    assert not drained
    frames = []
    while (got := publisher.stream.next_frame(bench.now_ns)) is not None:
        frames.append(got)
    assert drained == [True] and not publisher.stream.full
    items = [i for got in frames for i in bus_pb2.Frame.FromString(got).items]
    assert [i.receipt.error.code for i in items] == ["BAD_REQUEST"] * sent


def test_many_late_answers_and_control_items_leave_in_frames_of_a_size() -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    for _ in range(20):
        bad = [message_pb2.Message(id=_native.new_id(), topic="x", priority=9) for _ in range(1000)]
        publisher.send(*(bus_pb2.Item(head=each) for each in bad))
    body = bus_pb2.Ended(subscription=1, error=error_pb2.Error(message="y" * 500))
    for _ in range(10_000):
        subscriber.stream.control(11, body.SerializeToString())
    for stream, count in ((publisher.stream, 20_000), (subscriber.stream, 10_000)):
        frames = []
        while (got := stream.next_frame(bench.now_ns)) is not None:
            frames.append(got)
        assert max(map(len, frames)) < 128 << 10
        assert sum(len(bus_pb2.Frame.FromString(got).items) for got in frames) == count


def test_a_full_stream_says_so_and_says_when_it_is_drained() -> None:
    bench = Bench(queue_messages_max=1)
    publisher, subscriber = bench.publisher(window_messages=4), bench.subscriber()
    sub = subscriber.open("x", window_messages=1)
    drained: list[bool] = []
    publisher.stream.drained = lambda: drained.append(True)
    for _ in range(6):
        publisher.publish("x")
    assert publisher.stream.full and not drained
    for _ in range(6):
        subscriber.messages()
        if sub.in_flight:
            subscriber.take(sub, 1)
    assert not publisher.stream.full and drained == [True]


def test_wakes_come_once_when_a_stream_has_something_after_it_had_nothing() -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    subscriber.open("x")
    publisher.publish("x")
    publisher.publish("x")
    assert (publisher.wakes, subscriber.wakes) == (1, 1)
    subscriber.messages()
    publisher.receipts()
    publisher.publish("x")
    assert (publisher.wakes, subscriber.wakes) == (2, 2)


WHOLE = frame(item(message("x", b"payload")))


@pytest.mark.parametrize("cut", range(1, len(WHOLE)))
def test_a_frame_cut_anywhere_is_an_error_never_a_delivery(cut: int) -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    subscriber.open("x")
    with pytest.raises(SiraError) as caught:
        publisher.stream.feed(WHOLE[:cut], bench.now_ns)
    assert caught.value.code == "FRAME_CORRUPT"
    assert subscriber.messages() == []
