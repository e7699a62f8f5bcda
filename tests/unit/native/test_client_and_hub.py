"""An Outbox, a Hub and an Inbox in a row: what node and client make of each other's frames."""

from __future__ import annotations

import random

import numpy as np
import pytest

from sira import _native

from .client_harness import MIB, Box, code_of
from .hub_harness import SECOND_NS, Bench, Publisher, Subscriber


class Link:
    """One publisher and one subscriber on a node, pumped by hand."""

    def __init__(self, **options: int) -> None:
        # Both sides know the same window: the node gives credit a quarter of it at a time.
        window = options.get("transfer_window_bytes", 8 * MIB)
        self.bench = Bench(transfer_window_bytes=window)
        self.history = _native.History()
        self.outbox = _native.Outbox(source="me", **options)  # type: ignore[arg-type]
        self.publisher = Publisher(self.bench, history=self.history)
        self.subscriber = Subscriber(self.bench)
        self.inbox = _native.Inbox()
        self.boxes: list[Box] = []
        self.outcomes: list[tuple[object, _native.Receipt | bytes]] = []

    def subscribe(self, pattern: str, **options: int) -> Box:
        sub, box = self.subscriber.open(pattern, **options), Box()
        self.inbox.attach(sub.subscription, box)
        self.boxes.append(box)
        return box

    def step(self) -> bool:
        """Carry one frame each way of each stream; False: nothing moved."""
        moved = False
        now_ns = self.bench.now_ns
        if not self.publisher.stream.full and (up := self.outbox.take(now_ns)) is not None:
            self.publisher.stream.feed(up, now_ns)
            moved = True
        if (answer := self.publisher.stream.next_frame(now_ns)) is not None:
            self.outcomes += self.outbox.feed(answer)
            moved = True
        if (down := self.subscriber.stream.next_frame(now_ns)) is not None:
            self.inbox.feed(down)
            moved = True
        return moved

    def confirm(self) -> bool:
        due = [
            (number, taken)
            for number, box in enumerate(self.boxes, 1)
            if (taken := box.take_credit())
        ]
        if due:
            self.subscriber.stream.feed(_native.credit_frame(due), self.bench.now_ns)
        return bool(due)

    def lose_publisher(self) -> list[object]:
        repeats, lost = self.outbox.rewind()
        self.publisher.close()
        self.publisher = Publisher(self.bench, history=self.history, resume=repeats)
        return lost


def drain(link: Link, found: list[list[_native.Message]]) -> None:
    while True:
        moved = link.step()
        for box, messages in zip(link.boxes, found, strict=True):
            while (got := box.pop()) is not None:
                messages.append(got)
        if not (link.confirm() or moved):
            return


def check(messages: list[_native.Message], values: list[int]) -> None:
    assert [int(m["i"]) for m in messages] == values
    for m in messages:
        assert (m["x"] == int(m["i"]) % 251).all()


def body(i: int, size: int) -> dict[str, object]:
    return {"i": np.int64(i), "x": np.full(size, i % 251, np.uint8)}


def test_small_and_large_messages_arrive_in_order_with_narrow_windows() -> None:
    link = Link(transfer_window_bytes=MIB, chunk_bytes=MIB // 4)
    link.subscribe("lab.>", window_messages=4)
    link.subscribe("lab.a", window_messages=2)
    link.subscribe("lab.>", window_messages=64)
    sizes = [10, MIB, 300_000, 0, 3 * MIB, 100, 256 << 10, 5]
    for i, size in enumerate(sizes):
        link.outbox.push("lab.a", body(i, size), None, i)
    found: list[list[_native.Message]] = [[], [], []]
    drain(link, found)
    for messages in found:
        check(messages, list(range(len(sizes))))
    assert sorted(t for t, _ in link.outcomes) == list(range(len(sizes)))  # type: ignore[type-var]
    assert all(isinstance(r, _native.Receipt) and r.matched == 3 for _, r in link.outcomes)
    assert (link.outbox.unanswered, link.inbox.transfers, link.inbox.aborted) == (0, 0, 0)
    link.bench.assert_balanced()


def test_a_refused_transfer_ends_and_what_follows_passes() -> None:
    link = Link()
    box = link.subscribe("lab.ok")
    link.bench.refuse = lambda topic: RuntimeError("no") if topic == "lab.no" else None
    link.outbox.push("lab.no", body(0, 4 * MIB), None, "refused")
    link.outbox.push("lab.ok", body(1, 10), None, "taken")
    found: list[list[_native.Message]] = [[]]
    drain(link, found)
    outcomes = dict(link.outcomes)
    assert isinstance(outcomes["refused"], bytes)
    assert isinstance(outcomes["taken"], _native.Receipt)
    assert (len(found[0]), link.outbox.transfer_bytes, link.outbox.unanswered) == (1, 0, 0)
    assert box.depth == 0


def test_a_cancelled_transfer_reaches_nobody() -> None:
    link = Link(transfer_window_bytes=MIB, chunk_bytes=MIB // 4)
    link.subscribe("lab.>")
    link.outbox.push("lab.a", body(0, 4 * MIB), None, "t")
    for _ in range(6):
        link.step()
    assert link.outbox.cancel("t")
    link.outbox.push("lab.a", body(1, 10))
    found: list[list[_native.Message]] = [[]]
    drain(link, found)
    check(found[0], [1])
    assert (link.outbox.unanswered, link.inbox.transfers) == (0, 0)
    link.bench.assert_balanced()


@pytest.mark.parametrize("seed", range(20))
def test_lost_connections_lose_and_double_nothing(seed: int) -> None:
    """The publisher's stream breaks at random moments; what is unknown is named."""
    rng = random.Random(seed)
    link = Link(
        transfer_window_bytes=8000, chunk_bytes=3000, inline_bytes_max=4000, batch_bytes=2000
    )
    link.subscribe("lab.>", window_messages=8)
    found: list[list[_native.Message]] = [[]]
    unknown: list[object] = []
    pushed = 0
    for _ in range(600):
        if rng.random() < 0.3 and link.outbox.room and link.outbox.transfer_room:
            link.outbox.push("lab.a", body(pushed, rng.choice([0, 50, 900, 9000])), None, pushed)
            pushed += 1
        for _ in range(rng.randrange(3)):
            link.step()
        if rng.random() < 0.5:
            while (got := link.boxes[0].pop()) is not None:
                found[0].append(got)
            link.confirm()
        if rng.random() < 0.02:
            unknown += link.lose_publisher()
        link.bench.now_ns += SECOND_NS // 1000
    drain(link, found)
    answered = [ticket for ticket, _ in link.outcomes]
    assert sorted(answered + unknown) == list(range(pushed))  # type: ignore[type-var]
    arrived = [int(m["i"]) for m in found[0]]
    assert len(arrived) == len(set(arrived))
    assert set(answered) <= set(arrived) <= set(range(pushed))
    assert set(range(pushed)) - set(arrived) <= set(unknown)
    for m in found[0]:
        assert (m["x"] == int(m["i"]) % 251).all()
    assert code_of(link.outbox.push, "bad topic", None) == "BAD_TOPIC"
    link.bench.assert_balanced()
