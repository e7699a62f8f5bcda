"""The shared-memory core seen from Python: messages in mapped memory, holds, limits, waiting."""

from __future__ import annotations

import gc
import mmap
import os
import struct
import threading
import traceback
from collections.abc import Callable

import numpy as np
import pytest

from sira import _native
from sira.kernel.errors import SiraError

from .link_harness import ends

NO_SLOT, NO_CREDIT, NO_HOLD = -2, -3, -4
CANCELLED, SUPERSEDED = 1, 3
WATCHDOG_S = 60.0


class Pair:
    """Both ends of one link in this process; each has a mapping of its own."""

    def __init__(
        self, *, slots: int = 16, holds: int = 8, cells: int = 4, window: int = 100
    ) -> None:
        self.node, self.writer, self.reader = ends(slots=slots, holds=holds, cells=cells)
        for cell in range(cells):
            self.writer.open_cell(cell, window, 1 << 30)
        self.arena = _native.ShmArena(64 << 20)
        self._known: set[int] = set()

    def introduce(self) -> None:
        """What the node does: hand the reader the segments that it lacks."""
        for segment, fd, size in self.arena.segments():
            if segment not in self._known:
                self.reader.map(segment, os.dup(fd), size)
                self._known.add(segment)

    def send(self, body: object, cell: int = 0, **options: object) -> int:
        made = _native.Options(**options) if options else None  # type: ignore[arg-type]
        post = _native.ShmPost("a.b", body, made, self.arena)
        self.introduce()
        return self.writer.post(post, cell)

    def take(self, cell: int = 0) -> _native.Message:
        message = self.reader.take(cell)
        assert message is not None
        return message


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(SiraError) as caught:
        call()
    return caught.value.code


@pytest.mark.parametrize("count", [0, 1, 3, 40, 110, 5_000, 400_000])
def test_a_message_of_any_size_arrives_as_it_was(count: int) -> None:
    pair = Pair()
    body = {"x": np.arange(count, dtype=np.float32), "y": np.full((2, 3), 9, np.int16)}
    assert pair.send(body, priority=3) > 0
    got = pair.take()
    assert got.topic == "a.b"
    assert got.priority == 3
    assert set(got.keys()) == {"x", "y"}
    np.testing.assert_array_equal(got["x"], body["x"])
    np.testing.assert_array_equal(got["y"], body["y"])
    assert pair.reader.take(0) is None


@pytest.mark.parametrize("body", [b"", b"text" * 1000, "words " * 300, None, {}])
def test_bodies_that_are_not_arrays_arrive(body: object) -> None:
    pair = Pair()
    assert pair.send(body) > 0
    got = pair.take()
    if isinstance(body, bytes):
        assert bytes(got.bytes) == body
    elif isinstance(body, str):
        assert got.text == body
    else:
        assert len(got) == 0


def test_a_head_too_long_for_a_slot_stands_behind_the_tensors() -> None:
    pair = Pair()
    names = {f"tensor-{i:03d}-with-a-rather-long-name": np.full(50, i, np.uint8) for i in range(40)}
    assert pair.send(names, headers={"k" * 50: "v" * 500}) > 0
    got = pair.take()
    assert got.headers == {"k" * 50: "v" * 500}
    for i, array in enumerate(got.values()):
        assert array.tobytes() == bytes([i]) * 50


def test_arrays_lie_in_the_mapped_memory_and_are_read_only() -> None:
    pair = Pair()
    pair.send({"x": np.zeros(1 << 20, np.uint8)})
    array = pair.take()["x"]
    assert array.ctypes.data % 64 == 0
    assert not array.flags.writeable
    with pytest.raises(ValueError, match=r"read-only|WRITEABLE"):
        array.flags.writeable = True


def test_a_chunk_comes_back_when_the_last_array_is_gone() -> None:
    pair = Pair()
    pair.send({"x": np.ones(100_000, np.uint8), "y": np.ones(100_000, np.uint8)})
    message = pair.take()
    y = message["y"][1:5]
    del message
    gc.collect()
    assert pair.writer.collect() == (16, 1)
    assert pair.arena.chunk_bytes > 0
    assert y.tobytes() == b"\1\1\1\1"
    del y
    assert pair.writer.collect() == (16, 0)
    assert pair.arena.chunk_bytes == 0


def test_a_view_outlives_reader_writer_and_arena() -> None:
    pair = Pair()
    pair.send({"x": np.arange(100_000)})
    x = pair.take()["x"]
    pair.writer.end()
    del pair
    gc.collect()
    assert int(x[99_999]) == 99_999


@pytest.mark.parametrize("taken", [True, False])
def test_what_a_reader_has_of_a_forsaken_writer_is_never_written_again(taken: bool) -> None:
    pair = Pair()
    pair.send({"x": np.full(100_000, 7, np.uint8)})
    kept = pair.take()["x"] if taken else None
    pair.writer.forsake()
    del pair.writer
    gc.collect()
    again = pair.arena.take(100_000)
    memoryview(again)[:] = bytes(100_000)
    kept = pair.take()["x"] if kept is None else kept
    assert kept.min() == kept.max() == 7


def test_what_a_forsaken_writer_has_back_is_used_again() -> None:
    pair = Pair()
    pair.send({"x": np.full(100_000, 7, np.uint8)})
    pair.take()
    gc.collect()
    pair.writer.forsake()
    del pair.writer
    gc.collect()
    assert (pair.arena.chunk_bytes, pair.arena.retired_total) == (0, 0)


def test_fan_out_writes_once_and_the_chunk_waits_for_all() -> None:
    first, second = Pair(), Pair()
    post = _native.ShmPost("a.b", {"x": np.ones(1000, np.uint8)}, None, first.arena)
    assert post.copies == 1
    first.introduce()
    for segment, fd, size in first.arena.segments():
        second.reader.map(segment, os.dup(fd), size)
    assert first.writer.post(post, 0) > 0
    assert second.writer.post(post, 1) > 0
    del post
    a, b = first.take()["x"], second.take(1)["x"]
    assert a.tobytes() == b.tobytes() == b"\1" * 1000
    for last in (0, 1):
        first.writer.collect()
        second.writer.collect()
        assert first.arena.chunk_bytes == 1024
        if last == 0:
            del a
    del b
    second.writer.collect()
    assert first.arena.chunk_bytes == 0


def test_a_loan_is_posted_without_a_copy_and_only_as_it_was_made() -> None:
    pair = Pair()
    loan = pair.arena.take(4096)
    x = np.frombuffer(loan, np.float32, count=10)
    y = np.frombuffer(loan, np.uint8, count=100, offset=64)  # the next multiple of 64
    x[:] = 1.5
    y[:] = 7
    post = _native.ShmPost("a.b", {"x": x, "y": y}, None, None, loan)
    assert post.copies == 0
    pair.introduce()
    assert pair.writer.post(post, 0) > 0
    got = pair.take()
    assert got["x"].tolist() == [1.5] * 10
    y[0] = 8  # the same memory
    assert got["y"][0] == 8
    wrong = [{"y": y, "x": x}, {"x": x.copy(), "y": y}, {"x": x[1:], "y": y}]
    for body in wrong:
        assert code_of(lambda b=body: _native.ShmPost("a.b", b, None, None, loan)) == "BAD_REQUEST"  # type: ignore[misc]


@pytest.mark.parametrize("count", [4, 100_000])
def test_a_relayed_message_is_not_copied_and_its_chunk_waits_for_the_end(count: int) -> None:
    first, second = Pair(), Pair()
    post = _native.ShmPost("a.b", {"x": np.arange(count)}, None, first.arena)
    for segment, fd, size in first.arena.segments():
        first.reader.map(segment, os.dup(fd), size, 1000 + segment)
        second.reader.map(1000 + segment, os.dup(fd), size)
    assert first.writer.post(post, 0, 0, 5) > 0
    del post
    between = first.reader.relay(0)
    assert between is not None
    assert between.copies == 0
    assert first.reader.relay(0) is None
    assert second.writer.post(between, 2) > 0
    del between
    x = second.take(2)["x"]
    first.writer.collect()
    assert x.tolist() == list(range(count))
    if count > 10:
        assert first.arena.chunk_bytes > 0  # held through both links
    del x
    second.writer.collect()  # gives back upstream
    first.writer.collect()
    assert first.arena.chunk_bytes == 0


def test_refusals_say_which_limit_and_post_nothing() -> None:
    pair = Pair(slots=8, holds=1, window=3)
    big = {"x": np.zeros(1000, np.uint8)}
    assert pair.send(big) > 0
    assert pair.send(big) == NO_HOLD
    assert pair.send(b"1") > 0
    assert pair.send(b"2") > 0
    assert pair.send(b"3") == NO_CREDIT
    for _ in range(3):
        assert pair.send(b"4", cell=1) > 0
    assert pair.send(b"5", cell=2) > 0
    assert pair.send(b"6", cell=2) == NO_SLOT
    assert pair.send(b"7", cell=2, priority=1) > 0  # the reserved eighth
    assert pair.arena.chunk_bytes == 1024
    counts, sane = pair.node.counts()
    assert sane
    assert {cell: row[:3] for cell, row in counts.items()} == {
        0: (3, 0, 3),
        1: (3, 0, 3),
        2: (2, 0, 2),
    }


def test_withdrawn_superseded_and_late_messages_are_counted_by_name() -> None:
    pair = Pair()
    ticket = pair.send(b"never")
    assert pair.writer.pending(ticket)
    assert pair.writer.withdraw(ticket, CANCELLED)
    assert not pair.writer.withdraw(ticket, CANCELLED)
    newest = 0
    for i in range(5):
        post = _native.ShmPost("a.b", b"%d" % i)
        newest = pair.writer.post(post, 1, newest)
        assert newest > 0
    assert bytes(pair.take(1).bytes) == b"4"
    assert pair.reader.take(1) is None
    pair.send({"x": np.zeros(1000)}, cell=2, ttl_ns=1)
    assert pair.reader.take(2) is None
    pair.writer.collect()
    assert pair.arena.chunk_bytes == 0
    counts, sane = pair.node.counts()
    assert sane
    assert counts[0] == (1, 0, 0, (0, 1, 0, 0, 0, 0, 0))
    assert counts[1] == (5, 1, 0, (0, 0, 0, 4, 0, 0, 0))
    assert counts[2] == (1, 0, 0, (1, 0, 0, 0, 0, 0, 0))


def test_an_arena_at_its_limit_refuses_and_shrinks_when_idle() -> None:
    arena = _native.ShmArena(4 << 20, warm_bytes=0)
    held = arena.take(3 << 20)
    assert code_of(lambda: arena.take(2 << 20)) == "QUEUE_FULL"
    assert code_of(lambda: arena.take(5 << 20)) == "MESSAGE_TOO_LARGE"
    segments = arena.segments()
    assert arena.retire(1, 0) == 0
    assert len(arena.segments()) == 1  # in use
    del held
    arena.retire(2, 0)
    assert arena.segments() == []
    assert arena.retired() == [segments[0][0]]
    arena.warm(1 << 20)
    assert arena.segment_bytes >= 1 << 20
    assert arena.chunk_bytes == 0


def test_a_segment_cannot_be_written_by_whom_it_is_handed_to() -> None:
    arena = _native.ShmArena(1 << 20)
    chunk = arena.take(100)
    ((_, fd, size),) = arena.segments()
    with pytest.raises(PermissionError):
        mmap.mmap(fd, size)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 4096)
    assert len(mmap.mmap(fd, size, prot=mmap.PROT_READ)) == size
    del chunk


def test_descriptors_that_are_not_what_was_introduced_are_corrupt() -> None:
    pair = Pair()
    fd = os.memfd_create("open")
    os.ftruncate(fd, pair.node.bytes)
    shape = {"slots": 16, "holds": 8, "cells": 4}
    try:
        assert code_of(lambda: _native.ShmLink(7, fd=fd, **shape)) == "LINK_CORRUPT"
        assert code_of(lambda: pair.reader.map(1, fd, pair.node.bytes)) == "LINK_CORRUPT"
    finally:
        os.close(fd)
    other = os.dup(pair.node.fileno())
    try:
        assert code_of(lambda: _native.ShmLink(8, fd=other, **shape)) == "LINK_CORRUPT"
        shape["cells"] = 3
        assert code_of(lambda: _native.ShmLink(7, fd=other, **shape)) == "LINK_CORRUPT"
    finally:
        os.close(other)  # refused descriptors stay the caller's


def test_a_message_outside_of_the_introduced_segments_ends_the_link() -> None:
    pair = Pair()
    post = _native.ShmPost("a.b", {"x": np.zeros(1000)}, None, pair.arena)
    assert pair.writer.post(post, 0) > 0  # its segment was never introduced
    for _ in range(2):
        assert code_of(lambda: pair.reader.take(0)) == "LINK_CORRUPT"


@pytest.mark.parametrize("bit", [0, 1, 63])  # of a message never taken; never out; there is none
def test_a_release_that_is_not_owed_ends_the_link_and_frees_nothing(bit: int) -> None:
    pair = Pair()
    pair.send({"x": np.ones(100_000, np.uint8)})
    asked = pair.arena.chunk_bytes
    forged = mmap.mmap(pair.node.fileno(), pair.node.bytes)
    holds_at = 3 * 64 + 2 * 64  # head, W and R lines; a line each of posted and returned
    struct.pack_into("<Q", forged, holds_at, 1 << bit)
    assert code_of(pair.writer.collect) == "LINK_CORRUPT"
    assert pair.arena.chunk_bytes == asked > 0


def test_scribbled_memory_is_an_error_and_not_a_crash() -> None:
    for seed in range(200):
        rng = np.random.default_rng(seed)
        pair = Pair()
        words = np.frombuffer(mmap.mmap(pair.node.fileno(), pair.node.bytes), np.uint64)
        for step in range(50):
            try:
                pair.send(b"x" * int(rng.integers(900)), cell=int(rng.integers(4)))
                if step % 3 == 0:
                    at = int(rng.integers(8, words.size))
                    words[at] ^= np.uint64(1 << int(rng.integers(64)))
                pair.reader.take(int(rng.integers(4)))
                pair.writer.collect()
            except SiraError as error:
                assert error.code in {
                    "LINK_CORRUPT",
                    "FRAME_CORRUPT",
                    "MESSAGE_TOO_LARGE",
                    "BAD_TOPIC",
                } or (error.code.startswith("BAD_")), error
                if error.code == "LINK_CORRUPT":
                    break
        pair.node.counts()


def test_a_waiter_sleeps_without_the_gil_and_is_woken() -> None:
    pair = Pair()
    bells = _native.ShmBells(spin_us_max=0)
    token = bells.add(pair.reader)
    got: list[bytes] = []

    def consume() -> None:
        while len(got) < 200:
            message = pair.reader.take(0)
            if message is None:
                bells.wait(WATCHDOG_S)
            else:
                got.append(bytes(message.bytes))

    thread = threading.Thread(target=consume)
    thread.start()
    for i in range(200):
        while pair.send(b"%d" % i) < 0:
            pair.writer.wait(WATCHDOG_S)
    thread.join(WATCHDOG_S)
    assert got == [b"%d" % i for i in range(200)]
    bells.remove(token)
    with pytest.raises(KeyError):
        bells.remove(token)


def test_one_descriptor_hears_many_readers_a_writer_and_others() -> None:
    pairs = [Pair() for _ in range(20)]
    bells = _native.ShmBells(spin_us_max=0)
    tokens = [bells.add(pair.reader) for pair in pairs]
    other = _native.shm_bell()
    token = bells.add(other)
    room = bells.add(pairs[0].writer)
    assert bells.sleep()
    assert bells.wait(0.0) == []
    pairs[7].send(b"x")
    assert bells.wait(WATCHDOG_S) == [tokens[7]]
    assert bells.wait(WATCHDOG_S) == [tokens[7]]  # nobody took it yet
    assert pairs[7].reader.look() == [0]
    assert pairs[7].reader.take(0) is not None
    assert bells.sleep()
    os.eventfd_write(other, 1)
    assert bells.wait(WATCHDOG_S) == [token]
    pairs[0].send(b"y")
    assert pairs[0].writer.sleep()
    assert bells.wait(WATCHDOG_S) == [tokens[0]]
    assert pairs[0].reader.take(0) is not None
    assert room in bells.wait(WATCHDOG_S)
    assert not pairs[0].writer.sleep()  # it has come back
    os.close(other)


def in_child(check: Callable[[], None]) -> None:
    """Run `check` in a forked child; its failure is ours."""
    pid = os.fork()
    if pid == 0:
        try:
            check()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_forked_child_neither_rings_nor_gives_back() -> None:
    pair = Pair()
    bells = _native.ShmBells()
    bells.add(pair.reader)
    pair.send({"x": np.arange(1000)})
    kept = [pair.take()["x"]]

    def check() -> None:
        assert int(kept[0][999]) == 999  # reading is free
        kept.clear()
        gc.collect()
        for call in (
            lambda: pair.send(b"x"),
            lambda: pair.reader.take(0),
            lambda: bells.wait(0.0),
            lambda: pair.writer.collect(),
            lambda: pair.arena.take(1),
        ):
            assert code_of(call) == "CONNECTION_CLOSED"

    in_child(check)
    assert pair.writer.collect() == (16, 1)  # the parent's view is still held
    kept.clear()
    assert pair.writer.collect() == (16, 0)


def test_the_counts_of_a_killed_publisher_are_whole() -> None:
    node = _native.ShmLink(1, slots=32, holds=4, cells=1)
    to_reader, to_writer = _native.shm_bell(), _native.shm_bell()
    started, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        writer = _native.ShmWriter(
            _native.ShmLink(1, slots=32, holds=4, cells=1, fd=os.dup(node.fileno())),
            to_reader,
            to_writer,
        )
        writer.open_cell(0, 1000, 0)
        count = 0
        while True:
            if writer.post(_native.ShmPost("a.b", b"%d" % count), 0) > 0:
                count += 1
            else:
                os.write(told, b"x")
                writer.wait(WATCHDOG_S)
    reader = _native.ShmReader(node, to_writer, to_reader)
    os.read(started, 1)
    taken = [reader.take(0) for _ in range(10)]
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    reader.look(True)
    while (message := reader.take(0)) is not None:
        taken.append(message)
    assert [bytes(m.bytes) for m in taken if m] == [b"%d" % i for i in range(len(taken))]
    counts, sane = node.counts()
    assert sane
    assert counts[0][:3] == (len(taken), len(taken), 0)
    os.close(started)
    os.close(told)


def test_a_kick_ends_the_wait_of_a_thread_whoever_else_collects_meanwhile() -> None:
    pair, bells = Pair(), _native.ShmBells(spin_us_max=0)
    bells.add(pair.reader)
    turns, begins = threading.Semaphore(0), threading.Semaphore(0)

    def leads() -> None:
        for _ in range(200):
            begins.release()
            assert bells.wait(-1) == []
            turns.release()

    thread = threading.Thread(target=leads)
    thread.start()
    for _ in range(200):
        assert begins.acquire(timeout=WATCHDOG_S)
        bells.kick()
        for _ in range(20):
            assert bells.wait(0) == []  # what an event loop does beside it
        assert turns.acquire(timeout=WATCHDOG_S)
    thread.join(WATCHDOG_S)


def test_a_ring_that_another_collects_leaves_the_thread_asleep_until_it_is_kicked() -> None:
    pair, bells = Pair(), _native.ShmBells(spin_us_max=0)
    token = bells.add(pair.reader)
    found: list[list[int]] = []
    for _ in range(50):
        assert bells.sleep()
        pair.send("x")
        thread = threading.Thread(target=lambda: found.append(bells.wait(-1)))
        thread.start()
        ours = bells.wait(0)
        bells.kick()
        thread.join(WATCHDOG_S)
        assert token in [*ours, *found.pop()]
        assert pair.reader.look() == [0]
        pair.take()
        bells.wait(0)


def test_news_are_of_cells_that_changed_among_those_that_were_given_out() -> None:
    pair = Pair()
    assert pair.node.news(3) == {}
    pair.send(b"one", cell=0)
    pair.send(b"two", cell=2)
    waiting = (1, 0, 1, (0,) * 7)
    assert pair.node.news(1) == {0: waiting}
    assert pair.node.news(3) == {2: waiting}
    assert pair.node.news(3) == {}
    pair.take(2)
    assert pair.node.news(3) == {2: (1, 1, 0, (0,) * 7)}
    assert pair.node.news(1 << 20) == {}  # there are not so many
    assert pair.node.counts()[0].keys() == {0, 2}


def test_a_link_has_moved_when_something_was_posted_since_or_waited_then() -> None:
    pair = Pair()
    assert pair.node.moved(3), "nobody has asked for news"
    assert pair.node.news(3) == {}
    assert not pair.node.moved(3)
    pair.send(b"one", cell=2)
    assert pair.node.moved(3)
    assert pair.node.news(3).keys() == {2}
    assert pair.node.moved(3), "what waits may be taken at any time"
    pair.take(2)
    assert pair.node.moved(3)
    assert pair.node.news(3) == {2: (1, 1, 0, (0,) * 7)}
    assert not pair.node.moved(3)
    assert pair.node.moved(4), "of the fourth nobody has asked"
    ticket = pair.send(b"two", cell=0)
    assert pair.node.news(3).keys() == {0}
    assert pair.writer.withdraw(ticket, 0)
    assert pair.node.moved(3)
    assert pair.node.news(3).keys() == {0}
    assert not pair.node.moved(3)
    assert pair.node.news(1 << 20) == {}
    assert not pair.node.moved(1 << 20), "there are not so many"


def test_counting_makes_no_memory_for_slots_and_cells_that_were_never_used() -> None:
    node = _native.ShmLink(1, slots=512, holds=512, cells=1024)
    made = os.fstat(node.fileno()).st_blocks * 512
    assert made < node.bytes // 8
    assert node.news(10) == {}
    assert os.fstat(node.fileno()).st_blocks * 512 == made
    assert node.counts()[1]
    last_page = 4096
    os.pwrite(node.fileno(), b"\7" * last_page, node.bytes - last_page)
    assert not node.counts()[1], "the last slots are looked at when they are used"
