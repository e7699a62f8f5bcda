"""A random walk over the life of routes: nothing is lost, nothing comes twice, and order holds.

The node and its readers are a model: frames come up and records go down in order, each at a random
moment. A reader is told of a cell between the messages that the node passes on, as a Subscribe
stream does; what is in the cell belongs there. SIRA_TEST_SEED takes a failure's seed back.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict, deque
from collections.abc import Callable

from sira import _native
from sira.kernel.errors import QueueFull

from .client_harness import LATER_NS, frame, items_of, receipt
from .route_harness import Link, Routed

PHASES, STEPS = 120, 150
READERS = 2
WORDS = 16

Cell = tuple[Link, int]


def id_of(number: int) -> bytes:
    return (number + 1).to_bytes(8, "big") + b"walkwalk"


def number_of(message_id: bytes) -> int:
    return int.from_bytes(message_id[:8], "big") - 1


class Reader:
    """One subscriber: what the node passed on to it, and the cells among that."""

    def __init__(self) -> None:
        self.link = Link(slots=32, holds=16, cells=64)
        self.cells: list[Cell] = []
        self.came: dict[Cell, list[int]] = defaultdict(list)
        self.down: dict[str, list[int | Cell]] = defaultdict(list)

    def open(self) -> Cell:
        if self.link.next_cell == 64:
            self.link = Link(slots=32, holds=16, cells=64)
        cell = (self.link, self.link.cell())
        self.cells.append(cell)
        return cell

    def take(self, rng: random.Random, count: int) -> None:
        for _ in range(count):
            cell = rng.choice(self.cells[-8:]) if self.cells else None
            if cell is not None and (got := cell[0].take(cell[1])) is not None:
                self.came[cell].append(number_of(bytes.fromhex(got.id.replace("-", ""))))

    def drain(self) -> None:
        for link, cell in self.cells:
            while (got := link.take(cell)) is not None:
                self.came[link, cell].append(number_of(bytes.fromhex(got.id.replace("-", ""))))

    def heard(self, topic: str) -> list[int]:
        """All numbers of a topic in the order of the ways."""
        found: list[int] = []
        for each in self.down[topic]:
            found.extend(self.came[each] if isinstance(each, tuple) else [each])
        return found


class Walk:
    """The publisher, its node and the readers, and what each step may do."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.routed = Routed()
        self.outbox = self.routed.outbox
        self.readers = [Reader() for _ in range(READERS)]
        self.topics: list[str] = []
        self.sent: dict[str, list[int]] = defaultdict(list)
        self.priorities: dict[int, int] = {}
        self.up: deque[bytes] = deque()
        self.asks: list[tuple[int, str]] = []  # the node has heard them
        self.records: deque[Callable[[], None]] = deque()  # on their way down
        self.granted: set[int] = set()  # by the node, neither left nor given back
        self.seen: set[int] = set()  # by the node
        self.values: dict[str, int] = {}  # of the words that grants came with
        self.number = 0
        self.counts: dict[str, int] = defaultdict(int)

    # ---- the publisher ---------------------------------------------------------------------------

    def send(self) -> None:
        topic = self.rng.choice(self.topics)
        if self.outbox.asking(topic) and self.rng.random() < 0.9:
            return
        number, self.number = self.number, self.number + 1
        priority = self.rng.choice((0, 0, 4))
        quiet = self.rng.random() < 0.2
        options = _native.Options(id=id_of(number), priority=priority, quiet=quiet)
        body = b"x" * self.rng.choice((0, 100, 100, 300, 500, 3000))
        past = self.outbox.posted
        if not quiet and self.rng.random() < 0.97 and self.outbox.direct(topic, body, options):
            assert self.outbox.posted == past + 1
        else:
            if self.outbox.blocked(topic) is not None and self.rng.random() < 0.8:
                return  # it waits, and will be another message
            try:
                self.outbox.push(topic, body, options)
            except QueueFull:
                return
        self.counts["direct" if self.outbox.posted > past else "node"] += 1
        if self.outbox.posted > past:
            assert self.values[topic] == self.routed.page.shown.word(hash_of(topic))
        self.sent[topic].append(number)
        self.priorities[number] = priority

    def write(self) -> None:
        if (encoded := self.outbox.take(LATER_NS)) is not None:
            self.up.append(encoded)

    def hear(self) -> None:
        if self.records:
            self.records.popleft()()

    # ---- the node --------------------------------------------------------------------------------

    def feed(self) -> None:
        if not self.up:
            return
        for item in items_of([self.up.popleft()]):
            kind = item.WhichOneof("kind")
            if kind == "ask":
                self.asks.append((item.ask.ask, item.ask.topic))
            elif kind == "message":
                self.post(item.message.id, item.message.topic, item.quiet)
            elif kind == "head":
                assert item.head.tensors
                self.post(item.head.id, item.head.topic, item.quiet)
            elif item.chunk.HasField("lent"):
                self.outbox.returned([item.chunk.lent.lease])

    def post(self, message_id: bytes, topic: str, quiet: bool) -> None:
        number = number_of(message_id)
        if number not in self.seen:
            self.seen.add(number)
            for reader in self.readers:
                reader.down[topic].append(number)
        if not quiet:
            self.outbox.feed(frame(receipt(message_id)))

    def answer(self) -> None:
        if not self.asks:
            return
        ask, topic = self.asks.pop(self.rng.randrange(len(self.asks)))
        word = hash_of(topic)
        page, value = self.routed.page.shown, self.routed.page.shown.word(word)
        if self.rng.random() < 0.1:
            self.counts["refused"] += 1
            again_ms = self.rng.choice((0, 1))
            self.records.append(lambda: self.outbox.refuse(ask, page, word, value, again_ms))
            return
        targets = []
        for reader in self.readers:
            link, cell = reader.open()
            link.introduce(self.routed.lending.arena)
            reader.down[topic].append((link, cell))
            targets.append((link.writer, cell, self.rng.randrange(1, 40), 1 << 20))
        segments = [segment for segment, _, _ in self.routed.lending.arena.segments()]
        self.granted.add(ask)

        def granted() -> None:
            if not self.outbox.route(ask, page, word, value, targets, segments, READERS):
                self.counts["void"] += 1
                self.granted.remove(ask)
            else:
                self.values[topic] = value

        self.records.append(granted)

    def told(self) -> None:
        for ask in self.outbox.asked_ended():
            self.granted.remove(ask)  # once, and only what was granted

    def move(self) -> None:
        self.routed.page.move(self.rng.randrange(WORDS))

    def read(self) -> None:
        self.rng.choice(self.readers).take(self.rng, self.rng.randrange(1, 30))

    def lose(self) -> None:
        """The connection: what is on its way is not; the next node begins anew."""
        if self.rng.random() > 0.05:
            return
        self.counts["lost"] += 1
        self.told()
        # A message of the lost frames that is not repeated was a quiet one: nobody has it.
        lost = {
            number_of(each.message.id or each.head.id)
            for each in (item for encoded in self.up for item in items_of([encoded]))
            if each.quiet and each.WhichOneof("kind") == "message"
        }
        for numbers in self.sent.values():
            numbers[:] = [each for each in numbers if each not in lost]
        self.up.clear()
        self.records.clear()
        self.asks.clear()
        self.outbox.rewind()
        for _ in range(self.rng.randrange(5)):  # links go on by themselves
            self.send()
        self.outbox.links = False
        self.outbox.links = True
        self.outbox.lends = True
        self.granted.clear()

    # ---- all of it -------------------------------------------------------------------------------

    def phase(self, at: int) -> None:
        self.topics = [f"lab.{at}.{i}" for i in range(3)]
        steps = (
            [self.send] * self.rng.choice((4, 12))
            + [self.write] * 4
            + [self.feed] * 4
            + [self.answer] * 2
            + [self.hear] * 2
            + [self.read] * self.rng.choice((1, 4))
            + [self.told, self.move, self.lose][: self.rng.choice((1, 2, 3))]
        )
        for _ in range(STEPS):
            self.rng.choice(steps)()

    def finish(self) -> None:
        while True:
            self.write()
            if not self.up and not self.outbox.ready:
                break
            while self.up:
                self.feed()
        while self.records:
            self.hear()
        self.told()
        assert len(self.granted) == self.outbox.routes_live
        for reader in self.readers:
            reader.drain()


def hash_of(topic: str) -> int:
    return sum(topic.encode()) % WORDS


def test_nothing_is_lost_or_comes_twice_and_order_holds_over_all_ways() -> None:
    seed = int(os.environ.get("SIRA_TEST_SEED") or random.randrange(1 << 32))
    print(f"SIRA_TEST_SEED={seed}")
    walk = Walk(random.Random(seed))
    for at in range(PHASES):
        walk.phase(at)
    walk.finish()
    for topic, numbers in walk.sent.items():
        for reader in walk.readers:
            heard = reader.heard(topic)
            assert sorted(heard) == numbers
            for priority in (0, 4):
                some = [each for each in heard if walk.priorities[each] == priority]
                assert some == sorted(some), (topic, priority)
    print(dict(walk.counts), walk.outbox.routes_granted)
    # It went where it was meant to go.
    assert min(walk.counts[each] for each in ("direct", "node", "refused", "lost", "void")) > 0
    assert walk.outbox.routes_granted > PHASES // 4
