"""Requests and answers past the node: what they say, when they are not posted, waiting for them."""

from __future__ import annotations

import mmap
import os

import pytest

from sira import _native
from sira.v1 import message_pb2

from .link_harness import bound
from .route_harness import TOPIC, Routed

REPLIES = "_reply.0123456789abcdef0123456789abcdef"
INTENT = _native.new_id()


def said(message: _native.Message | None) -> message_pb2.Message:
    """All that a message says, but for what differs each time."""
    assert message is not None
    found = message_pb2.Message.FromString(bytes(message.encoded))
    found.ClearField("time_ns")
    return found


def request(**further: object) -> _native.Message:
    options = _native.Options(id=_native.new_id(), **further)  # type: ignore[arg-type]
    return _native.Message.decode(_native.encode_message(TOPIC, b"?", options))


# ---- asking --------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout_s", [None, 2500.5, 1e-12])
def test_a_request_says_what_its_options_would_say(timeout_s: float | None) -> None:
    routed = Routed()
    link, cell = routed.live()
    message_id = _native.new_id()
    assert routed.outbox.ask(TOPIC, b"?", message_id, REPLIES, timeout_s)
    options = _native.Options(
        id=message_id, reply_to=REPLIES, correlation_id=message_id, quiet=True,
        ttl_ns=0 if timeout_s is None else int(timeout_s * 1e9) or 1,
        wait_ms=None if timeout_s is None else int(timeout_s * 1e3),
    )  # fmt: skip
    if timeout_s is not None and timeout_s < 1e-3:
        assert link.take(cell) is None  # it has expired
        return
    assert routed.outbox.direct(TOPIC, b"?", options) is not None
    assert said(link.take(cell)) == said(link.take(cell))


def test_without_a_route_nothing_is_asked_or_answered() -> None:
    routed = Routed()
    assert not routed.outbox.ask(TOPIC, b"?", _native.new_id(), REPLIES, 1.0)
    assert not routed.outbox.answer(request(reply_to=REPLIES), b"!")
    assert routed.leaving() == []


def test_a_request_that_finds_no_room_in_time_is_not_posted() -> None:
    routed = Routed()
    link, cell = routed.live(window=1)
    assert routed.outbox.ask(TOPIC, b"1", _native.new_id(), REPLIES, None)
    assert not routed.outbox.ask(TOPIC, b"2", _native.new_id(), REPLIES, 1e-3)
    assert link.texts(cell) == ["1"]


# ---- answering -----------------------------------------------------------------------------------


@pytest.mark.parametrize("conversation", [b"", _native.new_id()], ids=["none", "one"])
def test_an_answer_says_what_its_options_would_say(conversation: bytes) -> None:
    routed = Routed()
    link, cell = routed.live(topic=REPLIES)
    asked = request(reply_to=REPLIES, priority=3, correlation_id=conversation)
    assert routed.outbox.answer(asked, b"!")
    got = said(link.take(cell))
    options = _native.Options(
        id=got.id, reply_kind=1, stream_id=asked.id_bytes, stream_end=True, priority=3, quiet=True,
        correlation_id=conversation or asked.id_bytes, causation_id=asked.id_bytes,
    )  # fmt: skip
    assert routed.outbox.direct(REPLIES, b"!", options) is not None
    assert got == said(link.take(cell))


def test_what_needs_more_than_a_plain_answer_is_left_to_python() -> None:
    routed = Routed()
    link, cell = routed.live(topic=REPLIES)
    outbox = routed.outbox
    assert not outbox.answer(request(), b"!")
    assert not outbox.answer(request(reply_to=REPLIES, traceparent="00-1-2-03"), b"!")
    assert not outbox.answer(request(reply_to=REPLIES, intent_id=INTENT), b"!")
    outbox.line(REPLIES, True)
    assert not outbox.answer(request(reply_to=REPLIES), b"!")
    outbox.line(REPLIES, False)
    assert outbox.answer(request(reply_to=REPLIES), b"!")
    assert link.texts(cell) == ["!"]


# ---- waiting and taking in one call --------------------------------------------------------------


def test_what_comes_is_taken_and_all_else_is_given_to_its_mailbox() -> None:
    one, box = bound()
    other, others = bound()
    told: list[str] = []
    others.configure(
        message_type=_native.Message, context=None, credit_every=0,
        wake=lambda: told.append("wake"), on_credit=None,
    )  # fmt: skip
    others.arm()
    bells = _native.ShmBells(spin_us_max=0)
    for link in (one, other):
        bells.add(link.reader)
    one.send("a", "b")
    other.send("c")
    got = bells.take(box, 60.0)
    assert isinstance(got, _native.Message)
    assert got.text == "a"
    assert told == ["wake"]
    assert (box.texts(), others.texts()) == (["b"], ["c"])
    assert bells.take(box, 0.0) == []


def test_a_link_that_is_broken_is_told_also_behind_a_message() -> None:
    (good, box), (bad, _) = bound(), bound()
    bells = _native.ShmBells(spin_us_max=0)
    bells.add(good.reader)
    token = bells.add(bad.reader)
    good.send("a")
    bad.send("b")
    # The first slot is told to be in a cell that no link has: the upper half of its place's kind.
    with mmap.mmap(bad.node.fileno(), os.fstat(bad.node.fileno()).st_size) as memory:
        slot = memory.find(b"lab.x") // 512 * 512
        memory[slot + 28 : slot + 32] = b"\xff" * 4
    got = bells.take(box, 60.0)
    assert isinstance(got, _native.Message)
    assert bells.take(box, 60.0) == [token]
    assert bad.reader.broken
