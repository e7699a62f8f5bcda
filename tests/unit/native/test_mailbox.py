"""Mailbox and Ready: priorities, credits, wakes, awaiting without suspension."""

from __future__ import annotations

import asyncio
import collections.abc
import gc
import signal
import sys
import weakref

import pytest

from sira import _native
from sira.v1 import bus_pb2

from .client_harness import (
    SUBSCRIPTION,
    Box,
    attached,
    chunk_item,
    frame,
    head,
    head_item,
    inline_item,
    message,
)


def put(inbox: _native.Inbox, *texts: str, priority: int = 0) -> None:
    assert inbox.feed(frame(*(inline_item(message(t, priority=priority)) for t in texts))) is None


def test_pop_gives_the_highest_priority_first_and_arrival_order_within_it() -> None:
    inbox, box = attached()
    put(inbox, "low1", "low2")
    put(inbox, "high1", "high2", priority=7)
    put(inbox, "mid", priority=3)
    assert box.depth == 5
    assert box.texts() == ["high1", "high2", "mid", "low1", "low2"]
    assert (box.depth, box.held_bytes) == (0, 0)


def test_credit_is_the_run_of_oldest_messages_that_were_taken() -> None:
    inbox, box = attached()
    put(inbox, "a", "b")
    put(inbox, "urgent", priority=5)
    assert box.pop() is not None  # urgent: arrived last, so nothing can be confirmed yet
    assert box.take_credit() == 0
    assert box.pop() is not None  # a
    assert box.take_credit() == 1
    assert box.pop() is not None  # b, and with it the one that was held back
    assert box.take_credit() == 2
    assert box.take_credit() == 0


@pytest.mark.parametrize("count", [1, 63, 64, 65, 1000])
def test_credit_adds_up_over_any_number_of_messages(count: int) -> None:
    inbox, box = attached()
    for round_index in range(3):
        for i in range(count):
            put(inbox, str(i), priority=(i * 5 + round_index) % 8)
        assert len(box.texts()) == count
        assert box.take_credit() == count


def test_on_credit_is_called_each_time_credit_every_more_can_be_confirmed() -> None:
    inbox = _native.Inbox()
    box = Box(credit_every=3)
    inbox.attach(SUBSCRIPTION, box)
    put(inbox, *map(str, range(10)))
    calls = []
    while box.pop() is not None:
        calls.append(box.credits_due)
    assert calls == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3]
    assert box.take_credit() == 10
    put(inbox, "x", "y")
    box.texts()
    assert box.credits_due == 3  # the count begins anew at take_credit()


def test_on_credit_is_called_for_few_messages_of_many_bytes() -> None:
    inbox = _native.Inbox()
    box = Box(credit_every=1000, credit_bytes=300)
    inbox.attach(SUBSCRIPTION, box)
    put(inbox, *["x" * 100] * 7)
    calls = []
    while box.pop() is not None:
        calls.append(box.credits_due)
    assert calls == [0, 0, 1, 1, 1, 2, 2]
    assert box.take_credit() == 7
    put(inbox, *["x" * 100] * 3)
    box.pop(), box.pop()
    assert box.take_credit() == 2  # told meanwhile: counted anew
    box.pop()
    assert box.credits_due == 2


def test_wake_is_called_once_for_each_arm_and_at_once_when_something_is_here() -> None:
    inbox, box = attached()
    put(inbox, "a")
    assert box.wakes == 0  # not armed
    box.arm()
    assert box.wakes == 1
    box.texts()
    box.arm()
    assert box.wakes == 1
    put(inbox, "b", "c")
    put(inbox, "d")
    assert box.wakes == 2


def test_an_exception_in_a_callback_does_not_reach_the_feeder() -> None:
    inbox, box = _native.Inbox(), _native.Mailbox()

    def fail() -> None:
        raise RuntimeError("callback")

    box.configure(
        message_type=_native.Message, context=None, credit_every=1, wake=fail, on_credit=fail
    )
    inbox.attach(SUBSCRIPTION, box)
    box.arm()
    seen: list[object] = []
    hook, sys.unraisablehook = sys.unraisablehook, lambda args: seen.append(args.exc_type)
    try:
        put(inbox, "a")
        assert box.pop() is not None
    finally:
        sys.unraisablehook = hook
    assert seen == [RuntimeError, RuntimeError]


def test_a_ctrl_c_that_came_in_a_callback_is_raised_behind_it() -> None:
    inbox, box = _native.Inbox(), _native.Mailbox()

    def stop() -> None:
        raise KeyboardInterrupt

    box.configure(
        message_type=_native.Message, context=None, credit_every=0, wake=stop, on_credit=None
    )
    inbox.attach(SUBSCRIPTION, box)
    put(inbox, "a")
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a job in the background has none
    seen: list[object] = []
    hook, sys.unraisablehook = sys.unraisablehook, lambda args: seen.append(args.exc_type)
    try:
        with pytest.raises(KeyboardInterrupt):
            box.arm()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        box.arm()
    finally:
        signal.signal(signal.SIGINT, before)
        sys.unraisablehook = hook
    assert seen == [KeyboardInterrupt]
    assert box.pop() is not None


def test_iteration_gives_what_is_here_without_suspending_then_waits() -> None:
    inbox, box = attached()
    put(inbox, "a", "b")

    async def read() -> list[str]:
        found = []
        with pytest.raises(LookupError, match="would wait"):
            async for got in box:
                found.append(got.text)
        return found

    reader = read()
    with pytest.raises(StopIteration) as stopped:
        reader.send(None)  # one step: no await of it reached the loop
    assert stopped.value.value == ["a", "b"]


def test_anext_works_under_wait_for() -> None:
    inbox, box = attached()
    put(inbox, "a")

    async def read() -> str:
        got = await asyncio.wait_for(box.__anext__(), timeout=60)
        return str(got.text)

    assert asyncio.run(read()) == "a"


@pytest.mark.parametrize("value", [None, 5, (1, 2), StopIteration(3)])
def test_ready_gives_its_value_once(value: object) -> None:
    async def read(awaitable: collections.abc.Awaitable[object]) -> object:
        return await awaitable

    ready = _native.ready(value)
    assert isinstance(ready, collections.abc.Awaitable)
    assert asyncio.run(read(ready)) is value
    with pytest.raises(RuntimeError, match="twice"):
        asyncio.run(read(ready))
    with pytest.raises(StopIteration) as stopped:
        next(iter(_native.ready(value).__await__()))
    assert stopped.value.value is value


def test_ready_objects_leave_no_references() -> None:
    value = object()
    before = sys.getrefcount(value)
    kept = [_native.ready(value) for _ in range(1000)]
    assert sys.getrefcount(value) == before + 1000
    del kept
    assert sys.getrefcount(value) == before


def test_messages_carry_the_context_of_their_mailbox() -> None:
    inbox, first, second, third = _native.Inbox(), Box(context="one"), Box(context="one"), Box()
    for subscription, box in enumerate((first, second, third), 1):
        inbox.attach(subscription, box)
    inbox.feed(frame(inline_item(message("x"), 1, 2, 3)))
    a, b, c = first.pop(), second.pop(), third.pop()
    assert a is not None and c is not None
    assert a is b  # same type, same context: one object
    assert (a.context, c.context, c.text) == ("one", None, "x")


def test_configure_refuses_what_is_no_message_type() -> None:
    box = _native.Mailbox()
    with pytest.raises(TypeError):
        box.configure(message_type=int, context=None, credit_every=0, wake=None, on_credit=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        box.configure(
            message_type=_native.Message, context=None, credit_every=-1, wake=None, on_credit=None
        )


def test_places_of_a_lost_connection_are_confirmed_to_nobody() -> None:
    inbox, box = attached()
    put(inbox, "old1", "old2")
    assert box.pop() is not None
    inbox.reset()
    put(inbox, "new")
    assert box.take_credit() == 0
    assert box.texts() == ["old2", "new"]
    assert box.take_credit() == 1


def test_an_aborted_message_counts_as_taken_and_an_unfinished_one_holds_back() -> None:
    inbox, box = attached()
    big = head(10)
    inbox.feed(frame(head_item(big), inline_item(message("a", topic="lab.other"))))
    assert box.texts() == ["a"]
    assert box.take_credit() == 0
    inbox.feed(frame(bus_pb2.Item(abort=bus_pb2.Abort(message_id=big.id))))
    assert box.take_credit() == 2
    inbox.feed(frame(head_item(big), chunk_item(big, 0, 0, b"0123456789")))
    assert box.texts() == ["t0"]
    assert box.take_credit() == 1


def test_a_cycle_through_a_mailbox_is_collected() -> None:
    inbox, box = attached()
    box.context = box
    put(inbox, "a")
    alive = weakref.ref(box)
    del inbox, box
    gc.collect()
    assert alive() is None


def test_credit_frames_are_what_protobuf_reads() -> None:
    given = [(1, 1), (300, 2**40), (2**32 - 1, 2**64 - 1), (0, 0)]
    read = bus_pb2.Frame.FromString(_native.credit_frame(given))
    assert [(i.credit.subscription, i.credit.taken) for i in read.items] == given
    assert all(i.WhichOneof("kind") == "credit" for i in read.items)
    assert _native.credit_frame([]) == b""


@pytest.mark.parametrize("bad", [[(1,)], [1], [(2**32, 1)], [(-1, 1)], [(1, -1)], [("a", 1)]])
def test_credit_frames_refuse_what_is_no_credit(bad: list[tuple[int, int]]) -> None:
    with pytest.raises((TypeError, OverflowError)):
        _native.credit_frame(bad)
