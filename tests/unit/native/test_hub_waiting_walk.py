"""Any sequence of messages, rates, waits and ends: order holds, and nobody is lost or doubled."""

from __future__ import annotations

import random
import time
from collections import defaultdict

import pytest

from sira import _native

from .hub_harness import SECOND_NS, Bench, item, message
from .waiting_harness import pass_time


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
