"""Streams whose messages wait for room within a limit: in order, for their time, and in turn."""

from __future__ import annotations

import random
import time
from collections import defaultdict

import pytest

import sira.kernel.binding
import sira.kernel.errors
from sira import _native
from sira.v1 import bus_pb2, message_pb2

from .hub_harness import SECOND_NS, Bench, Publisher, chunks, head, item, message, rows

KIB, MIB = 1 << 10, 1 << 20


def text(made: message_pb2.Message) -> str:
    return made.tensors[0].data.decode()


def pass_time(bench: Bench, until_ns: int) -> None:
    """Let time pass as the node's timer does: to each moment that something is due."""
    while 0 < (due_ns := bench.hub.due_ns) <= until_ns:
        bench.now_ns = max(bench.now_ns + 1, due_ns)
        bench.hub.release(bench.now_ns)
    bench.now_ns = max(bench.now_ns, until_ns)
    bench.tick()


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


def of_one_topic(bench: Bench, slow: str, *buckets: _native.Bucket) -> None:
    """Let the limits hold for one topic only."""
    resolve = bench.resolve

    def limited(topic: str) -> _native.Route:
        bench.buckets = buckets if topic == slow else ()
        return resolve(topic)

    bench.resolve = limited  # type: ignore[method-assign]


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


@pytest.mark.parametrize("seed", range(60))
def test_whatever_happens_order_holds_and_nobody_is_lost_or_doubled(seed: int) -> None:
    """Random publishers, topics, priorities, rates, waits and ends; the seed is in the name."""
    rng = random.Random(seed)
    bench = Bench(
        queue_messages_max=rng.choice([4, 8192]),
        block_ns=rng.choice([1, 5]) * SECOND_NS,
        stall_ns=1_000 * SECOND_NS,  # nobody is dropped to: what is accepted is delivered
    )
    rate, burst_s = rng.choice([5.0, 40.0]), rng.choice([0.2, 2.0])
    rates = [
        _native.Bucket("p", "p", messages_per_s=rate, burst_s=burst_s),
        _native.Bucket("b", "p", bytes_per_s=rng.choice([2_000.0, 50_000.0])),
        _native.Bucket("h", "p", held_bytes=rng.choice([3_000, 1 << 20])),
    ]
    topics = ["a", "b", "c"]
    of_topic = {topic: tuple(rng.sample(rates, rng.randint(0, 3))) for topic in topics}
    resolve = bench.resolve
    slow = seed % 3 == 0  # so that a walk over all that waits takes several slices

    def limited(topic: str) -> _native.Route:
        if slow and bench.hub.stats["parked"]:
            time.sleep(0.0003)
        bench.buckets = of_topic[topic]
        return resolve(topic)

    bench.resolve = limited  # type: ignore[method-assign]
    sub = bench.subscriber()
    mine = sub.open(">", window_messages=rng.choice([2, 1_000]))
    pubs = [bench.publisher(waits=rng.random() < 0.8) for _ in range(3)]
    sent: dict[bytes, tuple[int, str, int, int]] = {}
    number: dict[tuple[int, str, int], int] = defaultdict(int)
    outcome: dict[bytes, str] = {}
    delivered: list[bytes] = []
    taken_ns: list[int] = []
    open_ = set(range(3))

    def look() -> None:
        for pub in pubs:
            for receipt in pub.receipts():
                assert receipt.id not in outcome, "one answer each"
                outcome[receipt.id] = receipt.error.code
        for made in sub.messages():
            delivered.append(made.id)
            taken_ns.append(bench.now_ns)

    for _ in range(120):
        what = rng.random()
        if what < 0.55 and open_:
            who = rng.choice(sorted(open_))
            items = []
            for _ in range(rng.randint(1, 6)):
                topic, priority = rng.choice(topics), rng.choice([0, 0, 0, 7])
                made = message(topic, bytes(rng.randint(0, 900)), priority=priority)
                extra = rng.choice([{}, {}, {"wait_ms": rng.choice([0, 100, 3_000])}])
                key = who, topic, priority
                sent[made.id] = (*key, number[key])
                number[key] += 1
                items.append(item(made, **extra))
            if not pubs[who].stream.full:
                pubs[who].send(*items)
            else:
                for each in items:
                    del sent[each.message.id]
        elif what < 0.9:
            pass_time(bench, bench.now_ns + rng.randint(0, SECOND_NS))
        elif what < 0.95:
            look()
            if mine.in_flight:
                sub.take(mine, rng.randint(1, mine.in_flight))
        elif what < 0.97 and len(open_) > 1:
            look()
            who = rng.choice(sorted(open_))
            open_.discard(who)
            pubs[who].close()
        else:
            bench.hub.touch()
        look()
    for _ in range(200):
        look()
        if mine.in_flight:
            sub.take(mine, mine.in_flight)
        pass_time(bench, bench.now_ns + SECOND_NS // 4)
    look()
    stats = bench.hub.stats
    assert (stats["waiting"], stats["parked"], bench.hub.due_ns) == (0, 0, 0)
    assert len(delivered) == len(set(delivered)), "none twice"
    accepted = {id_ for id_, code in outcome.items() if not code}
    for id_, (who, *_) in sent.items():
        assert id_ in outcome or who not in open_, "whoever is still there was answered"
        assert (outcome.get(id_, "") == "") or id_ not in delivered, "refused: nobody got it"
    assert accepted <= set(delivered)
    last: dict[tuple[int, str, int], int] = {}
    for id_ in delivered:
        who, topic, priority, n = sent[id_]
        assert n > last.get((who, topic, priority), -1), "in order"
        last[who, topic, priority] = n
    assert set(outcome.values()) <= {"", "RATE_LIMITED", "QUOTA_EXCEEDED", "QUEUE_FULL"}
    for bucket in rates:
        assert bucket.held_bytes == 0
    bench.buckets = ()
    bench.assert_balanced()


def test_more_topics_than_a_stream_remembers_wait_and_go_on_in_parts_each_once() -> None:
    topics = 40_000  # of one frame; a stream remembers 16,384 that nothing waits at
    bench = Bench()
    bench.buckets = (_native.Bucket("slow", "p", messages_per_s=20_000),)
    sub = bench.subscriber()
    sub.open("a.*", overflow=2)
    pub = bench.publisher(waits=True)
    pub.send(*[item(message("a.first")) for _ in range(20_000)])
    pub.send(*[item(message(f"a.{n}")) for n in range(topics)])
    assert bench.hub.stats["waiting"] == topics and pub.stream.full
    bench.hub.touch()  # each is asked for anew: some us of Python each, and a release has 1 ms
    bench.resolves = 0
    bench.now_ns += SECOND_NS
    bench.hub.release(bench.now_ns)
    assert 0 < bench.resolves < topics // 4, "others have the loop before all is looked at"
    assert bench.hub.due_ns == 1, "there is more to do at once"
    for _ in range(200):  # as a timer would, every 10 ms
        while 0 < bench.hub.due_ns <= bench.now_ns:
            bench.hub.release(bench.now_ns)
        bench.now_ns += SECOND_NS // 100
    assert bench.hub.stats["waiting"] == 0
    assert [r.error.code for r in pub.receipts()] == [""] * (20_000 + topics)
    assert not pub.stream.full
    published = {row["topic"]: row["published"] for row in rows(bench.hub)}
    assert [published[f"a.{n}"] for n in range(topics)] == [1] * topics


def test_what_waits_in_vain_at_very_many_topics_is_refused_in_parts_and_each_once() -> None:
    topics = 5_000
    bench = Bench()
    bench.buckets = (_native.Bucket("slow", "p", messages_per_s=1),)
    pub = bench.publisher(waits=True)
    pub.publish("a.first")
    # Room comes within the time of each alone, but not of all.
    pub.send(*[item(message(f"a.{n}"), wait_ms=1_500) for n in range(topics)])
    assert bench.hub.stats["waiting"] == topics
    bench.tick(1.6)
    assert 0 < bench.hub.stats["waiting"] < topics, "others have the loop in between"
    while bench.hub.stats["waiting"]:
        bench.tick(0.05)
    codes = [r.error.code for r in pub.receipts()]
    assert len(codes) == topics + 1 and set(codes) == {"", "RATE_LIMITED"}
    assert not pub.stream.full
    bench.assert_balanced()


def test_very_many_topics_that_wait_for_a_subscriber_are_asked_anew_in_parts_and_in_order() -> None:
    topics = 3_000
    bench = Bench(queue_messages_max=1, block_ns=10_000 * SECOND_NS, stall_ns=10_000 * SECOND_NS)
    sub = bench.subscriber()
    mine = sub.open("a.*", window_messages=1)
    pub = bench.publisher(window_messages=4 * topics)
    pub.send(*[item(message("a.first")) for _ in range(2)])  # one is sent, one has the queue
    sub.messages()
    pub.send(*[item(message(f"a.{n}", b"1")) for n in range(topics)])
    assert bench.hub.stats["parked"] >= topics
    hurried: list[int] = []
    bench.hub.hurry = lambda: hurried.append(bench.hub.due_ns)
    bench.hub.touch()  # each is asked for anew: some us of Python each
    bench.resolves = 0
    sub.take(mine, 1)
    assert [made.topic for made in sub.messages()] == ["a.first"]
    assert 0 < bench.resolves < topics // 2, "others have the loop before all is looked at"
    assert hurried == [1] and bench.hub.due_ns == 1, "there is more to do at once"
    pub.send(*[item(message(f"a.{n}", b"2")) for n in range(0, topics, 10)])  # behind the others
    got: dict[str, list[str]] = defaultdict(list)
    while bench.hub.stats["parked"] or mine.in_flight or mine.pending:
        for made in sub.messages():
            got[made.topic].append(text(made))
        if mine.in_flight:
            sub.take(mine, mine.in_flight)
        while bench.hub.due_ns == 1:
            bench.hub.release(bench.now_ns)
    assert got == {f"a.{n}": ["1", "2"] if n % 10 == 0 else ["1"] for n in range(topics)}
    assert {r.error.code for r in pub.receipts()} == {""}
    bench.assert_balanced()


def test_very_many_messages_of_one_topic_that_may_not_be_any_more_are_refused_in_parts() -> None:
    count = 3_000
    bench = Bench(queue_messages_max=1, block_ns=10_000 * SECOND_NS, stall_ns=10_000 * SECOND_NS)
    sub = bench.subscriber()
    mine = sub.open("a", window_messages=1)
    pub = bench.publisher(window_messages=4 * count)
    pub.send(*[item(message("a")) for _ in range(2)])  # one is sent, one has the queue
    sub.messages()
    sent = [message("a") for _ in range(count)]
    pub.send(*[item(made) for made in sent])
    bench.refuse = lambda topic: sira.kernel.errors.Denied("no more")
    bench.hub.touch()
    bench.resolves = 0
    sub.take(mine, 1)
    sub.messages()
    assert 0 < bench.resolves < count // 2, "others have the loop before all is told"
    while bench.hub.due_ns == 1:
        bench.hub.release(bench.now_ns)
    answers = pub.receipts()[2:]
    assert [r.id for r in answers] == [made.id for made in sent]
    assert {r.error.code for r in answers} == {"DENIED"} and not pub.stream.full
    sub.take(mine, 1)
    bench.assert_balanced()
