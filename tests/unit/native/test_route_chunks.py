"""Messages past the node that a slot has no room for: where they lie, and when that comes back."""

from __future__ import annotations

import gc
import os
import random

import numpy as np
import pytest

from sira import _native

from .arena_harness import KIB, kinds, next_items, ramp
from .client_harness import MIB, items_of, taken
from .route_harness import TOPIC, Link, Routed


def known(routed: Routed, size: int = 64 * KIB) -> None:
    """Have the arena make a segment, so that a grant can name it."""
    routed.lending.arena.take(size)


@pytest.mark.parametrize("count", [449, 5_000, 100_000, 2 * MIB])
def test_a_body_longer_than_a_slot_lies_in_a_chunk_and_is_copied_once(count: int) -> None:
    routed = Routed()
    known(routed, count + 4 * KIB)
    link, cell = routed.live()
    body = {"x": ramp(count), "y": np.full(3, 1.5)}
    made = routed.outbox.direct(TOPIC, body)
    assert made is not None
    assert (made.lanes, made.copies, made.bytes) == (["shm"], 1, count + 24)
    assert routed.lending.held_bytes > count
    got = link.take(cell)
    assert got is not None
    np.testing.assert_array_equal(got["x"], body["x"])
    np.testing.assert_array_equal(got["y"], body["y"])
    del got
    gc.collect()
    link.writer.collect()
    assert routed.lending.held_bytes == 0


def test_the_chunk_waits_for_all_targets() -> None:
    routed = Routed()
    known(routed)
    one, other = Link(), Link()
    cells = one.cell(), other.cell()
    assert routed.grant(routed.asked(), (one, cells[0]), (other, cells[1]), matched=2)
    assert routed.outbox.direct(TOPIC, {"x": ramp(2000)}) is not None
    assert one.take(cells[0]) is not None
    one.writer.collect()
    assert routed.lending.held_bytes == 2000
    got = other.take(cells[1])
    assert got is not None
    other.writer.collect()
    assert routed.lending.held_bytes == 2000
    del got
    other.writer.collect()
    assert routed.lending.held_bytes == 0


def test_a_body_in_a_segment_that_the_targets_lack_goes_by_the_node() -> None:
    routed = Routed()
    link, cell = routed.live()  # before any segment was made
    assert routed.outbox.direct(TOPIC, {"x": ramp(5000)}) is None
    assert routed.outbox.route_state(TOPIC) == "live"
    routed.outbox.push(TOPIC, {"x": ramp(100 * KIB)})
    assert routed.outbox.route_state(TOPIC) == "idle"
    assert kinds(next_items(routed.outbox)) == ["head", "lent"]
    assert link.take(cell) is None


def test_a_loan_is_copied_nowhere() -> None:
    routed = Routed()
    chunk = routed.lending.arena.take(10_000)
    link, cell = routed.live()
    array = np.frombuffer(memoryview(chunk), np.uint8)
    array[:] = ramp(10_000)
    made = routed.outbox.direct(TOPIC, {"x": array[64:5064]}, None, chunk)
    assert made is not None
    assert (made.copies, made.bytes) == (0, 5000)
    got = link.take(cell)
    assert got is not None
    array[64] = 99  # the very memory
    assert got["x"][0] == 99
    assert routed.lending.asked == []


def test_a_small_loan_is_copied_nowhere_either() -> None:
    routed = Routed()
    chunk = routed.lending.arena.take(100)
    link, cell = routed.live()
    array = np.frombuffer(memoryview(chunk), np.uint8)
    made = routed.outbox.direct(TOPIC, {"x": array}, loan=chunk)
    assert made is not None
    assert made.copies == 0
    assert link.take(cell) is not None


def test_a_loan_whose_tensors_lie_otherwise_goes_by_the_node() -> None:
    routed = Routed()
    chunk = routed.lending.arena.take(10_000)
    link, cell = routed.live()
    array = np.frombuffer(memoryview(chunk), np.uint8)
    for body in ({"x": array[5:4000]}, {"y": array[6400:7000], "x": array[:5000]}):
        assert routed.outbox.direct(TOPIC, body, loan=chunk) is None
    assert link.take(cell) is None
    assert routed.outbox.direct(TOPIC, "elsewhere", loan=chunk) is not None
    got = link.take(cell)
    assert got is not None
    assert got.text == "elsewhere"


def test_a_head_too_long_for_a_slot_stands_behind_the_tensors() -> None:
    routed = Routed()
    known(routed)
    link, cell = routed.live()
    options = _native.Options(headers={"k" * 50: "v" * 900})
    for body in (None, "text", {"x": ramp(5000)}):
        made = routed.outbox.direct(TOPIC, body, options)
        assert made is not None
        got = link.take(cell)
        assert got is not None
        assert got.headers == {"k" * 50: "v" * 900}
        if isinstance(body, dict):
            np.testing.assert_array_equal(got["x"], body["x"])
        elif body is not None:
            assert got.text == body


def test_without_a_placer_only_what_fits_a_slot_goes_past_the_node() -> None:
    routed = Routed()
    link, cell = routed.live()
    routed.outbox.placer = None
    assert routed.outbox.direct(TOPIC, b"x" * 1000) is None
    assert routed.outbox.direct(TOPIC, b"x" * 100) is not None
    assert link.take(cell) is not None


def test_nothing_is_placed_where_there_is_no_room() -> None:
    routed = Routed()
    known(routed)
    _, _ = routed.live(held_bytes_max=9_000)
    assert routed.outbox.direct(TOPIC, {"x": ramp(5000)}) is not None
    asked = len(routed.lending.asked)
    assert routed.outbox.direct(TOPIC, {"x": ramp(5000)}) is None
    assert routed.outbox.blocked(TOPIC) is not None
    assert len(routed.lending.asked) == asked


def test_what_is_taken_and_viewed_is_not_in_the_window() -> None:
    routed = Routed()
    known(routed)
    link, cell = routed.live(window_bytes=9_000)
    body = {"x": ramp(5000)}
    assert routed.outbox.direct(TOPIC, body) is not None
    assert routed.outbox.direct(TOPIC, body) is not None  # less than the window is before it
    assert routed.outbox.direct(TOPIC, body) is None
    viewed = link.take(cell)
    assert routed.outbox.direct(TOPIC, body) is not None
    assert viewed is not None
    assert routed.outbox.direct(TOPIC, body) is None


def test_what_a_placer_does_meanwhile_is_looked_at_again() -> None:
    routed = Routed()
    known(routed)
    link, cell = routed.live()

    def leaves(topic: str, size: int) -> _native.ShmChunk | None:
        routed.outbox.placer = None
        routed.outbox.push(TOPIC, "by the node")
        return routed.lending.arena.take(size)

    routed.outbox.placer = leaves
    assert routed.outbox.direct(TOPIC, b"x" * 1000) is None
    assert link.take(cell) is None
    assert routed.lending.held_bytes == 0


def test_what_was_placed_and_has_no_way_any_more_is_not_copied_again() -> None:
    routed = Routed()
    known(routed, MIB)
    link, cell = routed.live(window=1)

    def fills(topic: str, size: int) -> _native.ShmChunk | None:
        routed.lending.asked.append((topic, size))
        assert routed.outbox.direct(TOPIC, "first") is not None
        return routed.lending.arena.take(size)

    routed.outbox.placer = fills
    body = {"x": ramp(500 * KIB)}
    routed.outbox.push(TOPIC, body, _native.Options(quiet=True))
    assert len(routed.lending.asked) == 1
    assert kinds(items_of(taken(routed.outbox))) == ["head", "lent"]
    assert link.texts(cell) == ["first"]


def test_what_the_placer_raises_is_raised_and_nothing_is_sent() -> None:
    routed = Routed()
    link, cell = routed.live()

    def fails(topic: str, size: int) -> _native.ShmChunk | None:
        raise OSError("no memory of this kind")

    routed.outbox.placer = fails
    with pytest.raises(OSError, match="of this kind"):
        routed.outbox.direct(TOPIC, b"x" * 1000)
    assert link.take(cell) is None


def test_memory_is_whole_again_after_many_messages_whatever_became_of_them() -> None:
    seed = int(os.environ.get("SIRA_TEST_SEED") or random.randrange(1 << 32))
    print(f"SIRA_TEST_SEED={seed}")
    rng = random.Random(seed)
    routed = Routed()
    known(routed, MIB)
    link, cell = routed.live(window=8, held_bytes_max=64 * KIB)
    kept: list[_native.Message] = []
    for _ in range(3000):
        step = rng.random()
        if step < 0.5:
            if routed.outbox.route_state(TOPIC) != "live":
                for ask, _ in routed.asks():
                    cell = link.cell() if link.next_cell < 255 else cell
                    routed.grant(ask, (link, cell), window=8, held_bytes_max=64 * KIB)
            if routed.outbox.direct(TOPIC, {"x": ramp(rng.randrange(60_000))}) is None:
                rest = rng.random()
                if rest < 0.05:
                    routed.outbox.push(TOPIC, "by the node", _native.Options(quiet=True))
        elif step < 0.8:
            for each in range(link.next_cell):
                kept.extend(filter(None, [link.take(each)]))
        elif kept:
            del kept[rng.randrange(len(kept))]
    kept.clear()
    routed.outbox.clear()
    link.reader.look()
    for each in range(link.next_cell):
        while link.take(each) is not None:
            pass
    link.writer.collect()
    assert routed.lending.held_bytes == 0
