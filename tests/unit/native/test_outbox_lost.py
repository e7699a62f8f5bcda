"""Outbox: lost connections, cancelled messages, everything dropped."""

from __future__ import annotations

import gc
import random
import sys
import threading
from typing import Any

import numpy as np
import pytest

from sira import _native
from sira.v1 import bus_pb2

from .client_harness import (
    LATER_NS,
    MIB,
    attached,
    credit,
    down,
    frame,
    items_of,
    receipt,
    taken,
    text_of,
)

QUIET = _native.Options(quiet=True)


def large(fill: int = 0, count: int = MIB) -> dict[str, Any]:
    return {"x": np.full(count, fill, np.uint8)}


def texts(frames: list[bytes]) -> list[str]:
    return [text for got in frames for text in text_of(got)]


def test_unanswered_messages_are_sent_again_verbatim_and_first() -> None:
    outbox = _native.Outbox(batch_bytes=1000)
    ids = [outbox.push("lab.x", f"{i:0100}", None, i) for i in range(30)]
    sent = taken(outbox)
    outbox.feed(frame(*(receipt(i) for i in ids[:13])))
    outbox.push("lab.x", "new", _native.Options(priority=7))
    repeats, lost = outbox.rewind()
    assert (repeats, lost, outbox.unanswered) == (17, [], 18)
    again = items_of(taken(outbox))
    assert again[:17] == items_of(sent)[13:]
    assert again[17].message.tensors[0].data == b"new"
    outcomes = outbox.feed(frame(*(receipt(i.message.id) for i in again)))
    assert [ticket for ticket, _ in outcomes] == list(range(13, 30))
    assert outbox.unanswered == 0


def test_quiet_messages_are_not_sent_again_once_they_have_left() -> None:
    outbox = _native.Outbox()
    ticket = object()
    before = sys.getrefcount(ticket)
    outbox.push("lab.x", "gone", QUIET, ticket)
    outbox.push("lab.x", "loud")
    taken(outbox)
    outbox.push("lab.x", "queued", QUIET)
    assert outbox.rewind() == (1, [])
    assert sys.getrefcount(ticket) == before
    assert texts(taken(outbox)) == ["loud", "queued"]


def test_a_connection_lost_again_before_all_was_repeated_loses_nothing() -> None:
    outbox = _native.Outbox(batch_bytes=200)
    for i in range(10):
        outbox.push("lab.x", f"{i:050}")
    taken(outbox)
    for _ in range(3):
        assert outbox.rewind() == (10, [])
        outbox.take(0)
        outbox.take(0)
    assert outbox.rewind() == (10, [])
    assert [int(t) for t in texts(taken(outbox))] == list(range(10))
    assert outbox.unanswered == 10


def test_an_unfinished_transfer_starts_over_and_a_finished_one_is_reported() -> None:
    outbox = _native.Outbox(chunk_bytes=MIB, chunk_bytes_busy=MIB // 4)
    outbox.push("lab.x", large(1, 2 * MIB), None, "finished")
    taken(outbox)
    outbox.push("lab.x", large(2, 3 * MIB), None, "unfinished")
    outbox.push("lab.x", "small", None, "small")
    outbox.push("lab.x", large(3, 2 * MIB), QUIET, "quiet")
    for _ in range(3):
        outbox.take(LATER_NS)
    assert outbox.transfer_bytes == 5 * MIB - 2 * (MIB // 4)  # shorter ones: a small message left
    repeats, lost = outbox.rewind()
    assert (repeats, lost) == (3, ["finished"])
    assert outbox.unanswered == 2
    assert outbox.transfer_bytes == 5 * MIB
    inbox, box = attached()
    ids = []
    for got in taken(outbox):
        ids += [i.head.id or i.message.id for i in items_of([got]) if not i.HasField("chunk")]
        inbox.feed(down(got))
    assert box.texts() == ["x", "small", "x"]
    outcomes = outbox.feed(frame(receipt(ids[1]), receipt(ids[0])))
    assert [ticket for ticket, _ in outcomes] == ["small", "unfinished"]
    assert outbox.unanswered == 0


def test_a_transfer_answered_from_history_ends_before_its_chunks() -> None:
    outbox = _native.Outbox(chunk_bytes=MIB)
    made = outbox.push("lab.x", large(1, 4 * MIB), None, "big")
    outbox.take(LATER_NS)
    outbox.take(LATER_NS)
    outbox.rewind()
    outbox.take(LATER_NS)
    ((ticket, _),) = outbox.feed(frame(receipt(made)))
    assert (ticket, outbox.ready, outbox.unanswered) == ("big", False, 0)


def test_the_ttl_of_a_repeated_message_goes_on_running() -> None:
    outbox = _native.Outbox()
    outbox.push("lab.x", "a", _native.Options(ttl_ns=10**12))
    start_ns = _native.now_ns()
    taken(outbox, start_ns)
    outbox.rewind()
    (item,) = items_of(taken(outbox, start_ns + 4 * 10**11))
    assert 59 * 10**10 < item.message.ttl_ns <= 60 * 10**10


def test_cancelled_messages_do_not_leave() -> None:
    outbox = _native.Outbox()
    tickets = [object() for _ in range(5)]
    for i, ticket in enumerate(tickets):
        outbox.push("lab.x", str(i), None if i % 2 else QUIET, ticket)
    assert outbox.cancel(tickets[0]) and outbox.cancel(tickets[3])
    assert not outbox.cancel(tickets[3])
    assert not outbox.cancel(None)
    assert outbox.unanswered == 1
    frames = taken(outbox)
    assert texts(frames) == ["1", "2", "4"]
    ids = [item.message.id for item in items_of(frames)]
    assert outbox.cancel(tickets[1])  # has left: forgotten, and still counted when it is answered
    assert outbox.feed(frame(receipt(ids[0]))) == []
    assert (outbox.unanswered, outbox.accepted) == (0, 1)
    outbox.push("lab.x", "alone", None, "alone")
    assert outbox.cancel("alone")
    assert (outbox.ready, outbox.unanswered) == (False, 0)


def test_a_ticket_of_several_messages_is_cancelled_one_at_a_time() -> None:
    outbox = _native.Outbox()
    for i in range(3):
        outbox.push("lab.x", str(i), None, "shared")
    taken(outbox)
    outbox.push("lab.x", "3", None, "shared")
    count = 0
    while outbox.cancel("shared"):
        count += 1
    assert (count, outbox.unanswered, outbox.ready) == (4, 3, False)


def test_a_cancelled_transfer_is_aborted_and_gives_its_memory_back() -> None:
    outbox = _native.Outbox(chunk_bytes=MIB)
    array = np.zeros(4 * MIB, np.uint8)
    before = sys.getrefcount(array)
    made = outbox.push("lab.x", {"x": array}, None, "big")
    outbox.take(LATER_NS)
    outbox.take(LATER_NS)
    assert outbox.cancel("big")
    (item,) = items_of(taken(outbox))
    assert item.abort.message_id == made
    gc.collect()
    assert sys.getrefcount(array) == before
    assert (outbox.unanswered, outbox.transfer_bytes) == (0, 0)
    assert outbox.feed(frame(receipt(made, refused="PEER_LOST"))) == []
    outbox.push("lab.x", {"x": array}, None, "queued")
    assert outbox.cancel("queued")
    assert (outbox.ready, taken(outbox), outbox.rewind()) == (False, [], (0, []))


def test_clear_gives_every_ticket_once_and_leaves_an_empty_outbox() -> None:
    outbox = _native.Outbox(chunk_bytes=MIB)
    outbox.push("lab.x", "sent", None, "sent")
    outbox.push("lab.x", large(), None, "sent large")
    taken(outbox)
    outbox.push("lab.x", large(count=2 * MIB), None, "unfinished")
    outbox.take(LATER_NS)
    outbox.push("lab.x", "queued", None, "queued")
    outbox.push("lab.x", "quiet", QUIET, "quiet")
    outbox.push("lab.x", "no ticket")
    assert sorted(outbox.clear()) == ["queued", "quiet", "sent", "sent large", "unfinished"]
    assert (outbox.unanswered, outbox.ready, outbox.room, outbox.transfer_bytes) == (
        0, False, True, 0,
    )  # fmt: skip
    assert outbox.clear() == []


def test_cancel_and_clear_while_chunks_are_being_copied() -> None:
    outbox = _native.Outbox(transfer_window_bytes=1 << 30)
    array = np.zeros(4 * MIB, np.uint8)
    before = sys.getrefcount(array)
    stop = threading.Event()

    def disturb() -> None:
        rng = random.Random(1)
        while not stop.is_set():
            choice = rng.randrange(3)
            if choice == 0:
                outbox.clear()
            elif choice == 1:
                outbox.rewind()
            else:
                outbox.cancel("t")

    worker = threading.Thread(target=disturb)
    worker.start()
    try:
        for _ in range(150):
            outbox.push("lab.x", {"x": array}, None, "t")
            for _ in range(6):
                outbox.take(LATER_NS)
    finally:
        stop.set()
        worker.join()
    outbox.clear()
    gc.collect()
    assert sys.getrefcount(array) == before
    assert (outbox.unanswered, outbox.transfer_bytes, outbox.ready) == (0, 0, False)


class Node:
    """The far side by the rules of bus.proto: answers in order, large ones when they are whole."""

    def __init__(self, seed: random.Random) -> None:
        self.rng, self.answers, self.left = seed, [], {}  # type: ignore[var-annotated]
        self.accepted: list[bytes] = []

    def take(self, encoded: bytes) -> None:
        for item in items_of([encoded]):
            kind = item.WhichOneof("kind")
            if kind == "message":
                self.accepted.append(item.message.id)
                if not item.quiet:
                    self.answers.append(receipt(item.message.id))
            elif kind == "head":
                self.left[item.head.id] = [sum(t.data_bytes for t in item.head.tensors), item.quiet]
            elif kind == "chunk" and item.chunk.message_id in self.left:
                entry = self.left[item.chunk.message_id]
                entry[0] -= len(item.chunk.data)
                made = bus_pb2.Credit(message_id=item.chunk.message_id, bytes=len(item.chunk.data))
                self.answers.append(bus_pb2.Item(credit=made))
                if entry[0] == 0:
                    self.accepted.append(item.chunk.message_id)
                    del self.left[item.chunk.message_id]
                    if not entry[1]:
                        self.answers.append(receipt(item.chunk.message_id))
            elif kind == "abort":
                self.left.pop(item.abort.message_id, None)

    def some_answers(self) -> bytes:
        count = self.rng.randint(0, len(self.answers))
        given, self.answers = self.answers[:count], self.answers[count:]
        return bytes(frame(*given))


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_every_ticket_has_one_outcome_and_nothing_stays(seed: int) -> None:
    """A random walk over push, take, feed, cancel and lost connections; the seed is in the name."""
    rng = random.Random(seed)
    outbox = _native.Outbox(
        batch_bytes=2000, inline_bytes_max=4000, chunk_bytes=3000, chunk_bytes_busy=1000,
        transfer_window_bytes=8000, window_messages=200,
    )  # fmt: skip
    node, waiting, done = Node(rng), set(), []  # type: ignore[var-annotated]
    quiet: set[str] = set()
    for step in range(1500):
        action = rng.random()
        if action < 0.4 and outbox.room and outbox.transfer_room:
            is_quiet = rng.random() < 0.2
            options = _native.Options(quiet=is_quiet, priority=rng.randrange(8))
            ticket = f"t{step}"
            body = {"x": np.zeros(rng.choice([0, 10, 300, 5000, 20_000]), np.uint8)}
            outbox.push("lab.x", body, options, ticket)
            (quiet if is_quiet else waiting).add(ticket)
        elif action < 0.75:
            got = outbox.take(step * 10**7)
            if got is not None:
                node.take(got)
        elif action < 0.93:
            done += [ticket for ticket, _ in outbox.feed(node.some_answers())]
        elif action < 0.97 and waiting:
            ticket = rng.choice(sorted(waiting))
            if ticket not in done and outbox.cancel(ticket):
                done.append(ticket)
        elif action > 0.99:
            node = Node(rng)
            done += [ticket for ticket in outbox.rewind()[1] if ticket is not None]
    while (got := outbox.take(LATER_NS)) is not None or node.answers:
        if got is not None:
            node.take(got)
        done += [ticket for ticket, _ in outbox.feed(frame(*node.answers))]
        node.answers = []
    assert sorted(done) == sorted(waiting)
    assert (outbox.unanswered, outbox.transfer_bytes, outbox.room) == (0, 0, True)
    assert set(outbox.clear()) <= quiet


def test_a_credit_for_a_transfer_that_starts_over_counts_from_its_start() -> None:
    outbox = _native.Outbox(chunk_bytes=MIB, transfer_window_bytes=2 * MIB)
    made = outbox.push("lab.x", large(count=5 * MIB))
    assert len(taken(outbox)) == 3
    outbox.feed(credit(made, MIB))
    assert len(taken(outbox)) == 1
    outbox.rewind()
    assert len(taken(outbox)) == 3
