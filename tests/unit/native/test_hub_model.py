"""Any sequence of events leaves the books balanced and every delivery whole, in order, and once:
seeded walks through all that can happen, also from inside the callbacks.
"""

from __future__ import annotations

import functools
import gc
import os
import random
import time
from collections.abc import Iterator

import pytest

from sira import _native
from sira.kernel.errors import Denied, RateLimited, SiraError
from sira.v1 import bus_pb2, message_pb2

from .hub_harness import Bench, Publisher, Subscriber, chunks, head, item, message, rows
from .hub_reader import Reader, Sent
from .lent_harness import Borrower, Memory, lent_chunk

# Fresh at each run, and the same in all its workers (tests/conftest.py).
FRESH = random.Random(os.environ["SIRA_RUN_SEED"])
SEEDS = [int(s) for s in os.environ.get("SIRA_SEED", "").split(",") if s] or [
    FRESH.randrange(1 << 32) for _ in range(30)
]
TOPICS = ("a", "a.b", "a.c", "state", "own.1", "own.2")
PATTERNS = (*TOPICS, "a.*", ">", "own.*")


class Walk:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.bench = Bench(
            queue_messages_max=6,
            queue_bytes_max=40_000,
            transfer_window_bytes=4_000,
            transfers_per_stream_max=12,
        )
        self.bench.hub.declare("state", retain=True)
        self.bench.refuse = self.inside_resolve
        self.bench.admit = self.inside_admit
        # Refuses nothing: what it holds must be given back, whatever happens.
        self.bench.buckets = (_native.Bucket("held", "all", held_bytes=1 << 40),)
        self.publishers: list[Publisher] = []
        self.subscribers: list[Subscriber] = []
        self.transfers: list[tuple[Publisher, list[bytes]]] = []
        self.groups = [_native.Group("g1"), _native.Group("g2")]
        self.memory = Memory(30_000, 1_000)
        self.lent: set[int] = set()  # leases that the node was told
        self.borrowers: dict[Subscriber, Borrower] = {}
        self.sent: dict[bytes, Sent] = {}
        self.readers: dict[Subscriber, Reader] = {}
        self.unordered: dict[Subscriber, set[int]] = {}
        self.feeding: list[Publisher] = []
        self.writing: list[Subscriber] = []
        self.number: dict[Publisher, int] = {}
        self.sequence = 0
        self.withheld = 0  # deliveries
        # Deliveries that wait on links, past the node, of each topic; the last ones of a topic that
        # was dropped are settled as its own, too.
        self.on_links: dict[_native.HubTopic, int] = {}
        self.passed = 0  # deliveries over links
        self.asks = 0

    def step(self) -> None:
        actions = {
            self.publish: 30, self.begin: 6, self.chunk: 20, self.write: 25, self.take: 20,
            self.read: 10, self.subscribe: 4, self.unsubscribe: 2, self.connect: 2,
            self.kill_subscriber: 1, self.kill_publisher: 1, self.tick: 6, self.redeclare: 1,
            self.give_up: 1, self.bad_chunk: 1, self.withhold: 2, self.give_back: 10,
            self.pass_by: 10, self.settle: 10, self.ask: 10,
        }  # fmt: skip
        self.random.choices(list(actions), list(actions.values()))[0]()

    # ---- from inside the data plane ----------------------------------------------------------

    def inside_resolve(self, topic: str) -> Exception | None:
        draw = self.random.random()
        if self.random.random() < 0.03:
            time.sleep(0.0003)  # a walk over all that waits goes on in another slice
        if draw < 0.02:
            return Denied("by the walk")
        if draw < 0.10:
            actions = (
                self.publish, self.begin, self.chunk, self.write, self.take, self.read,
                self.unsubscribe, self.kill_subscriber, self.tick, self.redeclare, self.withhold,
            )  # fmt: skip
            self.random.choice(actions)()
        elif draw < 0.103:
            self.kill_publisher()
        return None

    def inside_admit(self, messages: int, bytes_: int) -> None:
        draw = self.random.random()
        if draw < 0.02:
            raise RateLimited("by the walk")
        if draw < 0.03:
            self.random.choice((self.write, self.take, self.unsubscribe, self.redeclare))()

    def in_wake(self) -> None:
        if self.random.random() < 0.003:
            self.random.choice((self.kill_subscriber, self.kill_publisher, self.take))()

    # ---- publishers --------------------------------------------------------------------------

    def feed(self, publisher: Publisher, frame: bytes) -> bool:
        """False: not taken, because the node called us while it worked on this very stream."""
        self.feeding.append(publisher)
        try:
            publisher.stream.feed(frame, self.bench.now_ns)
        except SiraError as error:
            assert error.code == "INTERNAL", error
            return False
        finally:
            self.feeding.remove(publisher)
        return True

    def publisher(self) -> Publisher | None:
        free = [p for p in self.publishers if p not in self.feeding]
        deep = len(self.feeding) > 2  # as deep as the node lets a publish in a publish go
        return self.random.choice(free) if free and not deep else None

    def subscriber(self) -> Subscriber | None:
        return self.random.choice(self.subscribers) if self.subscribers else None

    def fields(self) -> dict[str, int]:
        rng = self.random
        ttl_ns = rng.choice([0, 0, 0, 50_000_000, 2_000_000_000])
        return {"priority": rng.choice([0, 0, 0, 3, 7]), "ttl_ns": ttl_ns}

    def item_fields(self) -> dict[str, object]:
        return self.random.choice([{}, {}, {"wait_ms": 0}, {"wait_ms": 300}, {"quiet": True}])

    def remember(self, publisher: Publisher, made: message_pb2.Message, *, quiet: bool) -> None:
        number = self.number.setdefault(publisher, len(self.number))
        self.sequence += 1
        self.sent[made.id] = Sent(number, self.sequence, made, quiet)

    def publish(self) -> None:
        if publisher := self.publisher():
            size = self.random.choice([0, 1, 100, 5_000, 20_000])
            made = message(self.random.choice(TOPICS), self.random.randbytes(size), **self.fields())
            options = self.item_fields()
            self.remember(publisher, made, quiet="quiet" in options)
            frame = bus_pb2.Frame(items=[item(made, **options)]).SerializeToString()
            if not self.feed(publisher, frame):
                del self.sent[made.id]

    def begin(self) -> None:
        if publisher := self.publisher():
            sizes = [
                self.random.choice([0, 1, 3_000, 30_000]) for _ in range(self.random.randint(1, 3))
            ]
            made = head(self.random.choice(TOPICS), sizes, **self.fields())
            options = self.item_fields()
            self.remember(publisher, made, quiet="quiet" in options)
            frame = bus_pb2.Frame(items=[bus_pb2.Item(head=made, **options)])
            if not self.feed(publisher, frame.SerializeToString()):
                del self.sent[made.id]
            elif publisher in self.publishers:
                self.transfers.append((publisher, list(self.parts(made))))

    def parts(self, made: message_pb2.Message) -> Iterator[bytes]:
        """Chunks of a message; some of its tensors by name."""
        lends = self.random.random() < 0.4
        for index, tensor in enumerate(made.tensors):
            if lends and tensor.data_bytes and self.memory.has_room and self.random.random() < 0.8:
                yield lent_chunk(self.memory, made, index)
            else:
                yield from chunks(made, 1_000, index)

    def lender(
        self, segment: int, offset: int, size: int, lease: int, topic: str | None
    ) -> _native.ShmSpan:
        draw = self.random.random()
        span = self.memory.lender(segment, offset, size, lease, topic)
        self.lent.add(lease)
        if draw < 0.02:
            raise Denied("by the walk")
        if draw < 0.05:
            self.random.choice((self.publish, self.write, self.unsubscribe, self.withhold))()
        elif draw < 0.055:
            self.kill_publisher()
        return span

    def lend(self, subscriber: Subscriber, span: _native.ShmSpan) -> int:
        return self.borrowers[subscriber].lend(span) if self.random.random() < 0.8 else 0

    def give_back(self) -> None:
        """Subscribers let go of what they have read; the publisher uses that memory again."""
        if subscriber := self.subscriber():
            held, read = self.borrowers[subscriber].spans, self.readers[subscriber].read_leases
            for lease in self.random.sample(sorted(read), len(read) // 2):
                read.remove(lease)
                del held[lease]
        for subscriber, borrower in self.borrowers.items():
            if subscriber not in self.subscribers and subscriber not in self.writing:
                borrower.spans.clear()  # as a session does that ends
        self.memory.take_back()

    def transfer(self) -> tuple[Publisher, list[bytes]] | None:
        free = [t for t in self.transfers if t[1] and t[0] not in self.feeding]
        return self.random.choice(free) if free else None

    def chunk(self) -> None:
        if entry := self.transfer():
            publisher, parts = entry
            for _ in range(self.random.randint(1, 10)):
                if not parts or publisher not in self.publishers:
                    break
                if not self.feed(publisher, parts[0]):
                    break
                parts.pop(0)

    def bad_chunk(self) -> None:
        """The next chunk is left out: what comes then does not fit, and the rest is nobody's."""
        if (entry := self.transfer()) and len(entry[1]) > 1:
            publisher, parts = entry
            parts.pop(0)
            self.feed(publisher, parts.pop(0))

    def give_up(self) -> None:
        if entry := self.transfer():
            publisher, parts = entry
            made = bus_pb2.Frame.FromString(parts[0]).items[0].chunk
            abort = bus_pb2.Item(abort=bus_pb2.Abort(message_id=made.message_id))
            if self.feed(publisher, bus_pb2.Frame(items=[abort]).SerializeToString()):
                parts.clear()

    def read(self) -> None:
        if publisher := self.publisher():
            self.read_all(publisher)

    def read_all(self, publisher: Publisher) -> int:
        items = publisher.answers()
        for receipt in (i.receipt for i in items if i.HasField("receipt")):
            sent = self.sent[receipt.id]
            assert sent.publisher == self.number[publisher]
            sent.answers.append(receipt.error.code)
            assert len(sent.answers) == 1, "answered twice"
            assert not (sent.quiet and not receipt.error.code), "a quiet message was answered"
        return len(items)

    # ---- past the node -----------------------------------------------------------------------

    def pass_by(self) -> None:
        """Messages went over links, and the books are told so."""
        topic = self.bench.hub.topic(self.random.choice(TOPICS))
        if topic is None:
            return
        owed, delivered = self.random.randint(0, 9), self.random.randint(0, 9)
        self.bench.hub.account(
            topic, published=1, owed=owed + delivered, delivered=delivered, pending=owed,
            now_ns=self.bench.now_ns,
        )  # fmt: skip
        self.on_links[topic] = self.on_links.get(topic, 0) + owed
        self.passed += delivered

    def settle(self, *, all_of_it: bool = False) -> None:
        """What was on links was taken, or will not be."""
        for topic in list(self.on_links):
            count = self.on_links[topic] if all_of_it else self.random.randint(0, 12)
            if count > self.on_links[topic]:
                with pytest.raises(ValueError, match="on links"):
                    self.bench.hub.account(topic, delivered=2**40, pending=-(2**40))
                continue
            lost = self.random.randint(0, count)
            self.bench.hub.account(
                topic, pending=-count, delivered=count - lost, dropped={"PEER_LOST": lost}
            )
            self.passed += count - lost
            self.on_links[topic] -= count
            if not self.on_links[topic]:
                del self.on_links[topic]

    def ask(self) -> None:
        """A publisher would have a route: where it begins, nothing older may come any more."""
        if publisher := self.publisher():
            publisher.stream.asked = functools.partial(self.asked, publisher)
            self.asks += 1
            question = bus_pb2.RouteAsk(ask=self.asks, topic=self.random.choice(TOPICS))
            frame = bus_pb2.Frame(items=[bus_pb2.Item(ask=question)]).SerializeToString()
            if not self.feed(publisher, frame):
                self.asks -= 1

    def asked(self, publisher: Publisher, number: int, topic: str) -> None:
        assert number == self.asks
        if topic == "state" or publisher not in self.number or publisher.stream.waits(topic):
            return  # what is kept of a topic is given to new subscriptions
        for subscriber in self.subscribers:
            if subscriber in self.writing:
                continue
            for sub in subscriber.mine:
                if sub.group is None and sub.idle:
                    route = (sub.subscription, self.number[publisher], topic)
                    self.readers[subscriber].begun[route] = self.sequence

    # ---- subscribers -------------------------------------------------------------------------

    def write(self) -> None:
        if subscriber := self.subscriber():
            for _ in range(self.random.randint(1, 5)):
                if not self.write_one(subscriber):
                    return

    def write_one(self, subscriber: Subscriber) -> bool:
        if subscriber in self.writing:
            return False  # we are inside its next_frame(): what that gives goes first
        self.writing.append(subscriber)
        frame = subscriber.stream.next_frame(self.bench.now_ns)
        self.writing.remove(subscriber)
        if frame is not None:
            self.readers[subscriber].read(frame)
        return frame is not None

    def take(self) -> None:
        if subscriber := self.subscriber():
            for sub in self.random.sample(subscriber.mine, min(1, len(subscriber.mine))):
                subscriber.take(sub, self.random.randint(0, sub.in_flight))

    def subscribe(self) -> None:
        if subscriber := self.subscriber():
            sub = subscriber.open(
                self.random.choice(PATTERNS),
                group=self.random.choice([None, None, *self.groups]),
                overflow=self.random.choice([1, 1, 2, 3]),
                window_messages=self.random.choice([1, 2, 50]),
            )
            subscriber.mine.append(sub)
            if sub.group:
                self.unordered[subscriber].add(sub.subscription)
            state = self.bench.hub.topic("state")
            if state and sub.group is None and _native.topic_match(sub.pattern, "state"):
                sub.deliver_retained(state, self.bench.now_ns)

    def unsubscribe(self) -> None:
        if (subscriber := self.subscriber()) and subscriber.mine:
            sub = self.random.choice(subscriber.mine)
            subscriber.mine.remove(sub)
            subscriber.close_sub(sub)

    def withhold(self) -> None:
        """What waits of some topics is taken from a subscription, as when its rights shrink."""
        if (subscriber := self.subscriber()) and subscriber.mine:
            sub = self.random.choice(subscriber.mine)
            waiting = sorted(sub.waiting_topics())
            assert waiting or not sub.pending
            names = set(self.random.sample(waiting, self.random.randint(0, len(waiting))))
            dropped = sub.withhold(names, self.bench.now_ns)  # may call us again
            self.withheld += dropped

    def connect(self) -> None:
        if len(self.publishers) < 4:
            made = self.bench.publisher(
                window_messages=20, window_bytes=100_000, on_wake=self.in_wake
            )
            made.stream.drained = self.in_wake
            made.stream.lender = self.lender
            self.publishers.append(made)
        if len(self.subscribers) < 4:
            subscriber = self.bench.subscriber(on_wake=self.in_wake)
            self.subscribers.append(subscriber)
            self.unordered[subscriber] = set()
            borrower = self.borrowers[subscriber] = Borrower()
            self.readers[subscriber] = Reader(self.sent, self.unordered[subscriber], borrower.spans)
            if self.random.random() < 0.7:
                subscriber.stream.lend = functools.partial(self.lend, subscriber)

    def kill_subscriber(self) -> None:
        if subscriber := self.subscriber():
            self.subscribers.remove(subscriber)
            subscriber.close()

    def kill_publisher(self) -> None:
        if self.publishers:
            publisher = self.random.choice(self.publishers)  # also one that is being fed
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
        self.bench.refuse = lambda topic: None
        self.in_wake = lambda: None  # type: ignore[method-assign]
        self.random.random = lambda: 1.0  # type: ignore[method-assign]  # no more mischief
        for publisher, parts in self.transfers:
            for part in parts:
                self.feed(publisher, part)
        for _ in range(1000):
            moved = 0
            self.bench.tick()
            for subscriber in self.subscribers:
                while self.write_one(subscriber):
                    moved += 1
                for sub in subscriber.mine:
                    moved += sub.in_flight
                    subscriber.take(sub, sub.in_flight)
            for publisher in self.publishers:
                moved += self.read_all(publisher)
            if not moved:
                break
        alive = {self.number[p] for p in self.publishers if p in self.number}
        for sent in self.sent.values():
            assert sent.publisher not in alive or sent.quiet or len(sent.answers) == 1, sent
            assert not (sent.delivered and any(sent.answers)), "refused and delivered"
        self.settle(all_of_it=True)
        self.bench.assert_balanced()
        assert self.bench.hub.stats["deliveries_direct"] == self.passed
        assert sum(row["pending"] for row in rows(self.bench.hub)) == 0
        assert all(p.stream.parked == 0 and p.stream.unanswered == 0 for p in self.publishers)
        stats = self.bench.hub.stats
        retained = sum(1 for topic in self.bench.hub.topics() if topic.has_retained)
        assert stats["messages_held"] == retained, stats
        self.bench.hub.drop("state")
        stats = self.bench.hub.stats
        held = (stats["messages_held"], stats["message_bytes_held"], stats["chunk_bytes_held"])
        assert held == (0, 0, 0) and stats["transfers"] == 0, stats
        for borrower in self.borrowers.values():
            borrower.spans.clear()
        self.memory.take_back()
        assert not self.memory.leases & self.lent, "memory that nobody looks at has not come back"


def walk_through(seed: int, steps: int) -> None:
    print(f"SIRA_SEED={seed}")
    walk = Walk(seed)
    walk.connect()
    for _ in range(steps):
        walk.step()
        walk.bench.assert_balanced()
        revoked = sum(row["dropped"].get("REVOKED", 0) for row in rows(walk.bench.hub))
        assert revoked == walk.withheld, "each delivery that was withheld is counted once"
    walk.finish()
    assert sum(reader.whole for reader in walk.readers.values()) or steps < 10_000
    walk.bench.hub.close()
    gc.collect()


@pytest.mark.parametrize("seed", SEEDS)
def test_every_walk_ends_balanced_with_nothing_held(seed: int) -> None:
    walk_through(seed, 600)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", SEEDS[:1])
def test_a_long_walk_ends_balanced_with_nothing_held(seed: int) -> None:
    walk_through(seed, 200_000)
