"""An Outbox, a Hub and an Inbox in a row, with shared memory: tensors pass by reference both ways,
by bytes where one side cannot, and no memory is written that somebody still reads."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest

from sira import _native

from .arena_harness import KIB, Lending, Reader
from .hub_harness import SECOND_NS, Bench, Publisher, Subscriber


class Mapped:
    """A subscriber, and what the node keeps of it: segments shown, spans by lease."""

    def __init__(self, bench: Bench, pattern: str, *, lends: bool) -> None:
        self.subscriber = Subscriber(bench)
        self.subscriber.open(pattern, window_messages=1000)
        self.reader = Reader()
        self.inbox, self.box = self.reader.inbox, self.reader.box
        self.inbox.detach(7)
        self.inbox.attach(1, self.box)
        self.spans: dict[int, _native.ShmSpan] = {}
        self._ids: dict[tuple[int, int], int] = {}
        self._last = 0
        self.descriptors: dict[int, tuple[int, int]] = {}  # of the publisher, by segment
        if lends:
            self.subscriber.stream.lend = self.lend

    def lend(self, span: _native.ShmSpan) -> int:
        """Show the segment if need be. The publisher's ids are the node's here."""
        if span.segment not in self.reader._known:
            fd, size = self.descriptors[span.segment]
            self.reader._known.add(span.segment)
            self.reader.maps.map(span.segment, os.dup(fd), size)
        self._last += 1
        self.spans[self._last] = span
        return self._last

    def step(self, now_ns: int) -> bool:
        down = self.subscriber.stream.next_frame(now_ns)
        if down is not None:
            self.inbox.feed(down)
        for lease in self.reader.maps.ended():
            del self.spans[lease]
        return down is not None

    def confirm(self, now_ns: int) -> None:
        if taken := self.box.take_credit():
            self.subscriber.stream.feed(_native.credit_frame([(1, taken)]), now_ns)


class Way:
    """One publisher whose memory the node maps, and its subscribers, pumped by hand."""

    def __init__(self, *readers: bool, **options: int) -> None:
        self.bench = Bench(transfer_window_bytes=options.get("transfer_window_bytes", 8 << 20))
        self.history = _native.History()
        self.lending = Lending(256 << 20, lend_bytes_min=1000, **options)
        self.outbox = self.lending.outbox
        self.subscribers = [Mapped(self.bench, "lab.>", lends=lends) for lends in readers]
        self.outcomes: list[tuple[object, _native.Receipt | bytes]] = []
        self.descriptors: dict[int, tuple[int, int]] = {}
        self.lent = 0
        self._open(0)

    def _open(self, repeats: int) -> None:
        self.publisher = Publisher(self.bench, history=self.history, resume=repeats)
        self.publisher.stream.lender = self._span
        self.maps = _native.ShmMaps()  # of this connection
        self._mapped: set[int] = set()

    def _span(
        self, segment: int, offset: int, size: int, lease: int, topic: str | None
    ) -> _native.ShmSpan:
        del topic
        self.lent += 1
        return self.maps.span(segment, offset, size, lease)

    def show(self) -> None:
        for segment, fd, size in self.lending.arena.segments():
            if segment not in self._mapped:
                self._mapped.add(segment)
                self.maps.map(segment, os.dup(fd), size)
            if segment not in self.descriptors:
                self.descriptors[segment] = (os.dup(fd), size)
                for each in self.subscribers:
                    each.descriptors = self.descriptors

    def step(self) -> bool:
        now_ns, moved = self.bench.now_ns, False
        self.show()
        if not self.publisher.stream.full and (up := self.outbox.take(now_ns)) is not None:
            self.publisher.stream.feed(up, now_ns)
            moved = True
        if (answer := self.publisher.stream.next_frame(now_ns)) is not None:
            self.outcomes += self.outbox.feed(answer)
            moved = True
        for each in self.subscribers:
            moved |= each.step(now_ns)
        self.outbox.returned(self.maps.ended())
        return moved

    def lose_publisher(self) -> list[object]:
        """Its connection is gone, and nobody hears what spans of it are over."""
        repeats, lost = self.outbox.rewind()
        self.publisher.close()
        self._open(repeats)
        self.outbox.lends = True
        return lost

    def close(self) -> None:
        for fd, _ in self.descriptors.values():
            os.close(fd)


def body(i: int, size: int) -> dict[str, object]:
    return {"i": np.int64(i), "x": np.full(size, i % 251, np.uint8)}


def check(message: _native.Message) -> int:
    i = int(message["i"])
    assert (message["x"] == i % 251).all()
    return i


def drain(way: Way, found: list[list[_native.Message]]) -> None:
    moved = True
    while moved:
        moved = way.step()
        for each, messages in zip(way.subscribers, found, strict=True):
            while (got := each.box.pop()) is not None:
                messages.append(got)
            each.confirm(way.bench.now_ns)


def test_readers_that_map_and_readers_that_cannot_get_the_same_and_all_memory_comes_back() -> None:
    way = Way(True, False, True)
    sizes = [10, 300 * KIB, 2000, 0, 3 << 20, 70 * KIB]
    for i, size in enumerate(sizes):
        way.outbox.push("lab.a", body(i, size), None, i)
    found: list[list[_native.Message]] = [[], [], []]
    drain(way, found)
    for messages in found:
        assert [check(m) for m in messages] == [*range(len(sizes))]
    assert way.lent == 2 * 4  # bodies of 1000 bytes and more, of two tensors each
    mapping = [each.inbox.buffers_mapped for each in way.subscribers]
    assert (mapping[0], mapping[1] > 0, mapping[2]) == (0, True, 0)
    lanes = {t: r.lanes for t, r in way.outcomes if isinstance(r, _native.Receipt)}
    assert {t for t, lane in lanes.items() if lane == ["shm"]} == {1, 2, 4, 5}
    assert way.outbox.leases == 8
    found[0].clear()
    drain(way, found)
    assert (way.outbox.leases, len(way.subscribers[0].spans)) == (8, 0)  # the third looks still
    found[2].clear()
    drain(way, found)
    assert (way.outbox.leases, way.lending.held_bytes, way.outbox.unanswered) == (0, 0, 0)
    way.bench.assert_balanced()
    way.close()


@pytest.mark.parametrize("seed", range(20))
def test_lost_connections_lose_and_double_nothing_and_what_is_read_stays(seed: int) -> None:
    """The publisher's connection breaks at random moments, while readers keep what they like."""
    rng = random.Random(seed)
    way = Way(
        True,
        False,
        transfer_window_bytes=8000,
        chunk_bytes=3000,
        inline_bytes_max=4000,
        batch_bytes=2000,
    )
    kept: list[list[_native.Message]] = [[], []]
    arrived: list[list[int]] = [[], []]
    unknown: list[object] = []
    pushed = 0

    def let_go(share: float) -> None:
        for messages, numbers in zip(kept, arrived, strict=True):
            going = [m for m in messages if rng.random() < share]
            messages[:] = [m for m in messages if m not in going]
            for message in going:
                numbers.append(check(message))

    for _ in range(500):
        if rng.random() < 0.4 and way.outbox.room and way.outbox.transfer_room:
            size = rng.choice([0, 50, 900, 1100, 9000, 40_000])
            way.outbox.push("lab.a", body(pushed, size), None, pushed)
            pushed += 1
        for _ in range(rng.randrange(3)):
            way.step()
        for each, messages in zip(way.subscribers, kept, strict=True):
            while rng.random() < 0.6 and (got := each.box.pop()) is not None:
                messages.append(got)
            each.confirm(way.bench.now_ns)
        let_go(rng.choice([0.0, 0.1, 0.5]))
        if rng.random() < 0.02:
            unknown += way.lose_publisher()
        if rng.random() < 0.02:
            way.outbox.lends = not way.outbox.lends
        way.bench.now_ns += SECOND_NS // 1000
    drain(way, kept)
    assert way.lent > 20
    let_go(1.0)
    drain(way, kept)
    answered = [ticket for ticket, _ in way.outcomes]
    assert sorted(answered + unknown) == list(range(pushed))  # type: ignore[type-var]
    for numbers in arrived:
        assert len(numbers) == len(set(numbers))
        assert set(answered) <= set(numbers) <= set(range(pushed))
        assert set(range(pushed)) - set(numbers) <= set(unknown)
    assert (way.outbox.leases, way.lending.held_bytes, way.outbox.unanswered) == (0, 0, 0)
    way.bench.assert_balanced()
    way.close()
