"""Inbox: tensors that come as references to shared memory, what is refused, when leases end."""

from __future__ import annotations

import gc
import sys
import threading
from typing import Any

import numpy as np
import pytest

from sira import _native
from sira.v1 import bus_pb2, message_pb2

from .arena_harness import KIB, Reader, ramp
from .client_harness import (
    SUBSCRIPTION,
    Box,
    abort_item,
    chunk_item,
    code_of,
    frame,
    head,
    head_item,
)


class Shared(Reader):
    """A reader, and memory of a publisher that it maps."""

    def __init__(self, size: int = 256 * KIB) -> None:
        super().__init__()
        self.arena = _native.ShmArena(1 << 30)
        self.chunk = self.arena.take(size)
        self.memory = np.frombuffer(memoryview(self.chunk), np.uint8)
        self.memory[:] = ramp(size)
        self.show(self.arena)
        ((self.segment, _, _),) = self.arena.segments()
        self._last = 0

    def lent(self, at: int, size: int, **wrong: int) -> bus_pb2.Lent:
        self._last += 1
        fields = {"segment": self.segment, "offset": at, "bytes": size, "lease": self._last}
        return bus_pb2.Lent(**{**fields, **wrong})

    def item(
        self, made: message_pb2.Message, tensor: int, at: int, lent: bus_pb2.Lent
    ) -> bus_pb2.Item:
        chunk = bus_pb2.Chunk(message_id=made.id, tensor=tensor, offset=at, lent=lent)
        return bus_pb2.Item(chunk=chunk)

    def feed(self, *items: bus_pb2.Item) -> None:
        self.inbox.feed(frame(*items))


def test_a_tensor_by_one_reference_is_handed_out_where_it_lies() -> None:
    shared = Shared()
    made = head(100_000, 0, 7)
    shared.feed(head_item(made), shared.item(made, 0, 0, shared.lent(64, 100_000)))
    assert shared.box.depth == 0
    shared.feed(shared.item(made, 2, 0, shared.lent(3, 7)))
    got = shared.pop()
    assert got["t0"].tobytes() == ramp(100_000, 64).tobytes()
    assert got["t1"].shape == (0,)
    assert got["t2"].tobytes() == ramp(7, 3).tobytes()
    shared.memory[64] = 200  # the very memory: neither a copy nor another's
    assert got["t0"][0] == 200
    assert not got["t0"].flags.writeable
    assert (shared.inbox.buffers_mapped, shared.inbox.transfers) == (0, 0)
    assert (shared.maps.spans, shared.maps.lent_bytes) == (2, 100_007)


def test_a_lease_is_over_when_the_last_view_goes_and_not_before() -> None:
    shared = Shared()
    made = head(1000, 2000)
    shared.feed(
        head_item(made),
        shared.item(made, 0, 0, shared.lent(0, 1000)),
        shared.item(made, 1, 0, shared.lent(1024, 2000)),
    )
    got = shared.pop()
    view, exported = got["t0"][10:20], np.from_dlpack(got["t1"])
    assert shared.maps.ended() == []
    del got
    gc.collect()
    assert shared.maps.ended() == []
    ended = threading.Thread(target=lambda held: held.clear(), args=([view],))
    del view
    ended.start()
    ended.join()
    del ended
    assert shared.maps.ended() == [1]
    assert exported.tobytes() == ramp(2000, 1024).tobytes()
    del exported
    assert (shared.maps.ended(), shared.maps.spans) == ([2], 0)


def test_slices_are_put_together_in_a_copy_and_their_leases_are_over_at_once() -> None:
    shared = Shared()
    made = head(100_000)
    shared.feed(
        head_item(made),
        shared.item(made, 0, 0, shared.lent(500, 60_000)),
        chunk_item(made, 0, 60_000, b"\x07" * 10_000),
    )
    assert shared.maps.ended() == [1]
    shared.feed(shared.item(made, 0, 70_000, shared.lent(0, 30_000)))
    assert shared.maps.ended() == [2]
    shared.memory[:] = 0
    got = shared.pop()["t0"].tobytes()
    assert got == ramp(60_000, 500).tobytes() + b"\x07" * 10_000 + ramp(30_000).tobytes()
    assert shared.inbox.buffers_mapped == 1


def test_tensors_of_one_message_may_come_either_way() -> None:
    shared = Shared()
    made = head(1000, 300 * KIB, 2000)
    data = ramp(300 * KIB, 9).tobytes()
    shared.feed(
        head_item(made),
        shared.item(made, 0, 0, shared.lent(0, 1000)),
        chunk_item(made, 1, 0, data),
        shared.item(made, 2, 0, shared.lent(4096, 2000)),
    )
    got = shared.pop()
    assert got["t0"].tobytes() == ramp(1000).tobytes()
    assert got["t1"].tobytes() == data
    assert got["t2"].tobytes() == ramp(2000, 4096).tobytes()
    assert shared.inbox.buffers_mapped == 1


def test_elements_at_an_odd_place_are_read_all_the_same() -> None:
    shared = Shared()
    values = np.arange(1000, dtype=np.float64)
    shared.memory[13 : 13 + values.nbytes] = values.view(np.uint8)
    made = head(values.nbytes)
    made.tensors[0].dtype = 12  # DTYPE_F64
    made.tensors[0].shape[:] = [1000]
    shared.feed(head_item(made), shared.item(made, 0, 0, shared.lent(13, values.nbytes)))
    got = shared.pop()
    assert (got["t0"] == values).all()
    assert got["t0"].sum() == values.sum()


def test_a_head_alone_takes_no_memory() -> None:
    shared = Shared()
    shared.feed(head_item(head(1 << 30)))
    assert (shared.inbox.buffers_mapped, shared.inbox.transfers) == (0, 1)


def test_what_nobody_wants_ends_its_lease_at_once() -> None:
    shared = Shared()
    made = head(100, 200)
    shared.feed(head_item(made, 99), shared.item(made, 0, 0, shared.lent(0, 100)))
    assert (shared.maps.ended(), shared.maps.spans) == ([1], 0)
    shared.feed(shared.item(made, 1, 0, shared.lent(0, 200)))
    assert (shared.maps.ended(), shared.inbox.transfers) == ([2], 0)
    assert shared.inbox.buffers_mapped == 0


@pytest.mark.parametrize("way", ["detach", "abort", "reset"])
def test_what_will_not_be_whole_ends_its_leases(way: str) -> None:
    shared = Shared()
    made = head(100, 200)
    shared.feed(head_item(made), shared.item(made, 0, 0, shared.lent(0, 100)))
    assert shared.maps.spans == 1
    if way == "detach":
        shared.inbox.detach(SUBSCRIPTION)
    elif way == "abort":
        shared.feed(abort_item(made))
    else:
        shared.inbox.reset()
    assert (shared.maps.ended(), shared.maps.spans) == ([1], 0)
    if way == "detach":
        shared.feed(shared.item(made, 1, 0, shared.lent(0, 200)))
        assert shared.maps.ended() == [2]
    assert (shared.inbox.transfers, shared.box.depth) == (0, 0)


def test_subscriptions_share_one_lease() -> None:
    shared, second = Shared(), Box()
    shared.inbox.attach(8, second)
    made = head(100)
    shared.feed(head_item(made, SUBSCRIPTION, 8), shared.item(made, 0, 0, shared.lent(5, 100)))
    first = shared.pop()["t0"]
    other = second.pop()
    assert other is not None
    assert other["t0"].tobytes() == first.tobytes() == ramp(100, 5).tobytes()
    del first
    assert shared.maps.ended() == []
    del other
    assert shared.maps.ended() == [1]


def test_a_message_outlives_its_inbox_its_maps_and_the_publishers_arena() -> None:
    shared = Shared()
    made = head(100)
    shared.feed(head_item(made), shared.item(made, 0, 0, shared.lent(5, 100)))
    shared.maps.drop(shared.segment)
    got = shared.pop()
    del shared
    gc.collect()
    assert got["t0"].tobytes() == ramp(100, 5).tobytes()


def test_subscriptions_may_end_while_their_message_is_made() -> None:
    """Python runs while messages are made: here the collector's callback detaches."""

    class Made(_native.Message):
        """A type of Python's, so that making one may start the collector."""

    shared, second = Shared(), Box()
    for box in (shared.box, second):
        box.configure(message_type=Made, context=None, credit_every=0, wake=None, on_credit=None)
    shared.inbox.attach(SUBSCRIPTION, shared.box)
    shared.inbox.attach(8, second)
    made = head(100, 300 * KIB)
    shared.feed(head_item(made, SUBSCRIPTION, 8), shared.item(made, 0, 0, shared.lent(5, 100)))
    last, feed = frame(chunk_item(made, 1, 0, bytes(300 * KIB))), shared.inbox.feed
    spans: list[int] = []

    def detach(phase: str, info: dict[str, Any]) -> None:
        spans.append(shared.maps.spans)
        shared.inbox.detach(SUBSCRIPTION)
        shared.inbox.detach(8)

    threshold = gc.get_threshold()
    gc.disable()
    gc.callbacks.append(detach)
    gc.set_threshold(1)
    young = [[] for _ in range(100)]  # type: ignore[var-annotated]  # so that the next one collects
    gc.enable()
    try:
        feed(last)
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(detach)
    del young
    assert (shared.box.depth, second.depth) == (0, 0) or not spans
    while (got := shared.box.pop() or second.pop()) is not None:
        assert got["t0"].tobytes() == ramp(100, 5).tobytes()
        del got
    assert (shared.maps.ended(), shared.maps.spans, shared.inbox.transfers) == ([1], 0, 0)
    if sys.version_info < (3, 12):  # later ones collect between two steps of Python only
        assert spans
    assert set(spans) <= {1}  # also after the first call has detached both


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"segment": 1 << 31}, "FRAME_CORRUPT"),
        ({"offset": 256 * KIB}, "FRAME_CORRUPT"),
        ({"offset": 256 * KIB - 99}, "FRAME_CORRUPT"),
        ({"offset": (1 << 64) - 50}, "FRAME_CORRUPT"),
        ({"bytes": 0}, "FRAME_CORRUPT"),
        ({"lease": 0}, "FRAME_CORRUPT"),
        ({"bytes": 101}, "PROTOCOL_ERROR"),
        ({"bytes": (1 << 64) - 1}, "FRAME_CORRUPT"),
    ],
)
def test_a_reference_that_cannot_be_is_refused_and_nothing_of_it_is_handed_out(
    wrong: dict[str, int], code: str
) -> None:
    shared = Shared()
    made = head(100)
    shared.feed(head_item(made))
    encoded = frame(shared.item(made, 0, 0, shared.lent(0, 100, **wrong)))
    assert code_of(shared.inbox.feed, encoded) == code
    assert (shared.box.depth, shared.maps.spans) == (0, 0)
    assert shared.maps.ended() in ([], [1])
    shared.inbox.reset()
    assert shared.inbox.transfers == 0


def test_bytes_and_a_reference_at_once_are_refused() -> None:
    shared = Shared()
    made = head(100)
    item = shared.item(made, 0, 0, shared.lent(0, 100))
    item.chunk.data = b"x" * 100
    assert code_of(shared.inbox.feed, frame(head_item(made), item)) == "FRAME_CORRUPT"
    assert (shared.box.depth, shared.maps.spans) == (0, 0)


@pytest.mark.parametrize(("tensor", "at"), [(1, 0), (0, 1), (0, 1 << 63), (255, 0)])
def test_a_reference_out_of_turn_is_refused_and_its_lease_is_over(tensor: int, at: int) -> None:
    shared = Shared()
    made = head(100, 50)
    encoded = frame(head_item(made), shared.item(made, tensor, at, shared.lent(0, 50)))
    assert code_of(shared.inbox.feed, encoded) == "PROTOCOL_ERROR"
    assert (shared.maps.ended(), shared.box.depth, shared.inbox.transfers) == ([1], 0, 0)


def test_a_reference_for_no_message_is_refused_and_its_lease_is_over() -> None:
    shared = Shared()
    encoded = frame(shared.item(head(100), 0, 0, shared.lent(0, 100)))
    assert code_of(shared.inbox.feed, encoded) == "PROTOCOL_ERROR"
    assert shared.maps.ended() == [1]


def test_where_no_memory_is_shared_a_reference_is_refused() -> None:
    shared = Shared()
    shared.inbox.maps = None
    made = head(100)
    encoded = frame(head_item(made), shared.item(made, 0, 0, shared.lent(0, 100)))
    assert code_of(shared.inbox.feed, encoded) == "PROTOCOL_ERROR"
    assert shared.inbox.maps is None
    with pytest.raises(TypeError):
        shared.inbox.maps = object()  # type: ignore[assignment]


def test_a_segment_that_is_gone_is_named_no_more() -> None:
    shared = Shared()
    made = head(100)
    shared.feed(head_item(made))
    shared.maps.drop(shared.segment)
    encoded = frame(shared.item(made, 0, 0, shared.lent(0, 100)))
    assert code_of(shared.inbox.feed, encoded) == "FRAME_CORRUPT"
