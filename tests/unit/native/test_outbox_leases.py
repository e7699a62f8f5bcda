"""Outbox: how long memory that was lent is held, also over a lost connection."""

from __future__ import annotations

import random

import numpy as np
import pytest

from sira import _native

from .arena_harness import KIB, Lending, Reader, kinds, next_items, ramp
from .client_harness import (
    MIB,
    chunks_of,
    code_of,
    frame,
    items_of,
    large,
    receipt,
    taken,
)


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
