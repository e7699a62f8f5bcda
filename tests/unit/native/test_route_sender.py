"""Sender: messages of a publisher that go past the node, and the receipts it makes for them."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest

from sira import _native

from .route_harness import TOPIC, Link, Routed
from .test_sender import Connection, NextTurn, handling


class Publisher(_native.Sender):
    """A Sender over an outbox with links that records what Python is asked."""

    def __init__(self, routed: Routed, **options: Any) -> None:
        self.routed, self.connection, self.next_turn = routed, Connection(), NextTurn()
        self.asked: list[Any] = []
        self.told: list[bytes | None] = []
        self.configure(
            outbox=routed.outbox,
            topic=TOPIC,
            options=_native.Options(**options) if options else None,
            connection=self.connection,
            handling=handling,
            next_turn=self.next_turn,
        )

    def _send_later(self, body: Any) -> Awaitable[None]:
        self.asked.append(body)
        return _native.ready(None)

    def _caused(self) -> _native.Options:
        return _native.Options(headers={"caused": "yes"})

    def __call__(self, outcome: bytes | None) -> None:
        self.told.append(outcome)


def live(**grant: Any) -> tuple[Publisher, Link, int]:
    routed = Routed()
    link, cell = routed.live(**grant)
    return Publisher(routed), link, cell


def test_what_is_sent_goes_past_the_node_and_is_accepted_at_once() -> None:
    publisher, link, cell = live(matched=1)
    for text in ("a", "b"):
        publisher.send(text)
    assert (publisher.sent, publisher.accepted, publisher.receipts_here) == (2, 2, 2)
    receipt = publisher.take_receipt()
    assert receipt is not None
    got = link.take(cell)
    assert got is not None
    assert (receipt.id, receipt.lanes, receipt.matched) == (got.id, ["shm"], 1)
    assert link.texts(cell) == ["b"]
    assert publisher.asked == []


def test_who_waits_for_receipts_is_told_once() -> None:
    publisher, _, _ = live()
    publisher.awaited = True
    publisher.send("a")
    publisher.send("b")
    assert publisher.told == [None]


def test_the_loop_gets_a_turn_now_and_then() -> None:
    publisher, link, cell = live()
    turns = []
    for at in range(200):
        if publisher.send("x") is publisher.next_turn:
            turns.append(at)
        link.texts(cell)
    assert turns == [63, 127, 191]


def test_while_a_route_is_asked_for_python_waits() -> None:
    routed = Routed()
    publisher = Publisher(routed)
    publisher.send("1")
    publisher.send("2")
    assert publisher.asked == []
    publisher.send("3")
    ((ask, _),) = routed.asks()
    publisher.send("4")
    assert publisher.asked == ["3", "4"]
    link = Link()
    cell = link.cell()
    assert routed.grant(ask, (link, cell))
    assert publisher.direct("3")
    publisher.send("4")
    assert link.texts(cell) == ["3", "4"]
    assert (publisher.sent, publisher.accepted) == (4, 2)


def test_without_room_at_a_target_python_waits_and_the_route_stays() -> None:
    publisher, link, cell = live(window=2)
    for text in ("a", "b", "c"):
        publisher.send(text)
    assert publisher.asked == ["c"]
    assert publisher.routed.outbox.blocked(TOPIC) is link.writer
    assert not publisher.direct("c")
    assert link.texts(cell) == ["a", "b"]
    assert publisher.direct("c", _native.Options(priority=1))
    assert link.texts(cell) == ["c"]
    assert publisher.sent == 3


def test_where_a_line_stands_python_sees_to_the_order() -> None:
    publisher, link, cell = live()
    outbox = publisher.routed.outbox
    outbox.line(TOPIC, True)
    outbox.line("lab.unknown", True)
    publisher.send("a")
    assert publisher.asked == ["a"]
    assert publisher.direct("a")  # the first of the line
    outbox.line(TOPIC, False)
    publisher.send("b")
    assert link.texts(cell) == ["a", "b"]
    outbox.line(TOPIC, True)
    outbox.drop_routes()
    publisher.send("c")
    assert publisher.asked == ["a"]


def test_a_moved_word_has_the_next_message_go_by_the_node() -> None:
    publisher, link, cell = live()
    publisher.send("a")
    publisher.routed.page.move()
    publisher.send("b")
    assert publisher.asked == []
    assert link.texts(cell) == ["a"]
    (item,) = publisher.routed.leaving()
    assert item.message.tensors[0].data == b"b"
    assert (publisher.sent, publisher.accepted) == (2, 1)


def test_a_full_outbox_keeps_nobody_from_going_past_the_node() -> None:
    routed = Routed(window_messages=4)
    link, cell = routed.live()
    publisher = Publisher(routed)
    for _ in range(4):
        routed.outbox.push("lab.other", "x")
    assert not routed.outbox.room
    publisher.send("a")
    assert link.texts(cell) == ["a"]
    routed.page.move()
    publisher.send("b")
    assert publisher.asked == ["b"]


def test_a_refusal_or_an_end_is_raised_first() -> None:
    publisher, link, cell = live()
    publisher.held = True
    publisher.send("a")
    publisher.held = False
    publisher.connection.ended = RuntimeError("closed")
    publisher.send("b")
    assert publisher.asked == ["a", "b"]
    assert link.texts(cell) == []


def test_the_message_being_handled_is_named_as_the_cause() -> None:
    publisher, link, cell = live()
    token = handling.set(object())  # type: ignore[arg-type]
    try:
        publisher.send("x")
    finally:
        handling.reset(token)
    got = link.take(cell)
    assert got is not None
    assert got.headers == {"caused": "yes"}


def test_what_is_told_may_raise_and_the_message_was_sent_all_the_same() -> None:
    publisher, link, cell = live()

    class Loud(Publisher):
        def __call__(self, outcome: bytes | None) -> None:
            raise RuntimeError("told")

    loud = Loud(publisher.routed)
    loud.awaited = True
    with pytest.raises(RuntimeError, match="told"):
        loud.send("x")
    assert link.texts(cell) == ["x"]
    assert (loud.sent, loud.accepted) == (1, 1)
