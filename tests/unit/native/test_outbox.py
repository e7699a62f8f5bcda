"""Outbox: batches, priorities, windows, receipts, chunks and their turns."""

from __future__ import annotations

import sys

import pytest

from sira import _native
from sira.kernel.errors import SiraError
from sira.v1 import error_pb2

from .client_harness import (
    chunk_item,
    code_of,
    frame,
    head,
    inline_item,
    items_of,
    message,
    receipt,
    taken,
    text_of,
)

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
