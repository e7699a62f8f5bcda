"""Outbox: large messages in shared memory, and what leaves of them."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from sira import _native

from .arena_harness import KIB, Lending, Reader, kinds, next_items, ramp
from .client_harness import (
    LATER_NS,
    MIB,
    chunks_of,
    credit,
    frame,
    items_of,
    large,
    receipt,
    taken,
)


def test_head_and_a_reference_for_each_tensor_with_bytes_leave_in_one_frame() -> None:
    lending = Lending()
    outbox = lending.outbox
    body = {"x": ramp(100_001), "empty": np.zeros(0, np.float32), "y": np.full(9, 1.5)}
    made = outbox.push("lab.x", body)
    assert lending.asked == [("lab.x", 100_032 + 72)]
    (encoded,) = taken(outbox)
    items = items_of([encoded])
    assert kinds(items) == ["head", "lent", "lent"]
    assert [t.data_bytes for t in items[0].head.tensors] == [100_001, 0, 72]
    x, y = items[1].chunk, items[2].chunk
    assert {x.message_id, y.message_id} == {made}
    assert [(c.tensor, c.offset, c.lent.bytes) for c in (x, y)] == [(0, 0, 100_001), (2, 0, 72)]
    assert lending.read(x.lent) == body["x"].tobytes()
    assert lending.read(y.lent) == body["y"].tobytes()
    assert y.lent.offset == x.lent.offset + 100_032  # each at a multiple of 64
    assert (x.lent.lease, y.lent.lease) == (1, 2)
    assert (outbox.leases, outbox.unanswered, outbox.transfer_bytes) == (2, 1, 0)
    assert not outbox.ready


def test_the_body_is_copied_by_the_push_and_may_change_after_it() -> None:
    lending, array = Lending(), ramp(MIB)
    before = array.tobytes()
    lending.outbox.push("lab.x", {"x": array})
    array[:] = 0
    lent = next_items(lending.outbox)[1].chunk.lent
    assert lending.read(lent) == before


def test_references_ask_for_no_credit_and_the_upload_window_is_free_once_they_are_taken() -> None:
    lending = Lending(window_bytes=4 * MIB, transfer_window_bytes=64 * KIB)
    outbox = lending.outbox
    for turn in range(5):
        outbox.push("lab.x", large(count=3 * MIB))
        outbox.push("lab.x", large(count=3 * MIB))
        assert not outbox.transfer_room
        assert kinds(items_of(taken(outbox))) == ["head", "head", "lent", "lent"]
        assert (outbox.transfer_room, outbox.leases) == (True, 2 * turn + 2)


def test_small_messages_and_heads_keep_their_order_before_the_references() -> None:
    lending = Lending()
    outbox = lending.outbox
    outbox.push("lab.x", "a")
    outbox.push("lab.x", large())
    outbox.push("lab.x", "b")
    assert kinds(next_items(outbox)) == ["message", "head", "message", "lent"]


def test_a_body_too_small_is_not_asked_for_and_none_leaves_it_as_it_was() -> None:
    def sent(placer: Any, body: dict[str, Any]) -> list[bytes]:
        outbox = _native.Outbox(placer=placer, chunk_bytes=256 * KIB)
        outbox.lends = placer is not None
        outbox.push("lab.x", body, _native.Options(id=bytes(range(16))))
        items = items_of(taken(outbox))
        for item in items:
            (item.head if item.HasField("head") else item.message).ClearField("time_ns")
        return [item.SerializeToString() for item in items]

    asked: list[int] = []
    for count in (64 * KIB - 1, 64 * KIB, 300 * KIB):
        body = {"x": ramp(count)}
        assert sent(lambda topic, size: asked.append(size), body) == sent(None, body)
    assert asked == [64 * KIB, 300 * KIB]


def test_on_a_stream_that_does_not_lend_the_same_memory_leaves_as_bytes() -> None:
    lending = Lending(lends=False, chunk_bytes=64 * KIB, transfer_window_bytes=100 * KIB)
    outbox, body = lending.outbox, {"x": ramp(100 * KIB), "y": ramp(50 * KIB, 7)}
    made = outbox.push("lab.x", body)
    assert lending.held_bytes == 150 * KIB
    items = items_of(taken(outbox))
    assert kinds(items) == ["head", "data"]
    assert (outbox.ready, lending.held_bytes) == (False, 150 * KIB)  # without credit
    while len(outbox.feed(credit(made, 64 * KIB))) == 0 and outbox.ready:
        items += items_of(taken(outbox))
    assert kinds(items) == ["head", "data", "data", "data"]
    chunks = [item.chunk for item in items[1:]]
    assert b"".join(c.data for c in chunks if c.tensor == 0) == body["x"].tobytes()
    assert b"".join(c.data for c in chunks if c.tensor == 1) == body["y"].tobytes()
    assert (lending.held_bytes, outbox.leases) == (0, 0)  # with the last chunk, as ever


def test_what_began_as_bytes_goes_on_by_reference_once_the_stream_lends() -> None:
    lending, array = Lending(lends=False, chunk_bytes=65_001), ramp(200 * KIB)
    outbox = lending.outbox
    outbox.push("lab.x", {"x": array, "y": ramp(10)})
    assert kinds(next_items(outbox)) == ["head"]
    (first,) = next_items(outbox)
    outbox.lends = True
    rest = next_items(outbox)
    assert kinds([first, *rest]) == ["data", "lent", "lent"]
    assert (rest[0].chunk.tensor, rest[0].chunk.offset) == (0, 65_001)
    assert lending.read(rest[0].chunk.lent) == array.tobytes()[65_001:]
    assert (rest[1].chunk.tensor, rest[1].chunk.offset) == (1, 0)
    assert not outbox.ready


def test_a_message_whose_arena_was_closed_leaves_as_bytes() -> None:
    lending = Lending()
    lending.outbox.push("lab.x", large(7))
    lending.arena = _native.ShmArena(MIB)
    head, *chunks = items_of(taken(lending.outbox))
    assert (kinds([head]), set(kinds(chunks))) == (["head"], {"data"})
    assert b"".join(item.chunk.data for item in chunks) == b"\x07" * MIB


def test_references_that_do_not_fit_beside_their_heads_follow() -> None:
    lending = Lending(batch_bytes=2 * MIB, lend_bytes_min=1)
    body = {f"{i}": np.uint8(i) for i in range(256)}
    made = [lending.outbox.push("lab.x", body) for _ in range(200)]
    frames = taken(lending.outbox)
    assert max(map(len, frames)) <= 2 * MIB
    assert len(frames) > 2
    together = items_of(frames[:1])
    assert kinds(together[:201]) == ["head"] * 200 + ["lent"]
    chunks = chunks_of(frames)
    assert [c.message_id for c in chunks[::256]] == made
    assert [c.tensor for c in chunks] == [*range(256)] * 200
    assert sorted(c.lent.lease for c in chunks) == [*range(1, 200 * 256 + 1)]
    assert {lending.read(c.lent) == bytes([c.tensor]) for c in chunks[:512]} == {True}


def test_a_sender_sends_by_reference() -> None:
    import contextvars

    class Direct(_native.Sender):
        def _send_later(self, body: object) -> object:
            raise AssertionError("there is room")

    class Connection:
        ended = None

    lending, sender = Lending(), Direct()
    sender.configure(
        outbox=lending.outbox,
        topic="lab.x",
        options=None,
        connection=Connection(),
        handling=contextvars.ContextVar("handling", default=None),
        next_turn=_native.ready(None),
    )
    sender.send(large(3))
    assert lending.asked == [("lab.x", MIB)]
    items = next_items(lending.outbox)
    assert kinds(items) == ["head", "lent"]
    assert lending.read(items[1].chunk.lent) == b"\x03" * MIB


def test_many_threads_push_by_reference_while_one_takes_and_gives_back() -> None:
    lending = Lending(16 * MIB, window_messages=1 << 20, window_bytes=1 << 30)
    outbox, reader = lending.outbox, Reader()
    threads, each = 4, 150
    stop = threading.Event()

    def push(worker: int) -> None:
        for i in range(each):
            if stop.is_set():
                return
            value = (worker * each + i) % 251
            body = {"i": np.int64(i), "x": np.full(300 * KIB, value, np.uint8)}
            outbox.push(f"lab.{worker}", body)

    workers = [threading.Thread(target=push, args=(w,)) for w in range(threads)]
    for worker in workers:
        worker.start()
    found: dict[str, list[int]] = {f"lab.{w}": [] for w in range(threads)}
    count = lent = 0
    try:
        while count < threads * each:
            got = outbox.take(LATER_NS)
            if got is None:
                assert any(w.is_alive() for w in workers) or outbox.ready
                continue
            for item in items_of([got]):
                if item.HasField("chunk"):
                    lent += item.chunk.HasField("lent")
                    outbox.feed(credit(item.chunk.message_id, len(item.chunk.data)))
            reader.take(lending.arena, got)
            while (arrived := reader.box.pop()) is not None:
                count += 1
                worker_at, i = int(arrived.topic[4:]), int(arrived["i"])
                assert (arrived["x"] == (worker_at * each + i) % 251).all()
                found[arrived.topic].append(i)
                answered = bytes.fromhex(arrived.id.replace("-", ""))
                outbox.feed(frame(receipt(answered)))
                del arrived
            outbox.returned(reader.maps.ended())
    finally:
        stop.set()
    for worker in workers:
        worker.join()
    assert all(numbers == [*range(each)] for numbers in found.values())
    assert lent  # how many is a matter of time: where the arena is full, bytes leave
    assert (outbox.leases, lending.held_bytes, outbox.unanswered) == (0, 0, 0)
