"""Outbox: bodies that lie in shared memory already, and who gives the memory for others."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

from sira import _native

from .arena_harness import KIB, Lending, kinds, next_items, ramp
from .client_harness import (
    MIB,
    code_of,
    frame,
    items_of,
    large,
    receipt,
    taken,
    text_of,
)


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
