"""Large messages through the node: forwarded as they come, windowed, retained, aborted, counted."""

from __future__ import annotations

import pytest

from sira.v1 import bus_pb2, error_pb2, message_pb2

from .hub_harness import (
    SECOND_NS,
    Bench,
    Publisher,
    chunks,
    head,
    item,
    message,
    payload_of,
)

MIB = 1 << 20


def reassemble(items: list[bus_pb2.Item], subscription: int) -> list[bytearray]:
    """Payloads as any client would assemble them by the rule of bus.proto, but aborted ones."""
    open_heads: dict[bytes, message_pb2.Message] = {}
    untagged: dict[bytes, int] = {}  # chunks without a subscription are the first head's
    data: dict[bytes, bytearray] = {}
    done: list[bytearray] = []
    for i in items:
        if i.HasField("head"):
            untagged.setdefault(i.head.id, i.subscriptions[0])
            if subscription not in i.subscriptions:
                continue
            open_heads[i.head.id], data[i.head.id] = i.head, bytearray()
        elif i.HasField("chunk") and i.chunk.message_id in data:
            if subscription not in (i.subscriptions or [untagged[i.chunk.message_id]]):
                continue
            data[i.chunk.message_id] += i.chunk.data
        elif i.HasField("abort"):
            data.pop(i.abort.message_id, None)
        else:
            continue
        for key in [
            k for k in data if len(data[k]) == sum(t.data_bytes for t in open_heads[k].tensors)
        ]:
            done.append(data.pop(key))
    return done


def expected(made: message_pb2.Message) -> bytes:
    return b"".join(payload_of(i, 0, t.data_bytes) for i, t in enumerate(made.tensors))


def send(publisher: Publisher, made: message_pb2.Message, chunk_bytes: int = MIB) -> None:
    publisher.send(bus_pb2.Item(head=made))
    for chunk in chunks(made, chunk_bytes):
        publisher.stream.feed(chunk, publisher.bench.now_ns)


def test_chunks_are_forwarded_as_they_come_the_same_bytes_object() -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("x")
    made = head("x", [3 * MIB])
    publisher.send(bus_pb2.Item(head=made))
    bench.now_ns += SECOND_NS  # the head is a small message: no other was about for a while
    assert len(subscriber.items()) == 1
    bench.now_ns += SECOND_NS
    for chunk in chunks(made, MIB):
        publisher.stream.feed(chunk, bench.now_ns)
        (forwarded,) = subscriber.frames()
        assert forwarded is chunk
    assert [r.id for r in publisher.receipts()] == [made.id]
    subscriber.take(sub, 1)
    assert bench.row("x")["delivered"] == 1
    assert bench.hub.stats["chunk_bytes_held"] == 0
    assert bench.hub.stats["transfers"] == 0


def test_every_subscription_gets_the_whole_also_two_of_one_stream() -> None:
    bench = Bench()
    publisher, a, b = bench.publisher(), bench.subscriber(), bench.subscriber()
    one, two, three = a.open("x"), a.open(">"), b.open("x")
    made = head("x", [1000, 0, 70_000, 1])
    send(publisher, made, 10_000)
    in_a, in_b = a.items(), b.items()
    for items, sub in ((in_a, one), (in_a, two), (in_b, three)):
        assert reassemble(items, sub.subscription) == [expected(made)]
    assert publisher.receipts()[0].matched == 3


def test_chunks_are_split_while_small_messages_are_about() -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    big, small = subscriber.open("big"), subscriber.open("small")
    made = head("big", [2 * MIB])
    send(publisher, made)
    publisher.publish("small")
    items = subscriber.items()
    sizes = [len(i.chunk.data) for i in items if i.HasField("chunk")]
    assert max(sizes) <= 256 << 10
    assert reassemble(items, big.subscription) == [expected(made)]
    assert sum(i.HasField("message") for i in items) == 1
    assert small.in_flight == 1


def test_a_small_message_does_not_wait_for_a_large_one() -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    subscriber.open("big")
    subscriber.open("small")
    made = head("big", [8 * MIB])
    send(publisher, made)
    frames = subscriber.frames()
    next(frames)  # the head
    next(frames)  # a chunk
    publisher.publish("small")
    following = [bus_pb2.Frame.FromString(next(frames)) for _ in range(2)]
    assert any(i.HasField("message") for f in following for i in f.items)


def test_credit_comes_back_as_chunks_leave_and_not_before() -> None:
    bench = Bench(transfer_window_bytes=4 * MIB)
    publisher, subscriber = bench.publisher(), bench.subscriber()
    subscriber.open("x", window_messages=1)
    made = head("x", [16 * MIB])
    publisher.send(bus_pb2.Item(head=made))
    parts = chunks(made, MIB)
    for _ in range(4):
        publisher.stream.feed(next(parts), bench.now_ns)
    assert publisher.answers() == []
    assert len(list(subscriber.frames())) >= 5
    credit = sum(i.credit.bytes for i in publisher.answers())
    assert credit == 4 * MIB


def test_what_nobody_matches_is_taken_and_let_go() -> None:
    bench = Bench()
    publisher = bench.publisher()
    made = head("x", [20 * MIB])
    send(publisher, made)
    answers = publisher.answers()
    receipts = [i.receipt for i in answers if i.HasField("receipt")]
    assert [(r.id, r.matched) for r in receipts] == [(made.id, 0)]
    assert sum(i.credit.bytes for i in answers) >= 16 * MIB
    assert bench.hub.stats["chunk_bytes_held"] == 0


def test_a_publisher_lost_midway_aborts_and_counts_each_delivery_once() -> None:
    bench = Bench()
    publisher, a, b = bench.publisher(), bench.subscriber(), bench.subscriber()
    started, waiting = a.open("x"), b.open("x", window_messages=1)
    other = bench.publisher()
    other.publish("x", b"before")
    b.items()  # its window is full: the head will wait
    a.items()
    made = head("x", [4 * MIB])
    publisher.send(bus_pb2.Item(head=made))
    publisher.stream.feed(next(chunks(made, MIB)), bench.now_ns)
    assert len(a.items()) >= 2
    publisher.close()
    assert [i.abort.message_id for i in a.items()] == [made.id]
    assert bench.row("x")["dropped"] == {"PEER_LOST": 2}
    a.take(started, 2)  # the aborted one is confirmed too: it was sent
    b.take(waiting, 1)
    assert b.items() == []
    assert bench.row("x")["delivered"] == 2
    assert bench.hub.stats["chunk_bytes_held"] == 0
    bench.assert_balanced()


def test_a_subscriber_lost_midway_lets_the_publisher_go_on() -> None:
    bench = Bench(transfer_window_bytes=2 * MIB)
    publisher, subscriber = bench.publisher(), bench.subscriber()
    subscriber.open("x")
    made = head("x", [4 * MIB])
    publisher.send(bus_pb2.Item(head=made))
    parts = list(chunks(made, MIB))
    publisher.stream.feed(parts[0], bench.now_ns)
    subscriber.close()
    for part in parts[1:]:
        publisher.stream.feed(part, bench.now_ns)
    assert [r.id for r in publisher.receipts()] == [made.id]
    assert bench.row("x")["dropped"] == {"PEER_LOST": 1}
    assert bench.hub.stats["chunk_bytes_held"] == 0
    bench.assert_balanced()


@pytest.mark.parametrize(
    "bad",
    [
        {"tensor": 1, "offset": 0, "data": b"x"},
        {"tensor": 0, "offset": 5, "data": b"x"},
        {"tensor": 0, "offset": 0, "data": b"x" * 101},
        {"tensor": 0, "offset": 0, "data": b""},
        {"tensor": 77, "offset": 1 << 63, "data": b"x"},
    ],
)
def test_a_chunk_that_does_not_fit_ends_its_transfer_alone(bad: dict[str, object]) -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    subscriber.open("x")
    made = head("x", [100, 100])
    publisher.send(bus_pb2.Item(head=made))
    subscriber.items()
    publisher.send(bus_pb2.Item(chunk=bus_pb2.Chunk(message_id=made.id, **bad)))
    publisher.publish("x", b"next")
    broken, fine = publisher.receipts()
    assert (broken.id, broken.error.code) == (made.id, "FRAME_CORRUPT")
    assert not fine.HasField("error")
    items = subscriber.items()
    assert [i.abort.message_id for i in items if i.HasField("abort")] == [made.id]
    assert [i.message.tensors[0].data for i in items if i.HasField("message")] == [b"next"]
    bench.assert_balanced()


def test_a_publisher_may_give_up_and_the_stream_goes_on() -> None:
    bench = Bench(queue_messages_max=1)
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("x", window_messages=1)
    publisher.publish("x", b"first")
    subscriber.items()
    publisher.publish("x", b"second")
    parked = head("x", [1000])
    publisher.send(bus_pb2.Item(head=parked))
    publisher.send(bus_pb2.Item(abort=bus_pb2.Abort(message_id=parked.id)))
    codes = {r.id: r.error.code for r in publisher.receipts()}
    assert sorted(codes.values()) == ["", "", "ABORTED"] and codes[parked.id] == "ABORTED"
    subscriber.take(sub, 1)
    assert subscriber.payloads() == [b"second"]
    bench.assert_balanced()


def test_an_abort_may_say_why() -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("x")
    made = head("x", [1000])
    publisher.send(bus_pb2.Item(head=made))
    subscriber.items()
    why = error_pb2.Error(code="OUT_OF_PAPER", message="no more")
    publisher.send(bus_pb2.Item(abort=bus_pb2.Abort(message_id=made.id, error=why)))
    (receipt,) = publisher.receipts()
    assert (receipt.id, receipt.error.code) == (made.id, "ABORTED")
    (gone,) = [i.abort.message_id for i in subscriber.items() if i.HasField("abort")]
    assert gone == made.id and bench.hub.stats["transfers"] == 0
    subscriber.take(sub, 1)
    bench.assert_balanced()


FRAME_BYTES_MAX = 2 << 20


def test_a_message_that_fits_into_no_frame_down_is_refused_and_one_byte_less_passes() -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    subscriber.open("x")
    around = message("x", b"").ByteSize() + 7  # longer lengths: of shape, data and tensor
    limit = FRAME_BYTES_MAX - 1024 - 64  # the node's stamp, and the item around it
    sizes = range(limit - around - 8, limit - around + 8)
    made = [message("x", bytes(size)) for size in sizes]
    for each in made:
        publisher.send(item(each))
    codes = [r.error.code for r in publisher.receipts()]
    assert codes == ["" if m.ByteSize() <= limit else "MESSAGE_TOO_LARGE" for m in made]
    assert set(codes) == {"", "MESSAGE_TOO_LARGE"}
    assert all(len(got) <= FRAME_BYTES_MAX for got in subscriber.frames())


def test_a_chunk_that_fills_a_frame_fits_into_one_also_with_a_subscription() -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    subscriber.open("x")
    subscriber.open("x")
    made = head("x", [2 * MIB])
    full = max(n for n in range(2 * MIB - 64, 2 * MIB) if len(chunk_of(made, n)) <= 2 * MIB)
    publisher.send(bus_pb2.Item(head=made))
    publisher.stream.feed(chunk_of(made, full), bench.now_ns)
    for rest in chunks(made, full):
        if rest != chunk_of(made, full):
            publisher.stream.feed(rest, bench.now_ns)
    frames = list(subscriber.frames())
    assert all(len(got) <= FRAME_BYTES_MAX for got in frames)
    items = [i for got in frames for i in bus_pb2.Frame.FromString(got).items]
    for subscription in (1, 2):
        assert reassemble(items, subscription) == [expected(made)]


def chunk_of(made: message_pb2.Message, size: int) -> bytes:
    """The frame of a message's first chunk, of `size` bytes."""
    return next(chunks(made, size))


def test_a_parked_large_message_keeps_its_place_and_its_chunks() -> None:
    bench = Bench(queue_messages_max=1)
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("x", window_messages=1)
    publisher.publish("x", b"first")
    subscriber.items()
    publisher.publish("x", b"second")
    made = head("x", [5000])
    send(publisher, made, 1000)
    publisher.publish("x", b"last")
    got: list[bytes] = []
    for _ in range(4):
        subscriber.take(sub, sub.in_flight)
        items = subscriber.items()
        got += [i.message.tensors[0].data for i in items if i.HasField("message")]
        got += [bytes(b) for b in reassemble(items, sub.subscription)]
    assert got == [b"second", expected(made), b"last"]
    assert len(publisher.receipts()) == 4
    bench.assert_balanced()


def test_a_latest_topic_keeps_a_large_message_whole() -> None:
    bench = Bench()
    bench.hub.declare("state", retain=True)
    publisher = bench.publisher()
    old, new, broken = head("state", [3000]), head("state", [5000, 7]), head("state", [9000])
    send(publisher, old, 1000)
    send(publisher, new, 1000)
    publisher.send(bus_pb2.Item(head=broken))
    publisher.stream.feed(next(chunks(broken, 1000)), bench.now_ns)
    publisher.close()
    topic = bench.hub.topic("state")
    assert topic is not None
    for _ in range(2):
        subscriber = bench.subscriber()
        sub = subscriber.open("state")
        sub.deliver_retained(topic, bench.now_ns)
        assert bench.hub.stats["transfers"] == 1 and bench.hub.stats["transfers_kept"] == 0
        assert reassemble(subscriber.items(), sub.subscription) == [expected(new)]
        subscriber.take(sub, 1)
        assert bench.hub.stats["transfers_kept"] == 1, "it is under way to nobody"
    bench.assert_balanced()
    bench.hub.drop("state")
    assert bench.hub.stats["chunk_bytes_held"] == 0


def test_ten_gibibytes_announced_and_ten_bytes_sent_hold_ten_bytes() -> None:
    bench = Bench()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    subscriber.open("x")
    made = head("x", [10 << 30])
    publisher.send(bus_pb2.Item(head=made))
    publisher.send(bus_pb2.Item(chunk=bus_pb2.Chunk(message_id=made.id, data=b"0123456789")))
    assert bench.hub.stats["chunk_bytes_held"] == 10
    publisher.close()
    assert bench.hub.stats["chunk_bytes_held"] == 0


def test_a_message_over_the_limit_is_refused_by_its_head() -> None:
    bench = Bench(message_bytes_max=1000)
    publisher = bench.publisher()
    publisher.send(bus_pb2.Item(head=head("x", [1001])), item(message("x", b"x" * 1001)))
    codes = [r.error.code for r in publisher.receipts()]
    assert codes == ["MESSAGE_TOO_LARGE", "MESSAGE_TOO_LARGE"]


def test_a_lost_group_members_unsent_transfer_goes_whole_to_another() -> None:
    from sira import _native

    bench = Bench()
    publisher, a, b = bench.publisher(), bench.subscriber(), bench.subscriber()
    group = _native.Group("g")
    a.open("x", group=group, window_messages=1)
    made = [head("x", [3000]) for _ in range(3)]
    for m in made:
        send(publisher, m, 1000)
    b_sub = b.open("x", group=group)
    first = a.items()
    assert len(reassemble(first, 1)) == 1
    a.close()
    assert reassemble(b.items(), b_sub.subscription) == [expected(m) for m in made[1:]]
    bench.assert_balanced()


def test_a_small_messages_receipt_does_not_wait_for_a_large_one() -> None:
    bench = Bench()
    publisher = bench.publisher()
    made = head("x", [2 * MIB])
    publisher.send(bus_pb2.Item(head=made))
    small = publisher.publish("y")
    assert [r.id for r in publisher.receipts()] == [small.id]
    for chunk in chunks(made, MIB):
        publisher.stream.feed(chunk, bench.now_ns)
    assert [r.id for r in publisher.receipts()] == [made.id]


def test_a_publisher_with_a_small_window_gets_its_credit_too() -> None:
    bench = Bench(transfer_window_bytes=8 * MIB)
    publisher, subscriber = bench.publisher(), bench.subscriber()
    subscriber.open("x")
    made = head("x", [MIB])
    publisher.send(bus_pb2.Item(head=made))
    publisher.stream.feed(next(chunks(made, 1000)), bench.now_ns)
    subscriber.items()
    assert publisher.answers() == []
    bench.tick(0.1)
    assert [i.credit.bytes for i in publisher.answers()] == [1000]


def test_a_stream_is_read_on_while_a_subscriber_waits_for_the_rest_of_what_it_has_begun() -> None:
    """Else those queued behind fill the stream's window, and the first is never completed."""
    bench = Bench(transfer_window_bytes=8_000)
    publisher, subscriber = bench.publisher(window_bytes=16_000), bench.subscriber()
    sub = subscriber.open("x", window_messages=1)
    made = [head("x", [12_000]) for _ in range(4)]
    parts = [list(chunks(m, 1_000)) for m in made]
    for m, part in zip(made, parts, strict=True):
        publisher.send(bus_pb2.Item(head=m))
        for chunk in part[:8]:
            publisher.stream.feed(chunk, bench.now_ns)
        subscriber.items()
    for part in parts:
        assert not publisher.stream.full  # the subscriber waits for the rest of this one
        for chunk in part[8:]:
            publisher.stream.feed(chunk, bench.now_ns)
        subscriber.items()
        subscriber.take(sub, 1)
        subscriber.items()  # the next one's head, and what is here of it
    assert bench.row("x")["delivered"] == 4


def test_a_stream_that_holds_its_window_while_nobody_waits_is_not_read() -> None:
    bench = Bench(transfer_window_bytes=8_000)
    publisher, subscriber = bench.publisher(window_bytes=16_000), bench.subscriber()
    sub = subscriber.open("x", window_messages=1)
    made = [head("x", [20_000]) for _ in range(2)]
    for m in made:
        publisher.send(bus_pb2.Item(head=m))
        for chunk in list(chunks(m, 1_000))[:8]:
            publisher.stream.feed(chunk, bench.now_ns)
    assert publisher.stream.full  # the subscriber's stream has not been written at all
    subscriber.items()
    assert not publisher.stream.full
    assert sub.in_flight == 1


def test_a_publisher_that_sends_past_its_credit_loses_that_transfer() -> None:
    bench = Bench(transfer_window_bytes=4_000)
    publisher, subscriber = bench.publisher(window_bytes=8_000), bench.subscriber()
    sub = subscriber.open("x", window_messages=1)
    first, second = head("x", [12_000]), head("x", [12_000])
    publisher.send(bus_pb2.Item(head=first))
    first_parts = list(chunks(first, 1_000))
    publisher.stream.feed(first_parts.pop(0), bench.now_ns)
    subscriber.items()
    publisher.send(bus_pb2.Item(head=second))
    for chunk in chunks(second, 1_000):
        publisher.stream.feed(chunk, bench.now_ns)
    (refused,) = publisher.receipts()
    assert (refused.id, refused.error.code) == (second.id, "PROTOCOL_ERROR")
    for chunk in first_parts:
        publisher.stream.feed(chunk, bench.now_ns)
        subscriber.items()
    subscriber.take(sub, 1)
    assert bench.row("x")["delivered"] == 1
    bench.assert_balanced()
