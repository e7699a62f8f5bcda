"""Outbox: large messages in shared memory, what leaves of them, and how long the memory is held."""

from __future__ import annotations

import gc
import random
import threading
import weakref
from typing import Any

import numpy as np
import pytest

from sira import _native

from .arena_harness import KIB, Lending, Reader, kinds, next_items, ramp
from .client_harness import (
    LATER_NS,
    MIB,
    chunks_of,
    code_of,
    credit,
    frame,
    items_of,
    large,
    receipt,
    taken,
    text_of,
)

# ---- what leaves --------------------------------------------------------------------------------


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


# ---- loans --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 100, 300 * KIB])
def test_a_loan_of_any_size_is_copied_nowhere_and_its_receipt_says_so(count: int) -> None:
    lending = Lending()
    chunk = lending.arena.take(2 * count)
    array = np.frombuffer(memoryview(chunk), np.uint8)
    array[:] = ramp(2 * count)
    made = lending.outbox.push("lab.x", {"b": array[count:], "a": array[:count]}, loan=chunk)
    head, b, a = next_items(lending.outbox)
    assert lending.asked == []
    assert kinds([head, b, a]) == ["head", "lent", "lent"]
    assert b.chunk.lent.offset == a.chunk.lent.offset + count
    array[0] = 99  # still the same memory
    assert lending.read(a.chunk.lent)[0] == 99
    answer = receipt(made)
    answer.receipt.copies = 1  # the node cannot know
    lending.outbox.push("lab.x", "x", None, "small")
    ticketed = lending.outbox.push("lab.x", {"a": array}, None, "loan", loan=chunk)
    taken(lending.outbox)
    second = receipt(ticketed)
    second.receipt.copies = 1
    lending.outbox.feed(frame(answer))
    ((ticket, outcome),) = lending.outbox.feed(frame(second))
    assert isinstance(outcome, _native.Receipt)
    assert (ticket, outcome.copies) == ("loan", 0)


def test_a_loan_that_leaves_as_bytes_was_copied() -> None:
    lending = Lending(lends=False)
    chunk = lending.arena.take(100)
    array = np.frombuffer(memoryview(chunk), np.uint8)
    made = lending.outbox.push("lab.x", {"x": array}, None, "loan", loan=chunk)
    assert kinds(items_of(taken(lending.outbox))) == ["head", "data"]
    answer = receipt(made)
    answer.receipt.copies = 1
    ((_, outcome),) = lending.outbox.feed(frame(answer))
    assert isinstance(outcome, _native.Receipt)
    assert outcome.copies == 1


def test_what_the_placer_gave_is_one_copy() -> None:
    lending = Lending()
    made = lending.outbox.push("lab.x", large(), None, "copied")
    taken(lending.outbox)
    answer = receipt(made)
    answer.receipt.copies = 1
    ((_, outcome),) = lending.outbox.feed(frame(answer))
    assert isinstance(outcome, _native.Receipt)
    assert outcome.copies == 1


def test_a_body_elsewhere_is_no_loan_and_one_partly_there_is_not_spoilt() -> None:
    lending = Lending(inline_bytes_max=64 * KIB)
    outbox = lending.outbox
    chunk = lending.arena.take(200 * KIB)
    array = np.frombuffer(memoryview(chunk), np.uint8)
    array[:] = ramp(200 * KIB)
    elsewhere = ramp(100 * KIB, 5)
    outbox.push("lab.x", {"x": elsewhere}, loan=chunk)
    (_, lent) = next_items(outbox)
    assert lending.read(lent.chunk.lent) == elsewhere.tobytes()
    # Even a placer that gives the very memory in which a part lies.
    outbox.placer = lambda topic, size: chunk
    outbox.push("lab.x", {"x": elsewhere[: 50 * KIB], "y": array[: 60 * KIB]})
    items = items_of(taken(outbox))
    assert kinds(items) == ["head", "data", "data"]
    assert items[2].chunk.data == ramp(60 * KIB).tobytes()
    assert array.tobytes() == ramp(200 * KIB).tobytes()
    outbox.push("lab.x", {"y": array[5:], "x": array[:5]})  # all of it: no copy
    (_, y, _) = next_items(outbox)
    assert lending.read(y.chunk.lent) == array[5:].tobytes()


# ---- placers that do wrong ----------------------------------------------------------------------


def test_what_a_placer_does_wrong_is_raised_and_nothing_is_queued() -> None:
    lending = Lending()
    outbox = lending.outbox

    def refused(placer: Any, error: type[Exception]) -> None:
        outbox.placer = placer
        with pytest.raises(error):
            outbox.push("lab.x", large(), None, "ticket")
        assert (outbox.ready, outbox.unanswered, outbox.transfer_bytes) == (False, 0, 0)
        assert lending.held_bytes == 0

    def fails(topic: str, size: int) -> None:
        raise LookupError(topic)

    refused(fails, LookupError)
    refused(lambda topic, size: bytearray(size), TypeError)
    refused(lambda topic, size: lending.arena.take(size - 1), ValueError)
    refused(lambda topic: None, TypeError)
    with pytest.raises(TypeError):
        outbox.push("lab.x", "x", loan=bytearray(8))  # type: ignore[arg-type]
    outbox.placer = None
    outbox.push("lab.x", large())
    assert kinds(next_items(outbox)) == ["head"]


def test_a_full_outbox_takes_no_memory() -> None:
    lending = Lending(window_bytes=MIB, lends=False)
    lending.outbox.push("lab.x", large())
    lending.outbox.push("lab.x", large())
    asked = len(lending.asked)
    assert code_of(lending.outbox.push, "lab.x", large()) == "QUEUE_FULL"
    assert len(lending.asked) == asked == 2


def test_few_large_messages_are_unanswered_at_once_however_little_they_weigh() -> None:
    lending = Lending(lend_bytes_min=1, inline_bytes_max=64)
    body = bytes(100)
    outbox = lending.outbox
    for _ in range(448):
        assert outbox.transfer_room
        outbox.push("lab.x", body)
    assert not outbox.transfer_room and outbox.room
    ids = [outbox.push("lab.x", body) for _ in range(448)]
    assert code_of(outbox.push, "lab.x", body) == "QUEUE_FULL"
    outbox.push("lab.x", None)  # small ones have room
    taken(outbox)
    assert code_of(outbox.push, "lab.x", body) == "QUEUE_FULL", "taken is not answered"
    outbox.feed(frame(receipt(ids[-1])))
    outbox.push("lab.x", body)
    outbox.clear()
    assert outbox.transfer_room


def test_a_placer_that_fills_the_outbox_meanwhile_is_told_so_and_its_memory_goes_back() -> None:
    lending = Lending(window_messages=1, lends=False)
    outbox = lending.outbox

    def place(topic: str, size: int) -> _native.ShmChunk:
        for _ in range(2):
            outbox.push("lab.x", "small")
        return lending.arena.take(size)

    outbox.placer = place
    assert code_of(outbox.push, "lab.x", large()) == "QUEUE_FULL"
    assert lending.held_bytes == 0
    assert sum(len(text_of(f)) for f in taken(outbox)) == 2


def test_an_outbox_and_its_placer_do_not_keep_each_other_alive() -> None:
    lending = Lending()
    lending.outbox.push("lab.x", large())
    taken(lending.outbox)
    gone = weakref.ref(lending)
    del lending
    gc.collect()
    assert gone() is None


# ---- how long memory is held --------------------------------------------------------------------


@pytest.mark.parametrize("answered_first", [True, False])
def test_memory_is_held_until_the_message_is_answered_and_its_lease_returned(
    answered_first: bool,
) -> None:
    lending = Lending(256 * KIB)  # one message at a time
    outbox = lending.outbox
    made = outbox.push("lab.x", {"x": ramp(200 * KIB)}, None, "first")
    lent = items_of(taken(outbox))[1].chunk.lent
    steps = [lambda: outbox.feed(frame(receipt(made))), lambda: outbox.returned([lent.lease])]
    for step in steps if answered_first else reversed(steps):
        assert code_of(lending.arena.take, 200 * KIB) == "QUEUE_FULL"
        assert lending.read(lent) == ramp(200 * KIB).tobytes()
        step()
    assert lending.held_bytes == 0
    outbox.push("lab.x", {"x": ramp(200 * KIB, 1)})
    assert kinds(next_items(outbox)) == ["head", "lent"]


def test_all_leases_of_a_message_hold_it() -> None:
    lending = Lending()
    outbox = lending.outbox
    made = outbox.push("lab.x", {name: ramp(30 * KIB) for name in "abc"})
    leases = [c.lent.lease for c in chunks_of(taken(outbox))]
    outbox.feed(frame(receipt(made)))
    for lease in leases:
        assert lending.held_bytes == 90 * KIB
        outbox.returned([lease])
    assert (lending.held_bytes, outbox.leases) == (0, 0)


def test_a_refused_message_may_still_be_read_until_its_lease_returns() -> None:
    lending = Lending()
    made = lending.outbox.push("lab.x", large(), None, "refused")
    (_, item) = items_of(taken(lending.outbox))
    (outcome,) = lending.outbox.feed(frame(receipt(made, refused="DENIED")))
    assert outcome[0] == "refused"
    assert lending.held_bytes == MIB
    lending.outbox.returned([item.chunk.lent.lease])
    assert lending.held_bytes == 0


def test_what_was_never_sent_goes_back_with_its_message() -> None:
    lending = Lending()
    outbox, ticket = lending.outbox, object()
    outbox.push("lab.x", large(), None, ticket)
    assert lending.held_bytes == MIB
    assert outbox.cancel(ticket)
    assert lending.held_bytes == 0
    outbox.push("lab.x", large(), None, ticket)
    assert outbox.clear() == [ticket]
    assert (lending.held_bytes, lending.arena.retired_total) == (0, 0)


def test_a_message_cancelled_after_it_left_is_held_by_its_lease() -> None:
    lending = Lending()
    outbox, ticket = lending.outbox, object()
    made = outbox.push("lab.x", large(), None, ticket)
    (_, item) = items_of(taken(outbox))
    assert outbox.cancel(ticket)
    assert outbox.feed(frame(receipt(made))) == []
    assert (lending.held_bytes, outbox.unanswered) == (MIB, 0)
    outbox.returned([item.chunk.lent.lease])
    assert lending.held_bytes == 0


def test_a_quiet_message_is_held_by_its_lease_only() -> None:
    lending = Lending()
    outbox = lending.outbox
    outbox.push("lab.x", large(), _native.Options(quiet=True), "quiet")
    (_, item) = items_of(taken(outbox))
    assert (lending.held_bytes, outbox.unanswered) == (MIB, 0)
    outbox.returned([item.chunk.lent.lease])
    assert lending.held_bytes == 0
    assert outbox.rewind() == (0, [])
    assert not outbox.ready


def test_leases_return_in_any_order_and_a_number_that_is_not_out_is_refused() -> None:
    lending = Lending(lend_bytes_min=1)
    outbox = lending.outbox
    rng = random.Random(5)
    out: dict[int, int] = {}
    for _ in range(60):
        for _ in range(rng.randrange(20)):
            size = rng.randrange(1, 2000)
            made = outbox.push("lab.x", {"x": ramp(size)})
            (_, item) = next_items(outbox)
            outbox.feed(frame(receipt(made)))
            out[item.chunk.lent.lease] = size
        back = rng.sample([*out], rng.randrange(len(out) + 1))
        outbox.returned(back)
        for lease in back:
            del out[lease]
        assert (outbox.leases, lending.held_bytes) == (len(out), sum(out.values()))
        if back:
            assert code_of(outbox.returned, [back[0]]) == "PROTOCOL_ERROR"
    for wrong in (0, 1 << 40, (1 << 64) - 1):
        assert code_of(outbox.returned, [wrong]) == "PROTOCOL_ERROR"
    for value in (-1, 1 << 64):
        with pytest.raises(OverflowError):
            outbox.returned([value])
    assert outbox.leases == len(out)


# ---- lost connections ---------------------------------------------------------------------------


def test_what_was_not_answered_is_sent_again_as_bytes_from_memory_that_nobody_writes() -> None:
    lending, array = Lending(), ramp(100 * KIB)
    outbox = lending.outbox
    made = outbox.push("lab.x", {"x": array}, None, "first")
    (_, item) = items_of(taken(outbox))
    reader = Reader()
    reader.show(lending.arena)
    lent = item.chunk.lent
    span = reader.maps.span(lent.segment, lent.offset, lent.bytes, 1)
    assert outbox.rewind() == (1, [])
    assert (outbox.leases, outbox.lends, outbox.transfer_bytes) == (0, False, 100 * KIB)
    outbox.lends = True  # the next connection knows nothing of the segments of the last
    items = items_of(taken(outbox))
    assert kinds(items) == ["head", "data"]
    assert (items[0].head.id, items[1].chunk.data) == (made, array.tobytes())
    ((ticket, _),) = outbox.feed(frame(receipt(made)))
    assert ticket == "first"
    # The reader of before looks at it still, and nobody will say when that ends.
    for _ in range(20):
        outbox.push("lab.x", {"x": np.full(100 * KIB, 255, np.uint8)})
    assert set(kinds(items_of(taken(outbox)))) == {"head", "lent"}
    assert bytes(memoryview(span)) == array.tobytes()
    outbox.returned([lent.lease])  # late, of the connection that was lost: nothing
    assert outbox.leases == 20


def test_clear_forgets_leases_and_their_memory_is_not_written_again() -> None:
    lending, array = Lending(256 * KIB), ramp(200 * KIB)
    outbox = lending.outbox
    outbox.push("lab.x", {"x": array}, None, "first")
    lent = items_of(taken(outbox))[1].chunk.lent
    reader = Reader()
    reader.show(lending.arena)
    span = reader.maps.span(lent.segment, lent.offset, lent.bytes, 1)
    assert outbox.clear() == ["first"]
    assert (outbox.leases, lending.held_bytes) == (0, 0)
    assert lending.arena.segments() == []
    assert lending.arena.retired() == [lent.segment]
    outbox.lends = True
    outbox.push("lab.x", {"x": np.zeros(200 * KIB, np.uint8)})
    assert next_items(outbox)[1].chunk.lent.segment != lent.segment
    assert bytes(memoryview(span)) == array.tobytes()
    outbox.returned([lent.lease])
    assert outbox.leases == 1


def test_a_queued_message_survives_a_lost_connection_and_leaves_as_bytes() -> None:
    lending = Lending()
    outbox = lending.outbox
    outbox.push("lab.x", large(9), None, "queued")
    assert outbox.rewind() == (0, [])
    outbox.lends = True
    items = items_of(taken(outbox))
    assert set(kinds(items)) == {"head", "data"}
    assert b"".join(item.chunk.data for item in items[1:]) == b"\x09" * MIB
    assert lending.held_bytes == 0


def test_books_of_an_arena_stay_right_when_segments_are_taken_from_it() -> None:
    lending = Lending(8 * MIB)
    outbox, arena = lending.outbox, lending.arena
    kept = arena.take(1000)
    outbox.push("lab.x", large(), None, "a")
    outbox.push("lab.x", large(), None, "b")
    taken(outbox)
    made = arena.made_total
    outbox.clear()
    assert (arena.asked_bytes, arena.made_total) == (1000, made)
    assert arena.segment_bytes == 256 * KIB  # where `kept` is
    assert arena.made_total - arena.retired_total == len(arena.segments()) == 1
    del kept
    assert (arena.asked_bytes, arena.chunk_bytes) == (0, 0)
    again = [arena.take(2 * MIB) for _ in range(3)]
    assert arena.asked_bytes == 6 * MIB
    del again
    assert arena.asked_bytes == 0


# ---- threads ------------------------------------------------------------------------------------


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
