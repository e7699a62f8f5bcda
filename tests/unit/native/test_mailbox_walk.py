"""A seeded random walk of publishers that change between the node and links: order holds."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest

from sira import _native
from sira.v1 import bus_pb2

from .client_harness import Box, chunk_item, frame, head, head_item, inline_item, message
from .link_harness import Link, cell_end, cell_open

TOPICS = ["lab.a", "lab.b"]
SUBSCRIPTIONS = [1, 2]
PRIORITIES = [0, 3, 7]
STEPS = 3000
PUBLISHERS = 3
LINKS_EACH = 2  # as when one runs out of cells
Cell = tuple[int, int]  # link and cell


class Walk:
    """Three publishers, one node's stream that is fed late, two subscriptions that match all.

    A publisher that changes to its link does so as the node grants it: CellOpen stands in the
    stream behind all that it had sent, and it may post at once, before anybody has read that.
    """

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.inbox = _native.Inbox()
        self.boxes = [Box() for _ in SUBSCRIPTIONS]
        for subscription, box in zip(SUBSCRIPTIONS, self.boxes, strict=True):
            self.inbox.attach(subscription, box)
        self.links = [Link(slots=64, cells=1024) for _ in range(PUBLISHERS * LINKS_EACH)]
        for number, link in enumerate(self.links):
            self.inbox.link(number, link.reader)
        self.unused: list[list[Cell]] = []  # of each publisher, in any order
        for publisher in range(PUBLISHERS):
            links = range(publisher * LINKS_EACH, (publisher + 1) * LINKS_EACH)
            self.unused.append([(link, cell) for link in links for cell in range(1024)])
            self.dice.shuffle(self.unused[-1])
        self.stream: list[bus_pb2.Item] = []
        self.unsent: dict[int, list[bus_pb2.Item]] = {}  # publisher: chunks of a large message
        self.routes: dict[tuple[int, str], list[Cell]] = {}  # of (publisher, topic): their cells
        self.left: list[Cell] = []  # posted into no more
        self.sent: dict[tuple[str, str, int], int] = defaultdict(int)
        self.got: list[dict[tuple[str, str, int], list[int]]] = [
            defaultdict(list) for _ in SUBSCRIPTIONS
        ]

    def next_of(self, publisher: int, topic: str, priority: int) -> tuple[str, dict[str, object]]:
        key = f"p{publisher}", topic, priority
        self.sent[key] += 1
        return str(self.sent[key]), {"source": key[0], "topic": topic, "priority": priority}

    def publish(self) -> None:
        publisher, topic = self.dice.randrange(PUBLISHERS), self.dice.choice(TOPICS)
        if publisher in self.unsent:  # a transfer is under way: its chunks go on, others wait
            self.stream.append(self.unsent[publisher].pop(0))
            if not self.unsent[publisher]:
                del self.unsent[publisher]
            return
        cells = self.routes.get((publisher, topic))
        if cells and self.dice.random() < 0.8 and self.post(publisher, topic, cells):
            return
        self.left += self.routes.pop((publisher, topic), [])
        self.send(publisher, topic)

    def post(self, publisher: int, topic: str, cells: list[Cell]) -> bool:
        """Post to every subscription, if each has room."""
        priority = self.dice.choice(PRIORITIES)
        for planned, (link, cell) in enumerate(cells):
            self.links[link].writer.collect()
            if self.links[link].writer.room(cell, priority, 4096, planned):
                return False
        text, envelope = self.next_of(publisher, topic, priority)
        envelope.pop("topic")
        body: object = text
        if self.dice.random() < 0.1:
            body = {f"t{text}": bytes_of(600)}
        if self.dice.random() < 0.05:
            envelope["ttl_ns"] = 1 << 60
        for link, cell in cells:
            self.links[link].send(body, cell=cell, topic=topic, **envelope)
        return True

    def send(self, publisher: int, topic: str) -> None:
        """By the node: whole, or as a head and chunks that come later."""
        text, envelope = self.next_of(publisher, topic, self.dice.choice(PRIORITIES))
        if self.dice.random() < 0.9:
            self.stream.append(inline_item(message(text, **envelope), *SUBSCRIPTIONS))
            return
        made = head(4, **envelope)
        made.tensors[0].name = f"t{text}"
        self.stream.append(head_item(made, *SUBSCRIPTIONS))
        self.unsent[publisher] = [chunk_item(made, 0, at, b"xy") for at in (0, 2)]

    def grant(self) -> None:
        publisher, topic = self.dice.randrange(PUBLISHERS), self.dice.choice(TOPICS)
        if self.unsent or (publisher, topic) in self.routes:
            return  # the subscription is not idle, or there is a route
        self.routes[publisher, topic] = []
        for subscription in SUBSCRIPTIONS:
            link, cell = self.unused[publisher].pop()
            self.stream.append(cell_open(cell, topic, link=link, subscription=subscription))
            self.routes[publisher, topic].append((link, cell))

    def leave(self) -> None:
        """Its routes have moved, and it sends nothing now."""
        key = self.dice.randrange(PUBLISHERS), self.dice.choice(TOPICS)
        self.left += self.routes.pop(key, [])

    def end_cells(self) -> None:
        """The node closes its books of what is left and empty."""
        for link, cell in list(self.left):
            if self.links[link].counts(cell)[2] == 0:
                self.left.remove((link, cell))
                self.stream.append(cell_end(cell, link=link))

    def feed(self) -> None:
        count = self.dice.choice([1, 1, 2, 5, 20])
        items, self.stream = self.stream[:count], self.stream[count:]
        assert self.inbox.feed(frame(*items)) is None

    def take(self) -> None:
        index = self.dice.randrange(len(self.boxes))
        if self.dice.random() < 0.3:
            self.boxes[index].arm()
        for _ in range(self.dice.choice([1, 3, 30])):
            got = self.boxes[index].pop()
            if got is None:
                return
            text = next(iter(got))[1:] if len(got) else got.text
            self.got[index][got.source, got.topic, got.priority].append(int(text))

    def run(self) -> None:
        steps = [self.publish, self.grant, self.leave, self.end_cells, self.feed, self.take]
        for _ in range(STEPS):
            step = self.dice.choices(steps, [12, 3, 1, 1, 6, 4])[0]
            step()
            if self.dice.random() < 0.1:
                self.dice.choice(self.links).reader.distribute()
        while self.unsent:
            self.publish()
        while self.stream or any(box.depth for box in self.boxes):
            self.feed()
            for link in self.links:
                link.reader.distribute()
            self.take()


def bytes_of(count: int) -> object:
    return memoryview(bytes(count))


@pytest.mark.parametrize("seed", range(12))
def test_order_holds_per_publisher_topic_and_priority_by_whichever_way_messages_come(
    seed: int,
) -> None:
    walk = Walk(seed)
    walk.run()
    expected = {key: list(range(1, last + 1)) for key, last in walk.sent.items()}
    for got in walk.got:
        assert dict(got) == expected
    direct = sum(link.counts(cell)[0] for link in walk.links for cell in range(1024))
    assert direct > 300 and sum(walk.sent.values()) - direct / 2 > 100  # both ways were taken
    for link in walk.links:
        assert (link.reader.broken, link.reader.depth) == (None, 0)
        assert all(link.counts(cell)[2] == 0 for cell in range(1024))
        assert link.writer.collect() == (64, 0)
