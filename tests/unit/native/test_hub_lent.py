"""Chunks that name shared memory: passed on by name, copied for who cannot map it, taken back."""

from __future__ import annotations

import pytest

from sira import _native
from sira.kernel.errors import Denied, FrameCorrupt
from sira.v1 import bus_pb2

from .hub_harness import Bench, Subscriber, head
from .lent_harness import Borrower, Memory, lent_chunks, send_lent
from .test_hub_transfers import expected, reassemble

MIB = 1 << 20


def borrowing(subscriber: Subscriber) -> Borrower:
    borrower = Borrower()
    subscriber.stream.lend = borrower.lend
    return borrower


def lent_of(items: list[bus_pb2.Item]) -> list[bus_pb2.Lent]:
    return [i.chunk.lent for i in items if i.HasField("chunk") and i.chunk.HasField("lent")]


def test_a_lent_chunk_is_passed_on_by_name_and_its_lease_comes_back_when_it_is_let_go() -> None:
    bench, memory = Bench(), Memory()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub, borrower = subscriber.open("x"), borrowing(subscriber)
    made = head("x", [3 * MIB, 0, 70_000])
    send_lent(publisher, memory, made)
    items = subscriber.items()
    first, second = lent_of(items)
    assert [i.chunk.tensor for i in items if i.HasField("chunk")] == [0, 2]
    assert bytes(borrower.spans[first.lease]) + bytes(borrower.spans[second.lease]) == expected(
        made
    )
    assert not reassemble(items, sub.subscription), "no byte was copied"
    (receipt,) = publisher.receipts()
    assert list(receipt.lanes) == [bus_pb2.LANE_SHM]
    assert (receipt.matched, receipt.bytes) == (1, 3 * MIB + 70_000)
    assert memory.take_back() == []
    borrower.spans.clear()
    assert sorted(memory.take_back()) == [1, 2]
    subscriber.take(sub, 1)
    assert bench.row("x")["delivered"] == 1
    assert bench.hub.stats["transfers"] == 0
    bench.assert_balanced()


def test_who_cannot_map_it_gets_the_bytes_in_frames_of_the_usual_size() -> None:
    bench, memory = Bench(), Memory()
    publisher, far, near = bench.publisher(), bench.subscriber(), bench.subscriber()
    one, two, three = far.open("x"), far.open(">"), near.open("x")
    borrower = borrowing(near)
    made = head("x", [5 * MIB + 3, 10])
    send_lent(publisher, memory, made)
    frames = list(far.frames())
    assert max(map(len, frames)) <= 2 * MIB
    items = [i for each in frames for i in bus_pb2.Frame.FromString(each).items]
    for sub in (one, two):
        assert reassemble(items, sub.subscription) == [expected(made)]
    assert memory.take_back() == [], "the other has not had it yet"
    assert len(lent_of(near.items())) == 2
    borrower.spans.clear()
    assert sorted(memory.take_back()) == [1, 2]
    far.take(one, 1)
    far.take(two, 1)
    near.take(three, 1)
    bench.assert_balanced()


def test_two_subscriptions_of_one_stream_have_a_lease_each() -> None:
    bench, memory = Bench(), Memory()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    one, two = subscriber.open("x"), subscriber.open(">")
    borrower = borrowing(subscriber)
    send_lent(publisher, memory, head("x", [MIB]))
    chunks = [i for i in subscriber.items() if i.HasField("chunk")]
    assert len({i.chunk.lent.lease for i in chunks}) == 2
    assert {tuple(i.subscriptions) for i in chunks} == {(), (two.subscription,)} or {
        tuple(i.subscriptions) for i in chunks
    } == {(), (one.subscription,)}
    borrower.spans.popitem()
    assert memory.take_back() == []
    borrower.spans.clear()
    assert memory.take_back() == [1]


def test_where_no_lease_is_given_the_bytes_are_copied() -> None:
    bench, memory = Bench(), Memory()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("x")
    subscriber.stream.lend = lambda span: 0
    made = head("x", [MIB])
    send_lent(publisher, memory, made)
    assert reassemble(subscriber.items(), sub.subscription) == [expected(made)]
    assert memory.take_back() == [1]


def test_a_topic_that_keeps_its_last_message_keeps_its_memory() -> None:
    bench, memory = Bench(), Memory()
    bench.hub.declare("x", retain=True)
    publisher = bench.publisher()
    made = head("x", [MIB])
    send_lent(publisher, memory, made)
    publisher.close()
    assert memory.take_back() == []
    subscriber = bench.subscriber()
    sub = subscriber.open("x")
    topic = bench.hub.topic("x")
    assert topic is not None
    sub.deliver_retained(topic, bench.now_ns)
    assert reassemble(subscriber.items(), sub.subscription) == [expected(made)]
    assert memory.take_back() == []
    bench.publisher().publish("x")
    assert memory.take_back() == [1]
    bench.assert_balanced()


def test_lent_bytes_are_nobodys_burden() -> None:
    bench, memory = Bench(transfer_window_bytes=MIB), Memory()
    publisher, subscriber = bench.publisher(window_bytes=MIB), bench.subscriber()
    subscriber.open("x", window_messages=1)
    for _ in range(3):
        send_lent(publisher, memory, head("x", [4 * MIB]))
    assert not publisher.stream.full
    assert publisher.stream.held_bytes == 0
    assert bench.hub.stats["chunk_bytes_held"] == 0
    answers = publisher.answers()
    assert not any(i.HasField("credit") for i in answers)
    assert sum(i.HasField("receipt") for i in answers) == 3
    subscriber.close()
    assert sorted(memory.take_back()) == [1, 2, 3], "unread ones, too"


def test_what_waits_for_room_waits_with_its_memory_and_is_let_go_with_its_stream() -> None:
    bench, memory = Bench(queue_messages_max=1), Memory()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    subscriber.open("x", window_messages=1)
    for _ in range(4):
        send_lent(publisher, memory, head("x", [MIB]))
    assert publisher.stream.parked > 0
    subscriber.items()
    publisher.close()
    subscriber.close()
    assert sorted(memory.take_back()) == [1, 2, 3, 4]
    bench.assert_balanced()


def test_a_chunk_whose_loan_is_refused_gives_its_message_up_and_nothing_else() -> None:
    bench, memory = Bench(), Memory()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    sub = subscriber.open("x")
    made = head("x", [MIB])
    publisher.stream.lender = memory.lender
    publisher.send(bus_pb2.Item(head=made))
    assert [i.HasField("head") for i in subscriber.items()] == [True]
    lent = memory.put(bytes(MIB))
    lent.offset += 1 << 40
    publisher.send(bus_pb2.Item(chunk=bus_pb2.Chunk(message_id=made.id, lent=lent)))
    (receipt,) = publisher.receipts()
    assert receipt.error.code == "FRAME_CORRUPT"
    assert any(i.HasField("abort") for i in subscriber.items())
    assert memory.take_back() == [1]
    publisher.publish("x", b"next")
    assert subscriber.payloads() == [b"next"]
    subscriber.take(sub, 1)
    bench.assert_balanced()


@pytest.mark.parametrize("size", [MIB + 1, 1, 0], ids=["longer", "shorter", "none"])
def test_a_loan_of_another_length_than_its_tensor_is_no_more_than_a_slice(size: int) -> None:
    bench, memory = Bench(), Memory()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    subscriber.open("x")
    made = head("x", [MIB])
    publisher.stream.lender = memory.lender
    publisher.send(bus_pb2.Item(head=made))
    lent = memory.put(bytes(max(16, size)))
    lent.bytes = size
    item = bus_pb2.Item(chunk=bus_pb2.Chunk(message_id=made.id, lent=lent))
    if size == 0:
        with pytest.raises(FrameCorrupt):
            publisher.send(item)
        return
    publisher.send(item)
    codes = [r.error.code for r in publisher.receipts()]
    assert codes == (["FRAME_CORRUPT"] if size > MIB else []), "its rest may come yet"


def test_nobody_lends_to_a_stream_that_never_said_so() -> None:
    bench, memory = Bench(), Memory()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    subscriber.open("x")
    made = head("x", [MIB])
    publisher.send(bus_pb2.Item(head=made))
    for chunk in lent_chunks(memory, made):
        publisher.stream.feed(chunk, bench.now_ns)
    (receipt,) = publisher.receipts()
    assert receipt.error.code == "PROTOCOL_ERROR"


def test_data_beside_a_loan_is_refused() -> None:
    bench, memory = Bench(), Memory()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    subscriber.open("x")
    made = head("x", [MIB])
    publisher.stream.lender = memory.lender
    publisher.send(bus_pb2.Item(head=made))
    both = bus_pb2.Chunk(message_id=made.id, lent=memory.put(bytes(MIB)), data=b"x")
    with pytest.raises(FrameCorrupt):
        publisher.send(bus_pb2.Item(chunk=both))


def test_a_lender_that_closes_the_stream_leaves_nothing_behind() -> None:
    bench, memory = Bench(), Memory()
    publisher, subscriber = bench.publisher(), bench.subscriber()
    subscriber.open("x")
    made = head("x", [MIB])

    def lender(*place: int | str | None) -> _native.ShmSpan:
        publisher.close()
        return memory.lender(*place)  # type: ignore[arg-type]

    publisher.stream.lender = lender
    publisher.send(bus_pb2.Item(head=made))
    (chunk,) = lent_chunks(memory, made)
    publisher.stream.feed(chunk, bench.now_ns)
    assert memory.take_back() == [1]
    assert bench.row("x")["dropped"] == {"PEER_LOST": 1}
    bench.assert_balanced()


def test_the_lease_of_a_message_that_was_refused_comes_back() -> None:
    bench, memory = Bench(), Memory()
    publisher = bench.publisher()
    publisher.stream.lender = memory.lender
    bench.refuse = Denied
    made = head("x", [MIB])
    publisher.send(bus_pb2.Item(head=made))
    for chunk in lent_chunks(memory, made):
        publisher.stream.feed(chunk, bench.now_ns)
    assert memory.take_back() == [1]
    (receipt,) = publisher.receipts()
    assert receipt.error.code == "DENIED"
