"""Any sequence of events leaves the books balanced: seeded walks through all that can happen."""

from __future__ import annotations

import gc
import os
import random

import pytest

from sira import _native
from sira.v1 import bus_pb2

from .hub_harness import Bench, Publisher, Subscriber, chunks, head, item, message

SEEDS = [int(s) for s in os.environ.get("SIRA_SEED", "").split(",") if s] or [
    random.SystemRandom().randrange(1 << 32) for _ in range(30)
]
TOPICS = ("a", "a.b", "a.c", "state", "own.1", "own.2")
PATTERNS = (*TOPICS, "a.*", ">", "own.*")


class Walk:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.bench = Bench(
            queue_messages_max=6, queue_bytes_max=40_000, transfer_window_bytes=4_000
        )
        self.bench.hub.declare("state", retain=True)
        self.publishers: list[Publisher] = []
        self.subscribers: list[Subscriber] = []
        self.transfers: list[tuple[Publisher, list[bytes]]] = []
        self.groups = [_native.Group("g1"), _native.Group("g2")]
        self.sent = self.answered = 0

    def step(self) -> None:
        actions = {
            self.publish: 30, self.begin: 6, self.chunk: 20, self.write: 25, self.take: 20,
            self.read: 10, self.subscribe: 4, self.unsubscribe: 2, self.connect: 2,
            self.kill_subscriber: 1, self.kill_publisher: 1, self.tick: 6, self.redeclare: 1,
            self.give_up: 1,
        }  # fmt: skip
        self.random.choices(list(actions), list(actions.values()))[0]()

    def publisher(self) -> Publisher | None:
        return self.random.choice(self.publishers) if self.publishers else None

    def subscriber(self) -> Subscriber | None:
        return self.random.choice(self.subscribers) if self.subscribers else None

    def fields(self) -> dict[str, int]:
        rng = self.random
        ttl_ns = rng.choice([0, 0, 0, 50_000_000, 2_000_000_000])
        return {"priority": rng.choice([0, 0, 0, 3, 7]), "ttl_ns": ttl_ns}

    def item_fields(self) -> dict[str, object]:
        return self.random.choice([{}, {}, {"wait_ms": 0}, {"wait_ms": 300}, {"quiet": True}])

    def publish(self) -> None:
        if publisher := self.publisher():
            size = self.random.choice([0, 1, 100, 5_000, 20_000])
            made = message(self.random.choice(TOPICS), b"p" * size, **self.fields())
            publisher.send(item(made, **self.item_fields()))

    def begin(self) -> None:
        if publisher := self.publisher():
            sizes = [
                self.random.choice([0, 1, 3_000, 30_000]) for _ in range(self.random.randint(1, 3))
            ]
            made = head(self.random.choice(TOPICS), sizes, **self.fields())
            publisher.send(bus_pb2.Item(head=made, **self.item_fields()))
            self.transfers.append((publisher, list(chunks(made, 1_000))))

    def chunk(self) -> None:
        if self.transfers:
            publisher, parts = entry = self.random.choice(self.transfers)
            for _ in range(min(len(parts), self.random.randint(1, 10))):
                publisher.stream.feed(parts.pop(0), self.bench.now_ns)
            if not parts:
                self.transfers.remove(entry)

    def give_up(self) -> None:
        if self.transfers:
            publisher, parts = entry = self.random.choice(self.transfers)
            self.transfers.remove(entry)
            if parts:
                made = bus_pb2.Frame.FromString(parts[0]).items[0].chunk
                abort = bus_pb2.Abort(message_id=made.message_id)
                publisher.send(bus_pb2.Item(abort=abort))

    def write(self) -> None:
        if subscriber := self.subscriber():
            for _ in range(self.random.randint(1, 5)):
                if subscriber.stream.next_frame(self.bench.now_ns) is None:
                    return

    def take(self) -> None:
        if self.bench.subs:
            sub = self.random.choice(self.bench.subs)
            for subscriber in self.subscribers:
                if subscriber.stream is not None and not sub.closed and sub in subscriber.mine:
                    subscriber.take(sub, self.random.randint(0, sub.in_flight))

    def read(self) -> None:
        if publisher := self.publisher():
            publisher.receipts()

    def subscribe(self) -> None:
        if subscriber := self.subscriber():
            sub = subscriber.open(
                self.random.choice(PATTERNS),
                group=self.random.choice([None, None, *self.groups]),
                overflow=self.random.choice([1, 1, 2, 3]),
                window_messages=self.random.choice([1, 2, 50]),
            )
            subscriber.mine.append(sub)
            state = self.bench.hub.topic("state")
            if state and sub.group is None and _native.topic_match(sub.pattern, "state"):
                sub.deliver_retained(state, self.bench.now_ns)

    def unsubscribe(self) -> None:
        if (subscriber := self.subscriber()) and subscriber.mine:
            sub = self.random.choice(subscriber.mine)
            subscriber.mine.remove(sub)
            subscriber.close_sub(sub)

    def connect(self) -> None:
        if len(self.publishers) < 4:
            self.publishers.append(self.bench.publisher(window_messages=20, window_bytes=100_000))
        if len(self.subscribers) < 4:
            subscriber = self.bench.subscriber()
            subscriber.mine = []
            self.subscribers.append(subscriber)

    def kill_subscriber(self) -> None:
        if subscriber := self.subscriber():
            self.subscribers.remove(subscriber)
            subscriber.close()

    def kill_publisher(self) -> None:
        if publisher := self.publisher():
            self.publishers.remove(publisher)
            self.transfers = [t for t in self.transfers if t[0] is not publisher]
            publisher.close()

    def tick(self) -> None:
        self.bench.tick(self.random.choice([0.01, 0.1, 1, 6, 15]))

    def redeclare(self) -> None:
        name = self.random.choice(("own.1", "own.2", "state"))
        self.bench.hub.drop(name)
        self.bench.hub.declare(name, retain=name == "state", group="own")

    def finish(self) -> None:
        """Everyone reads and confirms until nothing moves: then nothing may be pending or held."""
        for publisher, parts in self.transfers:
            for part in parts:
                publisher.stream.feed(part, self.bench.now_ns)
        for _ in range(1000):
            moved = 0
            for subscriber in self.subscribers:
                moved += sum(1 for _ in subscriber.frames())
                for sub in subscriber.mine:
                    moved += sub.in_flight
                    if sub.in_flight:
                        subscriber.take(sub, sub.in_flight)
            for publisher in self.publishers:
                moved += len(publisher.answers())
            if not moved:
                break
        self.bench.assert_balanced()
        assert sum(row["pending"] for row in self.bench.hub.ledger()) == 0
        assert all(p.stream.parked == 0 and p.stream.unanswered == 0 for p in self.publishers)
        stats = self.bench.hub.stats
        retained = sum(1 for topic in self.bench.hub.topics() if topic.has_retained)
        assert stats["messages_held"] == retained, stats
        self.bench.hub.drop("state")
        stats = self.bench.hub.stats
        held = (stats["messages_held"], stats["message_bytes_held"], stats["chunk_bytes_held"])
        assert held == (0, 0, 0) and stats["transfers"] == 0, stats


@pytest.mark.parametrize("seed", SEEDS)
def test_every_walk_ends_balanced_with_nothing_held(seed: int) -> None:
    print(f"SIRA_SEED={seed}")
    walk = Walk(seed)
    walk.connect()
    for _ in range(600):
        walk.step()
        walk.bench.assert_balanced()
    walk.finish()
    walk.bench.hub.close()
    gc.collect()
