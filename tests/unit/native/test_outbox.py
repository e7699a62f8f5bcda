"""Outbox: batches, priorities, windows, receipts, chunks and their turns."""

from __future__ import annotations

import gc
import sys
import threading
from typing import Any

import numpy as np
import pytest

from sira import _native
from sira.kernel.errors import SiraError
from sira.v1 import bus_pb2, error_pb2

from .client_harness import (
    LATER_NS,
    MIB,
    abort_item,
    attached,
    chunk_item,
    credit,
    down,
    frame,
    head,
    inline_item,
    items_of,
    message,
    receipt,
    resident_bytes,
    taken,
    text_of,
)


def code_of(call: Any, *args: Any) -> str:
    with pytest.raises(SiraError) as caught:
        call(*args)
    return str(caught.value.code)


def chunks_of(frames: list[bytes]) -> list[bus_pb2.Chunk]:
    return [item.chunk for item in items_of(frames) if item.HasField("chunk")]


def large(fill: int = 0, count: int = MIB) -> dict[str, Any]:
    return {"x": np.full(count, fill, np.uint8)}


# ---- batches ----------------------------------------------------------------------------------


def test_everything_pending_leaves_in_one_frame_up_to_batch_bytes() -> None:
    outbox = _native.Outbox(batch_bytes=4096)
    assert (outbox.ready, outbox.take(0)) == (False, None)
    for i in range(100):
        outbox.push("lab.x", f"{i:03}" * 50)
    frames = taken(outbox)
    assert [text[:3] for got in frames for text in text_of(got)] == [f"{i:03}" for i in range(100)]
    assert all(len(got) <= 4096 for got in frames)
    assert all(len(got) > 4096 - 300 for got in frames[:-1])
    outbox.push("lab.x", "y" * 10_000)  # longer than a batch: a frame of its own
    outbox.push("lab.x", "z")
    assert [len(text_of(got)) for got in taken(outbox)] == [1, 1]


def test_higher_priority_leaves_first() -> None:
    outbox = _native.Outbox()
    for priority in (0, 3, 7, 3, 0):
        outbox.push("lab.x", str(priority), _native.Options(priority=priority))
    assert [text_of(got) for got in taken(outbox)] == [["7"], ["3", "3"], ["0", "0"]]


def test_items_carry_what_the_options_say_and_the_id_that_push_returned() -> None:
    outbox = _native.Outbox(source="me")
    plain = outbox.push("lab.x", None)
    options = _native.Options(
        quiet=True, wait_ms=0, grade=2, headers={"a": "b"}, id=bytes(15) + b"1"
    )
    full = outbox.push("lab.y", b"body", options)
    first, second = items_of(taken(outbox))
    assert (first.message.id, first.message.topic, first.message.source) == (plain, "lab.x", "me")
    assert (first.quiet, first.HasField("wait_ms"), first.grade) == (False, False, 0)
    assert second.message.id == full == bytes(15) + b"1"
    assert (second.quiet, second.HasField("wait_ms"), second.wait_ms, second.grade) == (
        True, True, 0, 2,
    )  # fmt: skip
    assert dict(second.message.headers) == {"a": "b"}


def test_a_message_that_is_refused_leaves_the_outbox_as_it_was() -> None:
    outbox = _native.Outbox()
    outbox.push("lab.x", "a")
    assert code_of(outbox.push, "lab..x", "b") == "BAD_TOPIC"
    with pytest.raises(SiraError):
        outbox.push("lab.x", {"x": object()})
    with pytest.raises(TypeError):
        outbox.push("lab.x")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        outbox.push("lab.x", "a", None, None, None)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        outbox.push("lab.x", "a", wrong=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        outbox.push("lab.x", "a", 5)  # type: ignore[arg-type]
    assert (outbox.unanswered, [text_of(got) for got in taken(outbox)]) == (1, [["a"]])


def test_time_spent_in_the_outbox_is_taken_off_the_ttl() -> None:
    outbox = _native.Outbox()
    outbox.push("lab.x", "a", _native.Options(ttl_ns=10**9))
    outbox.push("lab.x", "b")
    outbox.push("lab.x", "c", _native.Options(ttl_ns=10**12))
    got = taken(outbox, _native.now_ns() + 10**10)
    left = [item.message.ttl_ns for item in items_of(got)]
    assert left[:2] == [1, 0]  # expired, but not unlimited; none stays none
    assert 98 * 10**10 < left[2] <= 99 * 10**10


def test_wake_is_called_when_the_outbox_was_idle() -> None:
    calls = []
    outbox = _native.Outbox(wake=lambda: calls.append(1))
    outbox.push("lab.x", "a")
    outbox.push("lab.x", "b")
    assert len(calls) == 1
    assert len(taken(outbox)) == 1  # ends with None: the writer will wait
    outbox.push("lab.x", "c")
    assert len(calls) == 2
    outbox.take(0)
    assert not outbox.ready  # looking is as good as taking
    outbox.push("lab.x", "d")
    assert len(calls) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_bytes": 0}, {"inline_bytes_max": 2 << 20}, {"chunk_bytes": 2 << 20},
        {"window_messages": 0}, {"window_bytes": -1}, {"transfer_window_bytes": 0},
    ],
)  # fmt: skip
def test_limits_that_no_frame_could_keep_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        _native.Outbox(**wrong)  # type: ignore[arg-type]


# ---- windows and receipts ---------------------------------------------------------------------


def test_the_window_of_messages_closes_and_opens() -> None:
    outbox = _native.Outbox(window_messages=3)
    ids = [outbox.push("lab.x", str(i)) for i in range(3)]
    assert not outbox.room
    ids += [outbox.push("lab.x", str(i)) for i in range(3)]  # still taken, up to twice
    assert code_of(outbox.push, "lab.x", "7") == "QUEUE_FULL"
    taken(outbox)
    assert not outbox.room
    outbox.feed(frame(*(receipt(i) for i in ids[:4])))
    assert (outbox.room, outbox.unanswered) == (True, 2)


def test_the_window_of_bytes_closes_and_opens() -> None:
    outbox = _native.Outbox(window_bytes=10_000)
    first = outbox.push("lab.x", "x" * 9_900)
    second = outbox.push("lab.x", "x" * 9_900)
    assert not outbox.room
    third = outbox.push("lab.x", "y" * 100)
    assert code_of(outbox.push, "lab.x", "z") == "QUEUE_FULL"
    taken(outbox)
    outbox.feed(frame(receipt(first), receipt(second), receipt(third)))
    assert outbox.room


def test_outcomes_come_with_their_tickets_in_the_order_of_sending() -> None:
    outbox = _native.Outbox()
    low = outbox.push("lab.x", "low", None, "low")
    uncounted = outbox.push("lab.x", "no ticket")
    high = outbox.push("lab.x", "high", _native.Options(priority=5), ticket="high")
    taken(outbox)
    answers = frame(receipt(high), receipt(low, refused="DENIED"), receipt(uncounted))
    (first, got), (second, error) = outbox.feed(answers)
    assert (first, second) == ("high", "low")
    assert isinstance(got, _native.Receipt)
    assert got.id.replace("-", "") == high.hex()
    assert isinstance(error, bytes)
    assert error_pb2.Error.FromString(error).code == "DENIED"
    assert (outbox.accepted, outbox.refused, outbox.unanswered) == (2, 1, 0)


def test_a_receipt_out_of_order_is_a_protocol_error() -> None:
    outbox = _native.Outbox()
    first, second = outbox.push("lab.x", "a"), outbox.push("lab.x", "b")
    assert code_of(outbox.feed, frame(receipt(first))) == "PROTOCOL_ERROR"  # not sent yet
    taken(outbox)
    assert code_of(outbox.feed, frame(receipt(second))) == "PROTOCOL_ERROR"
    assert code_of(outbox.feed, frame(receipt(_native.new_id()))) == "PROTOCOL_ERROR"
    outbox.feed(frame(receipt(first), receipt(second)))
    assert code_of(outbox.feed, frame(receipt(second))) == "PROTOCOL_ERROR"


def test_outcomes_before_an_error_are_not_lost() -> None:
    outbox = _native.Outbox()
    first, second = outbox.push("lab.x", "a", None, 1), outbox.push("lab.x", "b", None, 2)
    taken(outbox)
    assert [t for t, _ in outbox.feed(frame(receipt(first), receipt(first)))] == [1]
    assert code_of(outbox.feed, frame(receipt(second))) == "PROTOCOL_ERROR"


def test_what_never_comes_down_a_publish_stream_is_refused() -> None:
    outbox = _native.Outbox()
    for item in (inline_item(message("x")), chunk_item(head(2), 0, 0, b"a")):
        assert code_of(outbox.feed, frame(item)) == "PROTOCOL_ERROR"
    for junk in (b"\x0a", b"\x0a\x05\x3a", b"\xff" * 20):
        assert code_of(outbox.feed, junk) == "FRAME_CORRUPT"
    with pytest.raises(TypeError):
        outbox.feed("x")  # type: ignore[arg-type]


def test_quiet_messages_come_back_only_when_refused() -> None:
    outbox = _native.Outbox()
    quiet = _native.Options(quiet=True)
    outbox.push("lab.x", "q1", quiet, "q1")
    q2 = outbox.push("lab.x", "q2", quiet, "q2")
    loud = outbox.push("lab.x", "loud", None, "loud")
    outbox.push("lab.x", "q3", quiet, "q3")
    assert outbox.unanswered == 1
    taken(outbox)
    outcomes = outbox.feed(frame(receipt(q2, refused="NO_MATCH"), receipt(loud)))
    assert [ticket for ticket, _ in outcomes] == ["q2", "loud"]
    assert (outbox.unanswered, outbox.accepted, outbox.refused) == (0, 1, 1)


def test_quiet_messages_never_pile_up() -> None:
    outbox = _native.Outbox(window_messages=100)
    quiet, ticket = _native.Options(quiet=True), object()
    before = sys.getrefcount(ticket)
    first = b""
    for i in range(10_000):
        made = outbox.push("lab.x", "q", quiet, ticket)
        first = first or made
        if i % 10 == 9:
            taken(outbox)
        assert sys.getrefcount(ticket) <= before + 221
    assert outbox.room
    assert outbox.feed(frame(receipt(first, refused="NO_MATCH"))) == []  # forgotten: counted only
    assert outbox.refused == 1
    loud = outbox.push("lab.x", "loud")
    taken(outbox)
    outbox.feed(frame(receipt(loud)))
    assert sys.getrefcount(ticket) == before


# ---- large messages ---------------------------------------------------------------------------


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
    wakes = []
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
    assert wakes == []


def test_credit_wakes_the_writer() -> None:
    wakes: list[int] = []
    outbox = _native.Outbox(transfer_window_bytes=MIB, wake=lambda: wakes.append(1))
    made = outbox.push("lab.x", large(count=2 * MIB))
    taken(outbox)
    assert len(wakes) == 1
    outbox.feed(credit(made, MIB))
    assert len(wakes) == 2


def test_transfers_take_turns_by_priority_then_deadline_then_chunk() -> None:
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
    assert order[:6] == ["urgent", "urgent", "soon", "soon", "late", "late"]
    assert order[6:] in (["slow1", "slow2"] * 2, ["slow2", "slow1"] * 2)


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
