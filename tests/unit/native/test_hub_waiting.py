"""Streams whose messages wait for room within a rate: in order, for their time, and in turn."""

from __future__ import annotations

import pytest

import sira.kernel.errors
from sira import _native
from sira.v1 import bus_pb2

from .hub_harness import SECOND_NS, Bench, Publisher, head, item, message
from .waiting_harness import of_one_topic, pass_time, text

KIB, MIB = 1 << 10, 1 << 20


def test_what_a_rate_has_no_room_for_waits_and_comes_in_order_at_that_rate() -> None:
    bench = Bench()
    bucket = _native.Bucket("slow", "p", messages_per_s=10, burst_s=0.1)
    bench.buckets = (bucket,)
    sub = bench.subscriber()
    sub.open("a")
    pub = bench.publisher(waits=True)
    pub.send(*[item(message("a", str(n).encode())) for n in range(60)])
    assert not pub.stream.full and bench.hub.stats["waiting"] == 59
    assert pub.stream.limited_until_ns == 0
    got: list[str] = []
    for second in range(1, 8):
        pass_time(bench, (1 + second) * SECOND_NS)
        got += [text(each) for each in sub.messages()]
        assert len(got) == min(60, 1 + 10 * second)
    assert got == [str(n) for n in range(60)], "none was first for block_ns"
    assert [r.HasField("error") for r in pub.receipts()] == [False] * 60
    assert (bucket.refused, bench.hub.stats["waiting"], pub.stream.full) == (0, 0, False)
    assert bench.row("a")["refused"] == {}


def test_other_topics_of_the_stream_go_on_and_a_stream_that_did_not_ask_is_refused() -> None:
    bench = Bench()
    slow = (_native.Bucket("slow", "a", messages_per_s=1),)
    hub_resolve = bench.resolve

    def resolve(topic: str) -> _native.Route:
        bench.buckets = slow if topic == "a" else ()
        return hub_resolve(topic)

    bench.resolve = resolve  # type: ignore[method-assign]
    sub = bench.subscriber()
    sub.open("a")
    sub.open("b")
    pub, other = bench.publisher(waits=True), bench.publisher()
    pub.send(*[item(message(topic, topic.encode())) for topic in "aabab"])
    assert [text(each) for each in sub.messages()] == ["a", "b", "b"]
    other.publish("a")
    (refused,) = other.receipts()
    assert refused.error.code == "RATE_LIMITED" and refused.error.retry_after_ms == 1_000
    pub.send(item(message("a", b"now"), wait_ms=0))
    pass_time(bench, 20 * SECOND_NS)
    assert [text(each) for each in sub.messages()] == ["a", "a"]
    codes = [r.error.code for r in pub.receipts()]
    assert codes == ["", "", "", "", "", "RATE_LIMITED"], "who may not wait does not"


def test_a_stream_is_read_on_while_less_than_it_may_hold_waits() -> None:
    bench = Bench()
    of_one_topic(bench, "a", _native.Bucket("slow", "a", messages_per_s=1))
    sub = bench.subscriber()
    sub.open(">")
    pub = bench.publisher(waits=True, window_messages=16, window_bytes=64 * KIB)
    drained: list[int] = []
    pub.stream.drained = lambda: drained.append(pub.stream.parked)
    pub.send(*[item(message("a")) for _ in range(10)])
    for _ in range(20):
        pub.publish("b")
    came = [made.topic for made in sub.messages()]
    assert came == ["a", *["b"] * 20], "another topic goes through while one waits"
    assert pub.receipts()[1:] == [], "and its answers come in the order of messages"
    assert not pub.stream.full
    pub.send(*[item(message("a")) for _ in range(7)])
    assert pub.stream.full and pub.stream.parked == 16
    pass_time(bench, 9 * SECOND_NS)
    assert drained == [] and pub.stream.full
    pass_time(bench, 10 * SECOND_NS)
    assert drained == [7] and not pub.stream.full, "read again when half of it is gone"
    pub.send(item(message("a", bytes(40 * KIB))), item(message("a", bytes(40 * KIB))))
    assert pub.stream.full and pub.stream.held_bytes > 64 * KIB, "bytes are held against it, too"
    pub.close()
    bench.assert_balanced()


def test_a_stream_that_ends_in_order_tells_what_was_accepted_behind_what_waits() -> None:
    bench = Bench()
    held = _native.Bucket("held", "a", messages_per_s=1, held_bytes=MIB)
    of_one_topic(bench, "a", held)
    sub = bench.subscriber()
    sub.open(">", window_messages=1)
    pub = bench.publisher(waits=True)
    pub.send(*[item(message(topic)) for topic in "aaab"], item(message("a"), quiet=True))
    pub.send(bus_pb2.Item(head=head("a", [MIB])))
    assert len(pub.receipts()) == 1 and bench.hub.stats["waiting"] == 4
    pub.stream.refuse_parked(sira.kernel.errors.NodeDraining("it goes down"), bench.now_ns)
    codes = [r.error.code for r in pub.receipts()]
    assert sorted(codes) == ["", *["NODE_DRAINING"] * 4]
    assert (pub.stream.parked, pub.stream.unanswered, bench.hub.due_ns) == (0, 0, 0)
    assert bench.row("a")["refused"] == {"NODE_DRAINING": 4}
    pub.publish("b")
    assert [r.error.code for r in pub.receipts()] == [""], "what comes after is judged anew"
    pub.close()
    sub.stream.close(bench.now_ns)
    bench.assert_balanced()
    assert held.held_bytes == 0


@pytest.mark.parametrize("wait_ms", [None, 300])
def test_who_cannot_be_in_time_is_refused_at_once(wait_ms: int | None) -> None:
    bench = Bench(block_ns=SECOND_NS)
    bench.buckets = (_native.Bucket("slow", "p", messages_per_s=0.5, burst_s=2),)
    pub = bench.publisher(waits=True)
    extra = {} if wait_ms is None else {"wait_ms": wait_ms}
    pub.send(*[item(message("a"), **extra) for _ in range(2)])
    first, second = pub.receipts()
    assert not first.HasField("error")
    assert (second.error.code, second.error.retry_after_ms) == ("RATE_LIMITED", 2_000)
    assert bench.row("a")["refused"] == {"RATE_LIMITED": 1}


def test_time_given_counts_from_its_coming_and_no_time_given_from_being_first() -> None:
    bench = Bench(block_ns=SECOND_NS)
    bench.buckets = (_native.Bucket("slow", "p", messages_per_s=2, burst_s=0.5),)
    pub = bench.publisher(waits=True)
    pub.send(
        item(message("a", b"taken")),
        item(message("a", b"first")),
        item(message("a", b"hasty"), wait_ms=700),
        item(message("a", b"patient")),
        item(message("a", b"patient too")),
    )
    pass_time(bench, 10 * SECOND_NS)
    codes = [r.error.code for r in pub.receipts()]
    assert codes == ["", "", "RATE_LIMITED", "", ""]


def test_what_needs_many_tokens_is_not_overtaken_for_ever() -> None:
    bench = Bench()
    bench.buckets = (_native.Bucket("rate", "p", bytes_per_s=10 * KIB, burst_s=1),)
    sub = bench.subscriber()
    sub.open(">")
    large, small = bench.publisher(waits=True), bench.publisher(waits=True)
    large.publish("large", bytes(10 * KIB))
    large.publish("large", bytes(10 * KIB))
    came: list[str] = []
    for step in range(1, 31):
        small.publish("small", bytes(KIB))
        pass_time(bench, SECOND_NS + step * SECOND_NS // 10)
        came += [each.topic for each in sub.messages()]
    assert came.count("large") == 2
    assert came.count("small") >= 15, "and small ones have their turn"


def test_a_limit_is_shared_in_turn() -> None:
    bench = Bench()
    bench.buckets = (_native.Bucket("rate", "t", messages_per_s=20, burst_s=0.05),)
    sub = bench.subscriber()
    sub.open(">")
    pubs = [bench.publisher(waits=True) for _ in range(4)]
    for n, pub in enumerate(pubs):
        pub.send(*[item(message(f"t{n}")) for _ in range(50)])
    pass_time(bench, 5 * SECOND_NS)
    came = [each.topic for each in sub.messages()]
    shares = [came.count(f"t{n}") for n in range(4)]
    assert sum(shares) == 81 and min(shares) >= 19, shares


def test_a_right_that_goes_while_it_waits_is_told() -> None:
    bench = Bench()
    bench.buckets = (_native.Bucket("slow", "p", messages_per_s=1),)
    pub = bench.publisher(waits=True)
    pub.send(item(message("a")), item(message("a")))
    bench.refuse = lambda topic: sira.kernel.errors.Denied("no more")
    bench.hub.touch()
    bench.hub.release(bench.now_ns)
    assert [r.error.code for r in pub.receipts()] == ["", "DENIED"]
    assert bench.hub.due_ns == 0


def test_limits_that_are_lifted_let_go_at_once() -> None:
    bench = Bench()
    bench.buckets = (_native.Bucket("slow", "p", messages_per_s=1),)
    pub = bench.publisher(waits=True)
    pub.send(*[item(message("a")) for _ in range(9)])
    bench.buckets = ()
    bench.hub.touch()
    bench.hub.release(bench.now_ns)
    assert len(pub.receipts()) == 9 and bench.hub.stats["waiting"] == 0


def test_a_stream_that_ends_leaves_its_line() -> None:
    bench = Bench()
    bench.buckets = (_native.Bucket("slow", "p", messages_per_s=1, burst_s=1),)
    pubs = [bench.publisher(waits=True) for _ in range(3)]
    for pub in pubs:
        pub.send(*[item(message("a")) for _ in range(3)])
    pubs[0].close()
    pass_time(bench, 4 * SECOND_NS)
    assert sum(len(pub.receipts()) for pub in pubs[1:]) == 3
    pubs[1].close()
    pubs[2].close()
    assert (bench.hub.due_ns, bench.hub.stats["waiting"], bench.hub.stats["messages_held"]) == (
        0,
        0,
        0,
    )
    bench.assert_balanced()


@pytest.mark.parametrize("which", ["own", "other"])
def test_who_is_told_that_something_waits_may_close_streams(which: str) -> None:
    bench = Bench()
    pubs: list[Publisher] = []

    def close() -> None:
        pubs[0 if which == "own" else 1].close()

    bench.buckets = (_native.Bucket("one", "p", messages_per_s=1, on_refusal=close),)
    pubs += [bench.publisher(waits=True), bench.publisher(waits=True)]
    pubs[0].send(*[item(message("a")) for _ in range(5)])
    pass_time(bench, 9 * SECOND_NS)
    assert bench.hub.due_ns == 0
    bench.assert_balanced()
