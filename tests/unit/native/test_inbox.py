"""Inbox: frames into messages, reassembly, order, hostile frames, memory."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from sira import _native
from sira.v1 import bus_pb2

from .client_harness import (
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
    sent: dict[int, dict[str, Any]] = {}
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
