"""Messages that wait for room within bytes: of a rate, and of what a principal may hold."""

from __future__ import annotations

from sira import _native
from sira.v1 import bus_pb2

from .hub_harness import SECOND_NS, Bench, chunks, head, item, message
from .waiting_harness import of_one_topic, pass_time

KIB, MIB = 1 << 10, 1 << 20


def test_a_large_message_that_waits_lets_others_of_its_stream_through() -> None:
    bench = Bench()
    of_one_topic(bench, "a", _native.Bucket("slow", "a", messages_per_s=1))
    sub = bench.subscriber()
    sub.open(">", window_bytes=64 * MIB)
    pub = bench.publisher(waits=True, window_bytes=8 * MIB)
    first = pub.publish("a")
    waiting, other = head("a", [6 * MIB]), head("b", [6 * MIB])
    pub.send(bus_pb2.Item(head=waiting))
    for each in chunks(waiting, MIB):
        pub.stream.feed(each, bench.now_ns)
    assert pub.stream.held_bytes == 6 * MIB and not pub.stream.full
    pub.send(bus_pb2.Item(head=other))
    for each in chunks(other, MIB):
        pub.stream.feed(each, bench.now_ns)
        got = [i.chunk for i in sub.items() if i.HasField("chunk")]
        assert {chunk.message_id for chunk in got} == {other.id}
    assert {r.id for r in pub.receipts()} == {first.id, other.id}, "a large one by itself"
    pass_time(bench, 2 * SECOND_NS)
    got = [i.chunk for i in sub.items() if i.HasField("chunk")]
    assert sum(len(chunk.data) for chunk in got) == 6 * MIB
    assert [r.id for r in pub.receipts()] == [waiting.id]
    bench.assert_balanced()


def test_a_large_message_waits_with_its_head_and_is_charged_once() -> None:
    bench = Bench()
    held = _native.Bucket("rate", "p", bytes_per_s=MIB, held_bytes=64 * MIB)
    bench.buckets = (held,)
    sub = bench.subscriber()
    sub.open("a")
    pub = bench.publisher(waits=True)
    pub.publish("a", bytes(MIB))
    made = head("a", [3 * MIB])
    pub.send(bus_pb2.Item(head=made))
    assert bench.hub.stats["waiting"] == 1 and held.held_bytes == MIB
    for chunk in chunks(made, MIB):
        pub.stream.feed(chunk, bench.now_ns)
    sub.items()
    pass_time(bench, 3 * SECOND_NS)
    assert held.held_bytes == 3 * MIB
    assert sum(len(each.chunk.data) for each in sub.items()) == 3 * MIB
    assert [r.HasField("error") for r in pub.receipts()] == [False, False]
    bench.assert_balanced()


def test_room_within_what_is_held_is_waited_for_too() -> None:
    bench = Bench()
    bench.buckets = (_native.Bucket("held", "p", held_bytes=2 * KIB),)
    sub = bench.subscriber()
    mine = sub.open("a", window_messages=1)
    pub = bench.publisher(waits=True)
    pub.send(*[item(message("a", bytes([n]) * KIB)) for n in range(6)])
    bench.hub.release(bench.now_ns)
    assert bench.hub.due_ns == 0, "no time is known at which there is room"
    freed: list[int] = []
    bench.hub.hurry = lambda: freed.append(bench.hub.due_ns)
    got: list[bytes] = []
    for n in range(6):
        got += [made.tensors[0].data[:1] for made in sub.messages()]
        assert freed == [1] * min(n + 1, 4), "asked again when a message has left, and not before"
        sub.take(mine, 1)
        bench.hub.release(bench.now_ns)
        assert bench.hub.due_ns == 0 and len(freed) == min(n + 1, 4)
    assert got == [bytes([n]) for n in range(6)]
    pub.publish("a", bytes(3 * KIB))
    assert pub.receipts()[-1].error.code == "QUOTA_EXCEEDED", "it would never have room"


def test_bytes_given_back_that_are_too_few_wake_nobody_and_a_wait_in_vain_ends_in_time() -> None:
    bench = Bench(block_ns=SECOND_NS)
    held = _native.Bucket("held", "p", held_bytes=4 * KIB)
    bench.buckets = (held,)
    sub = bench.subscriber()
    mine = sub.open("a", window_messages=1)
    pub, other = bench.publisher(waits=True), bench.publisher(waits=True)
    pub.send(*[item(message("a", bytes(KIB))) for _ in range(4)])
    large = other.publish("a", bytes(3 * KIB))
    bench.hub.release(bench.now_ns)
    freed: list[int] = []
    bench.hub.hurry = lambda: freed.append(held.held_bytes)
    for _ in range(3):
        assert freed == []
        sub.messages()
        sub.take(mine, 1)
    assert freed == [KIB], "now 3 KiB have room"
    bench.hub.release(bench.now_ns)
    sub.messages()
    sub.take(mine, 1)
    assert [made.id for made in sub.messages()] == [large.id]
    pub.send(*[item(message("a", bytes(2 * KIB))) for _ in range(3)])  # the third waits in vain
    bench.tick()
    bench.tick(1.1)
    assert [r.error.code for r in pub.receipts()] == [""] * 6 + ["QUOTA_EXCEEDED"]
    assert bench.hub.stats["waiting"] == 0


def test_a_wait_for_bytes_and_for_a_rate_ends_when_there_is_room_for_both() -> None:
    bench = Bench()
    held = _native.Bucket("held", "p", held_bytes=KIB)
    bench.buckets = (held, _native.Bucket("rate", "p", messages_per_s=1))
    sub = bench.subscriber()
    mine = sub.open("a", window_messages=1)
    pub = bench.publisher(waits=True)
    pub.publish("a", bytes(KIB))
    pub.publish("a", bytes(KIB))
    bench.hub.release(bench.now_ns)
    assert bench.hub.due_ns == 0
    sub.messages()  # it leaves, and its bytes are given back
    assert bench.hub.due_ns == 1
    bench.hub.release(bench.now_ns)
    assert bench.hub.due_ns == 2 * SECOND_NS, "and now it is a matter of time"
    sub.take(mine, 1)
    pass_time(bench, 2 * SECOND_NS)
    assert len(sub.messages()) == 1
