"""Inbox: frames into messages, reassembly, order, hostile frames, memory."""

from __future__ import annotations

import gc
import sys
import threading

import numpy as np
import pytest

from sira import _native
from sira.v1 import bus_pb2, tensor_pb2

from .client_harness import (
    MIB,
    SUBSCRIPTION,
    Box,
    abort_item,
    attached,
    chunk_item,
    down,
    frame,
    head,
    head_item,
    inline_item,
    message,
    resident_bytes,
    taken,
)


def test_inline_messages_reach_every_subscription_they_name() -> None:
    inbox, first = attached()
    second = Box()
    inbox.attach(8, second)
    made = frame(
        inline_item(message("a"), 7), inline_item(message("b"), 7, 8), inline_item(message("c"), 9)
    )
    assert inbox.feed(made) is None
    assert first.texts() == ["a", "b"]
    assert second.texts() == ["b"]
    assert inbox.stray == 1


def test_control_items_come_back_beside_messages() -> None:
    inbox, box = attached()
    opened = bus_pb2.Opened(subscription=7, cut=["x"])
    ended = bus_pb2.Ended(subscription=7)
    controls = inbox.feed(
        frame(
            bus_pb2.Item(opened=opened),
            inline_item(message("a")),
            bus_pb2.Item(ended=ended),
        )
    )
    assert controls == [(9, opened.SerializeToString()), (11, ended.SerializeToString())]
    assert box.texts() == ["a"]


def test_many_subscriptions_come_and_go() -> None:
    inbox = _native.Inbox()
    boxes = {number: Box() for number in range(1, 400)}
    for number, box in boxes.items():
        inbox.attach(number * 8, box)
    for number in range(1, 400, 3):
        inbox.detach(number * 8)
    for number in boxes:
        inbox.feed(frame(inline_item(message(str(number)), number * 8)))
    for number, box in boxes.items():
        assert box.texts() == ([] if number % 3 == 1 else [str(number)])


def test_a_kept_small_message_does_not_keep_its_frame() -> None:
    inbox, box = attached()
    many = frame(*(inline_item(message("x" * 100)) for _ in range(500)))
    alone = frame(inline_item(message("x" * 100)))
    before = sys.getrefcount(many)
    inbox.feed(many)
    assert box.depth == 500
    assert sys.getrefcount(many) == before  # all copied out
    before = sys.getrefcount(alone)
    inbox.feed(alone)
    assert sys.getrefcount(alone) == before + 1  # nothing else is in it


def test_transfers_of_an_outbox_arrive_whole_interleaved_with_small_messages() -> None:
    outbox = _native.Outbox(source="me", chunk_bytes=100_000, transfer_window_bytes=1 << 30)
    inbox, box = attached()
    rng = np.random.default_rng(1)
    sent = {}
    for index, shape in enumerate([(1000, 333), (7, 100_001), (600_000,)]):
        body = {
            "a": rng.integers(0, 255, shape, np.uint8),
            "empty": np.zeros((0, 3), np.float32),
            "b": rng.standard_normal(40_000 + index),
            "scalar": np.float64(index),
        }
        sent[index] = body
        outbox.push(f"lab.{index}", body, None)
    small = 0
    while (got := outbox.take(1)) is not None:
        assert inbox.feed(down(got)) is None
        if small < 20:
            outbox.push("lab.small", {"i": np.int64(small)})
            small += 1
    assert inbox.transfers == 0
    seen, order = {}, []
    while (arrived := box.pop()) is not None:
        if arrived.topic == "lab.small":
            order.append(int(arrived["i"]))
            continue
        index = int(arrived["scalar"])
        seen[index] = arrived
        assert arrived.source == "me"
        assert arrived.keys() == ("a", "empty", "b", "scalar")
        for name, value in sent[index].items():
            assert np.array_equal(arrived[name], value)
            assert arrived[name].shape == np.shape(value)
            assert not arrived[name].flags.writeable
            assert arrived[name].ctypes.data % 64 == 0 or arrived[name].size == 0
    assert sorted(seen) == [0, 1, 2]
    assert order == list(range(20))
    assert box.take_credit() == 23


def test_order_holds_per_source_topic_and_priority_behind_an_unfinished_transfer() -> None:
    inbox, box = attached()
    big = head(4, topic="lab.x", source="s", priority=2)
    inbox.feed(
        frame(
            head_item(big),
            inline_item(message("waits", topic="lab.x", source="s", priority=2)),
            inline_item(message("other topic", topic="lab.y", source="s", priority=2)),
            inline_item(message("other source", topic="lab.x", source="t", priority=2)),
            inline_item(message("other priority", topic="lab.x", source="s", priority=1)),
        )
    )
    assert box.texts() == ["other topic", "other source", "other priority"]
    assert box.take_credit() == 0  # the head is the oldest
    inbox.feed(frame(chunk_item(big, 0, 0, b"01")))
    assert box.texts() == []
    inbox.feed(frame(chunk_item(big, 0, 2, b"23")))
    assert box.texts() == ["t0", "waits"]
    assert box.take_credit() == 5


def test_a_transfer_waits_for_the_one_before_it_and_goes_on_when_that_is_aborted() -> None:
    inbox, box = attached()
    first, second, third = head(2), head(3), head(4)
    inbox.feed(frame(*(head_item(h) for h in (first, second, third))))
    inbox.feed(frame(chunk_item(third, 0, 0, b"3333"), chunk_item(second, 0, 0, b"222")))
    assert box.texts() == []
    assert inbox.transfers == 1
    inbox.feed(frame(abort_item(first)))
    assert [len(m["t0"]) for m in (box.pop(), box.pop()) if m is not None] == [3, 4]
    assert (inbox.aborted, inbox.transfers) == (1, 0)
    assert box.take_credit() == 3


def test_one_id_may_arrive_twice_at_once_for_different_subscriptions() -> None:
    inbox, first = attached()
    second = Box()
    inbox.attach(8, second)
    big = head(4)
    inbox.feed(frame(head_item(big, 7), chunk_item(big, 0, 0, b"ab")))
    inbox.feed(frame(head_item(big, 8), chunk_item(big, 0, 0, b"a", 8)))
    inbox.feed(frame(chunk_item(big, 0, 2, b"cd"), chunk_item(big, 0, 1, b"bcd", 8)))
    for box in (first, second):
        got = box.pop()
        assert got is not None
        assert bytes(got["t0"]) == b"abcd"


def test_an_announcement_for_two_subscriptions_is_one_message_in_both() -> None:
    inbox, first = attached()
    second = Box()
    inbox.attach(8, second)
    big = head(3)
    inbox.feed(frame(head_item(big, 7, 8), chunk_item(big, 0, 0, b"abc")))
    assert first.pop() is second.pop() is not None


def test_messages_without_payload_need_no_chunk() -> None:
    inbox, box = attached()
    inbox.feed(frame(head_item(head(0, 0)), inline_item(message("next"))))
    assert box.texts() == ["t0,t1", "next"]
    assert inbox.transfers == 0


def test_detached_subscriptions_get_nothing_and_disturb_nothing() -> None:
    inbox, first = attached()
    second = Box()
    inbox.attach(8, second)
    shared, own = head(4), head(4, topic="lab.own")
    inbox.feed(frame(head_item(shared, 7, 8), head_item(own, 8), chunk_item(own, 0, 0, b"ab")))
    inbox.detach(8)
    inbox.feed(frame(chunk_item(own, 0, 2, b"cd"), chunk_item(shared, 0, 0, b"wxyz")))
    assert second.depth == 0
    assert first.texts() == ["t0"]
    assert inbox.transfers == 0
    late = head(2, topic="lab.late")
    inbox.feed(frame(head_item(late, 8), chunk_item(late, 0, 0, b"ab")))
    assert inbox.transfers == 0


def test_reset_drops_the_unfinished_and_what_waited_behind_it() -> None:
    inbox, box = attached()
    big = head(4)
    inbox.feed(frame(head_item(big), inline_item(message("behind"))))
    inbox.reset()
    assert (inbox.transfers, inbox.aborted, box.depth) == (0, 1, 0)
    inbox.feed(frame(head_item(big), chunk_item(big, 0, 0, b"abcd"), inline_item(message("new"))))
    assert box.texts() == ["t0", "new"]
    assert box.take_credit() == 2


# ---- hostile frames ----------------------------------------------------------------------------


def code_of(inbox: _native.Inbox, encoded: bytes) -> str:
    with pytest.raises(Exception) as caught:
        inbox.feed(encoded)
    return str(getattr(caught.value, "code", repr(caught.value)))


def broken_chunks() -> list[tuple[str, list[tuple[int, int, bytes]]]]:
    return [
        ("gap", [(0, 0, b"ab"), (0, 3, b"d")]),
        ("overlap", [(0, 0, b"ab"), (0, 1, b"bc")]),
        ("past the end", [(0, 0, b"abcde")]),
        ("past the end at the far end", [(0, 0, b"ab"), (0, 2**64 - 1, b"x")]),
        ("next tensor too early", [(0, 0, b"ab"), (1, 0, b"xy")]),
        ("no such tensor", [(9, 0, b"ab")]),
        ("no data", [(0, 0, b"")]),
    ]


@pytest.mark.parametrize(("name", "chunks"), broken_chunks(), ids=[n for n, _ in broken_chunks()])
def test_chunks_against_the_rules_end_their_transfer_and_nothing_else(
    name: str, chunks: list[tuple[int, int, bytes]]
) -> None:
    inbox, box = attached()
    bad, good = head(4, 2), head(2, topic="lab.good")
    inbox.feed(frame(head_item(bad), head_item(good), inline_item(message("behind"))))
    *before, last = chunks
    for tensor, offset, data in before:
        inbox.feed(frame(chunk_item(bad, tensor, offset, data)))
    assert code_of(inbox, frame(chunk_item(bad, *last))) == "PROTOCOL_ERROR"
    assert (inbox.transfers, inbox.aborted) == (1, 1)
    assert box.texts() == ["behind"]
    inbox.feed(frame(chunk_item(good, 0, 0, b"ok")))
    assert box.texts() == ["t0"]
    assert box.take_credit() == 3


def test_a_chunk_of_nothing_announced_is_refused() -> None:
    inbox, _ = attached()
    assert code_of(inbox, frame(chunk_item(head(4), 0, 0, b"ab"))) == "PROTOCOL_ERROR"


def test_the_same_announcement_twice_is_refused_and_the_first_goes_on() -> None:
    inbox, box = attached()
    big = head(2)
    inbox.feed(frame(head_item(big)))
    assert code_of(inbox, frame(head_item(big))) == "PROTOCOL_ERROR"
    inbox.feed(frame(chunk_item(big, 0, 0, b"ab")))
    assert box.texts() == ["t0"]


def test_an_announcement_over_the_limit_is_refused() -> None:
    inbox, _ = attached(message_bytes_max=MIB)
    assert code_of(inbox, frame(head_item(head(MIB + 1)))) == "MESSAGE_TOO_LARGE"
    assert code_of(inbox, frame(head_item(head(MIB, 1)))) == "MESSAGE_TOO_LARGE"
    inbox.feed(frame(head_item(head(MIB))))
    assert inbox.transfers == 1


def test_lengths_past_64_bits_are_refused() -> None:
    inbox, _ = attached()
    made = head(1)
    made.tensors[0].shape[:] = [2**63, 2**63]
    made.tensors[0].data_bytes = 0
    assert code_of(inbox, frame(head_item(made))) in ("FRAME_CORRUPT", "MESSAGE_TOO_LARGE")
    assert inbox.transfers == 0


def test_a_message_that_does_not_parse_is_refused_and_those_before_it_are_kept() -> None:
    inbox, box = attached()
    bad = message("x")
    bad.tensors[0].dtype = tensor_pb2.DTYPE_F64
    box.arm()
    assert code_of(inbox, frame(inline_item(message("a")), inline_item(bad))) == "FRAME_CORRUPT"
    assert box.wakes == 1
    assert box.texts() == ["a"]


def test_every_prefix_of_a_frame_is_taken_in_part_or_refused() -> None:
    big = head(5)
    encoded = frame(
        inline_item(message("a")), head_item(big), chunk_item(big, 0, 0, b"01234"), abort_item(big)
    )
    for cut in range(len(encoded)):
        inbox, box = attached()
        try:
            inbox.feed(encoded[:cut])
        except Exception as error:
            assert getattr(error, "code", "") == "FRAME_CORRUPT", error
        assert box.depth <= 2
        inbox.reset()
        inbox.feed(frame(inline_item(message("after"))))
        assert box.texts()[-1] == "after"


def test_every_byte_may_be_wrong_and_the_inbox_goes_on() -> None:
    big = head(5)
    encoded = frame(
        inline_item(message("a"), 7, 8), head_item(big), chunk_item(big, 0, 0, b"01234")
    )
    for at in range(len(encoded)):
        for bit in range(8):
            inbox, box = attached()
            flipped = bytearray(encoded)
            flipped[at] ^= 1 << bit
            try:
                inbox.feed(bytes(flipped))
            except Exception as error:
                assert getattr(error, "code", None), repr(error)
            inbox.reset()
            after = message("after")
            inbox.feed(frame(inline_item(after)))
            assert after.id in [m.id_bytes for m in drain(box)]


def drain(box: Box) -> list[_native.Message]:
    found = []
    while (got := box.pop()) is not None:
        found.append(got)
    return found


def test_a_frame_past_the_limit_or_not_bytes_is_refused() -> None:
    inbox, _ = attached()
    assert code_of(inbox, bytes((2 << 20) + 1)) == "MESSAGE_TOO_LARGE"
    with pytest.raises(TypeError):
        inbox.feed(bytearray(b""))  # type: ignore[arg-type]


# ---- memory ------------------------------------------------------------------------------------


def test_ten_gib_announced_and_ten_bytes_sent_cost_no_memory() -> None:
    inbox, box = attached()
    before = resident_bytes()
    announced = [head(10 << 30, topic=f"lab.{i}") for i in range(20)]
    for made in announced:
        inbox.feed(frame(head_item(made), chunk_item(made, 0, 0, b"0123456789")))
    assert inbox.transfers == 20
    assert resident_bytes() - before < 8 * MIB
    inbox.reset()
    assert inbox.warm_bytes <= 20 * 4096
    assert box.depth == 0


def transfer(inbox: _native.Inbox, payload: bytes) -> None:
    made = head(len(payload))
    inbox.feed(frame(head_item(made)))
    for start in range(0, len(payload), MIB):
        inbox.feed(frame(chunk_item(made, 0, start, payload[start : start + MIB])))


def test_buffers_are_reused_when_their_last_view_goes_and_not_before() -> None:
    inbox, box = attached()
    payload = bytes(range(256)) * (8 * MIB // 256)
    for _ in range(5):
        transfer(inbox, payload)
        assert box.pop() is not None
    assert inbox.buffers_mapped == 1
    assert inbox.warm_bytes >= 8 * MIB
    transfer(inbox, payload)
    got = box.pop()
    assert got is not None
    view = got["t0"][100:200]
    del got
    gc.collect()
    transfer(inbox, bytes(8 * MIB))
    assert inbox.buffers_mapped == 2  # the first is still looked at
    assert bytes(view) == payload[100:200]
    assert inbox.warm_bytes == 0


def test_warm_memory_stays_within_its_limit() -> None:
    inbox, box = attached(warm_bytes_max=6 * MIB)
    for size in (1, 2, 3, 4, 5, 6, 7):
        transfer(inbox, bytes(size * MIB))
    kept = drain(box)
    assert len(kept) == 7
    del kept
    assert 0 < inbox.warm_bytes <= 6 * MIB


def test_views_outlive_their_inbox_and_may_end_on_any_thread() -> None:
    inbox, box = attached()
    payload = bytes(range(256)) * (MIB // 256)
    transfer(inbox, payload)
    views = [got["t0"] for got in drain(box)]
    del inbox, box
    gc.collect()
    assert bytes(views[0]) == payload
    worker = threading.Thread(target=views.clear)
    worker.start()
    worker.join()
    assert views == []


def test_a_hundred_thousand_messages_leave_memory_and_references_flat() -> None:
    outbox, (inbox, box) = _native.Outbox(), attached()
    body = {"x": np.arange(64, dtype=np.float32)}
    box.context = object()

    def run(count: int) -> None:
        for _ in range(count // 1000):
            for _ in range(1000):
                outbox.push("lab.x", body)
            for encoded in frames_down(taken(outbox)):
                inbox.feed(encoded)
            outbox.clear()
            while box.pop() is not None:
                pass
            box.take_credit()

    run(20_000)
    gc.collect()
    references = [sys.getrefcount(o) for o in (body, body["x"], box.context, _native.Message)]
    before = resident_bytes()
    run(100_000)
    gc.collect()
    assert resident_bytes() - before < 4 * MIB
    after = [sys.getrefcount(o) for o in (body, body["x"], box.context, _native.Message)]
    assert after == references


def frames_down(frames: list[bytes]) -> list[bytes]:
    return [down(encoded) for encoded in frames]


def test_large_messages_leave_memory_and_references_flat() -> None:
    inbox, box = attached()
    payload = bytes(MIB)
    for _ in range(3):
        transfer(inbox, payload)
        drain(box)
    gc.collect()
    before, references = resident_bytes(), sys.getrefcount(_native.Message)
    for _ in range(300):
        transfer(inbox, payload)
        drain(box)
    gc.collect()
    after = sys.getrefcount(_native.Message)
    assert resident_bytes() - before < 4 * MIB
    assert after == references
    assert inbox.buffers_mapped == 1


def test_detach_and_reset_while_chunks_are_being_copied() -> None:
    inbox, box = attached()
    stop = threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            inbox.reset()
            inbox.detach(SUBSCRIPTION)
            inbox.attach(SUBSCRIPTION, box)

    worker = threading.Thread(target=disturb)
    worker.start()
    try:
        for _ in range(100):
            made = head(2 * MIB)
            inbox.feed(frame(head_item(made)))
            for start in (0, MIB):
                try:
                    inbox.feed(frame(chunk_item(made, 0, start, bytes(MIB))))
                except Exception as error:  # the thread dropped the transfer
                    assert getattr(error, "code", "") == "PROTOCOL_ERROR", repr(error)
    finally:
        stop.set()
        worker.join()
    inbox.reset()
    drain(box)
    inbox.attach(SUBSCRIPTION, box)
    transfer(inbox, b"x" * MIB)
    assert box.texts() == ["t0"]
