"""Outbox: large messages, their chunks and turns; threads; memory."""

from __future__ import annotations

import gc
import sys
import threading

import numpy as np

from sira import _native
from sira.client import transport as _transport
from sira.v1 import bus_pb2, error_pb2

from .client_harness import (
    LATER_NS,
    MIB,
    abort_item,
    attached,
    chunks_of,
    code_of,
    credit,
    down,
    frame,
    head,
    items_of,
    large,
    receipt,
    resident_bytes,
    taken,
    text_of,
)


def test_a_large_message_is_a_head_and_chunks_alone_in_their_frames() -> None:
    outbox = _native.Outbox(chunk_bytes=MIB, transfer_window_bytes=1 << 30)
    array = np.arange(2 * MIB + 5, dtype=np.uint8)
    body = {"x": array, "empty": np.zeros(0, np.float32), "y": np.float64(1.5)}
    made = outbox.push("lab.x", body)
    frames = taken(outbox)
    first, *rest = items_of(frames)
    assert len(frames) == 1 + len(rest)
    assert [t.data_bytes for t in first.head.tensors] == [array.nbytes, 0, 8]
    assert not any(t.data for t in first.head.tensors)
    got = [(i.chunk.tensor, i.chunk.offset, len(i.chunk.data)) for i in rest]
    assert got == [(0, 0, MIB), (0, MIB, MIB), (0, 2 * MIB, 5), (2, 0, 8)]
    assert b"".join(i.chunk.data for i in rest[:3]) == array.tobytes()
    assert {i.chunk.message_id for i in rest} == {made}


def test_no_chunk_is_longer_than_what_it_has_to_fit_into() -> None:
    """A frame; while small messages are about, the window that HTTP/2 gives a stream at first."""
    outbox = _native.Outbox()
    outbox.push("lab.x", large(count=6 * MIB))
    outbox.take(LATER_NS)
    long, window_bytes = outbox.take(LATER_NS) or b"", _transport._WINDOW_BYTES
    assert 2 * MIB - 16_384 < len(long) <= 2 * MIB
    outbox.push("lab.x", "small")
    assert text_of(outbox.take(LATER_NS) or b"") == ["small"]
    # gRPC adds 5 bytes
    assert window_bytes - 8192 < len(outbox.take(LATER_NS) or b"") <= window_bytes - 5


def test_chunks_are_shorter_while_small_messages_are_about() -> None:
    outbox = _native.Outbox(chunk_bytes=MIB, chunk_bytes_busy=MIB // 4)
    outbox.push("lab.x", large(count=8 * MIB))
    ms = 10**6
    assert items_of([outbox.take(1000 * ms) or b""])[0].HasField("head")
    sizes = []
    for at_ms, small in [(1001, False), (1002, True), (1010, False), (1051, False), (1053, False)]:
        if small:
            outbox.push("lab.x", "small")
            assert text_of(outbox.take(at_ms * ms) or b"") == ["small"]
        (got,) = chunks_of([outbox.take(at_ms * ms) or b""])
        sizes.append(len(got.data))
    assert sizes == [MIB, MIB // 4, MIB // 4, MIB // 4, MIB]


def test_small_frames_and_chunks_alternate() -> None:
    outbox = _native.Outbox()
    outbox.push("lab.x", large(count=4 * MIB))
    outbox.take(1)
    kinds = []
    for i in range(6):
        outbox.push("lab.x", f"small{i}")
        outbox.push("lab.x", f"urgent{i}", _native.Options(priority=7))
        (item,) = items_of([outbox.take(LATER_NS) or b""])[:1]
        kinds.append(item.WhichOneof("kind"))
    assert kinds == ["chunk", "message", "chunk", "message", "chunk", "message"]


def test_chunks_wait_for_credit() -> None:
    outbox = _native.Outbox(chunk_bytes=MIB, transfer_window_bytes=3 * MIB)
    made = outbox.push("lab.x", large(count=6 * MIB))
    assert len(chunks_of(taken(outbox))) == 3
    assert not outbox.ready
    outbox.feed(credit(made, MIB // 2))
    assert not outbox.ready  # not enough for a chunk
    outbox.feed(credit(made, MIB // 2))
    assert outbox.ready
    assert len(chunks_of(taken(outbox))) == 1
    outbox.feed(credit(_native.new_id(), MIB))  # of a message that is done: nothing
    outbox.feed(credit(made, 2**64 - 1))
    outbox.feed(credit(made, 2**64 - 1))
    assert len(chunks_of(taken(outbox))) == 2


def test_credit_wakes_the_writer() -> None:
    wakes: list[int] = []
    outbox = _native.Outbox(transfer_window_bytes=MIB, wake=lambda: wakes.append(1))
    made = outbox.push("lab.x", large(count=2 * MIB))
    taken(outbox)
    assert len(wakes) == 1
    outbox.feed(credit(made, MIB))
    assert len(wakes) == 2


def test_transfers_leave_by_priority_then_deadline_then_age() -> None:
    outbox = _native.Outbox(chunk_bytes=MIB, transfer_window_bytes=1 << 30)
    names = {}
    for name, options in [
        ("slow1", None),
        ("slow2", None),
        ("late", _native.Options(ttl_ns=10**15)),
        ("soon", _native.Options(ttl_ns=10**14)),
        ("urgent", _native.Options(priority=1)),
    ]:
        names[outbox.push("lab.x", large(count=2 * MIB), options)] = name
    order = [names[c.message_id] for c in chunks_of(taken(outbox))]
    by_turn = ["urgent", "soon", "late", "slow1", "slow2"]
    assert order == [name for name in by_turn for _ in range(2)]


def test_a_receipt_of_a_large_message_may_overtake_and_ends_it() -> None:
    outbox = _native.Outbox(chunk_bytes=MIB)
    small = outbox.push("lab.x", "small", None, "small")
    big = outbox.push("lab.x", large(count=4 * MIB), None, "big")
    after = outbox.push("lab.x", "after", None, "after")
    outbox.take(0)
    outbox.take(0)
    outcomes = outbox.feed(frame(receipt(big, refused="DENIED")))
    assert [ticket for ticket, _ in outcomes] == ["big"]
    assert (outbox.ready, outbox.unanswered, outbox.transfer_bytes) == (False, 2, 0)
    outcomes = outbox.feed(frame(receipt(small), receipt(after)))
    assert [ticket for ticket, _ in outcomes] == ["small", "after"]


def test_an_abort_from_the_node_ends_a_transfer_with_its_error() -> None:
    outbox = _native.Outbox(chunk_bytes=MIB)
    big = outbox.push("lab.x", large(count=4 * MIB), None, "big")
    outbox.take(0)
    error = error_pb2.Error(code="PEER_LOST")
    abort = bus_pb2.Item(abort=bus_pb2.Abort(message_id=big, error=error))
    assert outbox.feed(frame(abort)) == [("big", error.SerializeToString())]
    assert (outbox.ready, outbox.unanswered) == (False, 0)
    assert outbox.feed(frame(receipt(big, refused="PEER_LOST"))) == []  # late: known already
    assert outbox.feed(frame(abort_item(head(1)))) == []
    assert (outbox.refused, outbox.unanswered) == (1, 0)


def test_memory_of_the_caller_is_held_until_the_last_chunk_and_no_longer() -> None:
    outbox = _native.Outbox(chunk_bytes=MIB)
    array = np.zeros(3 * MIB, np.uint8)
    before = sys.getrefcount(array)
    outbox.push("lab.x", {"x": array})
    frames = [outbox.take(LATER_NS) for _ in range(3)]
    assert sys.getrefcount(array) > before
    frames.append(outbox.take(LATER_NS))
    assert len(chunks_of([f for f in frames if f])) == 3
    gc.collect()
    assert sys.getrefcount(array) == before


def test_large_messages_have_a_room_of_their_own() -> None:
    outbox = _native.Outbox(window_bytes=4 * MIB, transfer_window_bytes=1 << 30)
    for _ in range(2):
        assert outbox.transfer_room
        outbox.push("lab.x", large(count=3 * MIB))
    assert (outbox.transfer_room, outbox.room) == (False, True)
    outbox.push("lab.x", large(count=3 * MIB))
    assert code_of(outbox.push, "lab.x", large()) == "QUEUE_FULL"
    outbox.push("lab.x", "small ones pass")
    taken(outbox)
    assert (outbox.transfer_room, outbox.transfer_bytes) == (True, 0)


def test_many_threads_push_while_one_takes() -> None:
    outbox = _native.Outbox(window_messages=1 << 20, window_bytes=1 << 30)
    inbox, box = attached()
    threads, each = 4, 400

    def push(worker: int) -> None:
        for i in range(each):
            if i % 100 == 0:
                outbox.push(f"big.{worker}", {"x": np.full(3 * MIB, i % 251, np.uint8)})
            else:
                outbox.push(f"lab.{worker}", f"{i}")

    workers = [threading.Thread(target=push, args=(w,)) for w in range(threads)]
    for worker in workers:
        worker.start()
    found: dict[str, list[str]] = {f"lab.{w}": [] for w in range(threads)}
    count = 0
    while count < threads * each:
        got = outbox.take(LATER_NS)
        if got is None:
            assert any(w.is_alive() for w in workers) or outbox.ready or count == threads * each
            continue
        items = items_of([got])
        inbox.feed(down(got))
        for item in items:
            if item.HasField("chunk"):
                outbox.feed(credit(item.chunk.message_id, len(item.chunk.data)))
        while (arrived := box.pop()) is not None:
            count += 1
            if arrived.topic.startswith("lab."):
                found[arrived.topic].append(arrived.text)
            else:
                values = arrived["x"]
                assert (values == values[0]).all()
    for worker in workers:
        worker.join()
    assert all(texts == [str(i) for i in range(each) if i % 100] for texts in found.values())


def test_a_hundred_thousand_answered_messages_leave_memory_and_references_flat() -> None:
    outbox = _native.Outbox()
    body, ticket, options = {"x": np.arange(64, dtype=np.float32)}, object(), _native.Options()
    watched = (body, body["x"], ticket, options)

    def run(count: int) -> None:
        for _ in range(count // 1000):
            ids = [outbox.push("lab.x", body, options, ticket) for _ in range(1000)]
            taken(outbox)
            assert len(outbox.feed(frame(*map(receipt, ids)))) == 1000

    run(10_000)
    gc.collect()
    before, references = resident_bytes(), [sys.getrefcount(o) for o in watched]
    run(100_000)
    gc.collect()
    assert [sys.getrefcount(o) for o in watched] == references
    assert resident_bytes() - before < 4 * MIB
    assert (outbox.unanswered, outbox.room) == (0, True)
