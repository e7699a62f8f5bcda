"""Very much that waits: gone through in parts, each message once, and others have the loop."""

from __future__ import annotations

from collections import defaultdict

import sira.kernel.errors
from sira import _native

from .hub_harness import SECOND_NS, Bench, item, message, rows
from .waiting_harness import text


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
