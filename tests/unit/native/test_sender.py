"""Sender: what every message of a publisher passes, and the receipts that come back to it."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Generator
from contextvars import ContextVar
from typing import Any

import pytest

from sira import _native
from sira.kernel.errors import SiraError
from sira.v1 import bus_pb2
from tests.garbage import collected

from .client_harness import code_of, frame, items_of, receipt, taken

RECEIPTS_MAX = 16_384  # native/sender.c

handling: ContextVar[_native.Message | None] = ContextVar("handling", default=None)


class NextTurn:
    def __await__(self) -> Generator[None, None, None]:
        yield


class Connection:
    ended: Exception | None = None


class Publisher(_native.Sender):
    """A Sender over an outbox of its own that records what it is asked and told."""

    def __init__(self, options: _native.Options | None = None, **settings: Any) -> None:
        self.woken = 0
        self.outbox = _native.Outbox(wake=self._woken, **settings)
        self.connection, self.next_turn = Connection(), NextTurn()
        self.asked: list[Any] = []
        self.told: list[bytes | None] = []
        self.configure(
            outbox=self.outbox,
            topic="lab.x",
            options=options,
            connection=self.connection,
            handling=handling,
            next_turn=self.next_turn,
        )

    def _woken(self) -> None:
        self.woken += 1

    def _send_later(self, body: Any) -> Awaitable[None]:
        self.asked.append(body)
        return _native.ready(None)

    def _caused(self) -> _native.Options:
        return _native.Options(headers={"caused": "yes"})

    def __call__(self, outcome: bytes | None) -> None:
        self.told.append(outcome)

    def answer(self, *, refused: tuple[int, ...] = ()) -> list[tuple[Any, Any]]:
        """Take all that waits, and feed a receipt for each; those at `refused` are refusals."""
        ids = [item.message.id for item in items_of(taken(self.outbox))]
        answers = [receipt(i, "QUEUE_FULL" if at in refused else "") for at, i in enumerate(ids)]
        return self.outbox.feed(frame(*answers))


def full_receipt(message_id: bytes, **fields: Any) -> bus_pb2.Item:
    return bus_pb2.Item(receipt=bus_pb2.Receipt(id=message_id, **fields))


def test_what_is_sent_is_queued_and_only_the_first_lets_the_writer_run() -> None:
    publisher = Publisher()
    assert publisher.send("a") is publisher.next_turn
    publisher.send(body=b"b")
    publisher.send()
    assert publisher.woken == 1
    assert asyncio.run(_awaited(publisher.send("d"))) is None
    assert publisher.sent == publisher.outbox.unanswered == 4
    items = items_of(taken(publisher.outbox))
    assert {item.message.topic for item in items} == {"lab.x"}
    assert len({item.message.id for item in items}) == 4


async def _awaited(sent: Awaitable[None]) -> None:
    return await sent


def test_the_configured_options_hold_for_each_message() -> None:
    publisher = Publisher(_native.Options(headers={"a": "b"}))
    publisher.send("1")
    publisher.send("2")
    items = items_of(taken(publisher.outbox))
    assert [dict(item.message.headers) for item in items] == [{"a": "b"}, {"a": "b"}]


def test_a_message_that_a_handler_sends_is_asked_for_its_cause() -> None:
    publisher = Publisher()
    cause = _native.Message.decode(_native.encode_message("lab.y", None))
    token = handling.set(cause)
    publisher.send("1")
    handling.reset(token)
    publisher.send("2")
    items = items_of(taken(publisher.outbox))
    assert [dict(item.message.headers) for item in items] == [{"caused": "yes"}, {}]


def test_receipts_come_as_they_were_sent_in_order_and_without_an_outcome_each() -> None:
    publisher = Publisher()
    for i in range(200):  # the ring grows on the way
        publisher.send(str(i))
    ids = [item.message.id for item in items_of(taken(publisher.outbox))]
    fields = [{"matched": i % 3, "bytes": i, "copies": i % 2} for i in range(200)]
    fed = frame(*(full_receipt(i, **f) for i, f in zip(ids, fields, strict=True)))
    assert publisher.outbox.feed(fed) == []
    assert (publisher.accepted, publisher.outbox.accepted, publisher.receipts_here) == (200,) * 3
    for i, of in zip(ids, fields, strict=True):
        got = publisher.take_receipt()
        assert got is not None
        assert bytes.fromhex(got.id.replace("-", "")) == i
        assert (got.matched, got.bytes, got.copies) == tuple(of.values())
        assert (got.grade, got.offset, got.lanes, got.spooled) == ("accepted", None, [], False)
    assert publisher.take_receipt() is None


def test_a_receipt_keeps_every_field_that_the_node_gave() -> None:
    given = {"grade": 2, "offset": 0, "lanes": [1, 2], "nodes": 4, "spooled": True, "matched": 7}
    kept, plain = Publisher(), _native.Outbox()
    kept.send("a")
    plain.push("lab.x", "a", None, "ticket")
    for outbox in (kept.outbox, plain):
        (item,) = items_of(taken(outbox))
        outcomes = outbox.feed(frame(full_receipt(item.message.id, **given)))
    ((_, expected),) = outcomes
    got = kept.take_receipt()
    names = ("grade", "offset", "lanes", "nodes", "spooled", "matched", "copies", "bytes")
    assert [getattr(got, name) for name in names] == [getattr(expected, name) for name in names]
    assert got is not None
    assert (got.grade, got.offset, got.lanes) == ("disk", 0, ["grpc", "shm"])


def test_past_the_limit_the_oldest_receipts_go_and_are_counted() -> None:
    publisher = Publisher(window_messages=RECEIPTS_MAX + 10)
    for i in range(RECEIPTS_MAX + 3):
        publisher.send(str(i))
    ids = [item.message.id for item in items_of(taken(publisher.outbox))]
    publisher.outbox.feed(frame(*(receipt(i) for i in ids)))
    assert (publisher.receipts_dropped, publisher.receipts_here) == (3, RECEIPTS_MAX)
    assert publisher.accepted == RECEIPTS_MAX + 3
    oldest = publisher.take_receipt()
    assert oldest is not None
    assert bytes.fromhex(oldest.id.replace("-", "")) == ids[3]


def test_who_waits_is_told_once() -> None:
    publisher = Publisher()
    for _ in range(3):
        publisher.send("a")
    publisher.awaited = True
    assert publisher.answer() == [(publisher, None)]
    assert not publisher.awaited
    publisher.send("b")
    assert publisher.answer() == []


def test_refusals_are_outcomes_and_leave_no_receipt() -> None:
    publisher = Publisher()
    for _ in range(3):
        publisher.send("a")
    ((ticket, error),) = publisher.answer(refused=(1,))
    assert ticket is publisher
    assert b"QUEUE_FULL" in error
    assert (publisher.accepted, publisher.outbox.refused, publisher.receipts_here) == (2, 1, 2)


@pytest.mark.parametrize("why", ["held", "ended", "no room"])
def test_what_cannot_go_now_is_left_to_python(why: str) -> None:
    publisher = Publisher(window_messages=1)
    if why == "no room":
        publisher.send("first")
    publisher.held = why == "held"
    publisher.connection.ended = ValueError() if why == "ended" else None
    before = publisher.outbox.unanswered
    publisher.send("a")
    assert publisher.asked == ["a"]
    assert publisher.outbox.unanswered == before


def test_a_large_body_waits_for_those_before_it() -> None:
    publisher = Publisher(window_bytes=100_000, inline_bytes_max=1000)
    large = bytes(100_000)
    publisher.send(large)
    publisher.send(large)
    publisher.send("small ones go on")
    publisher.send(large)
    assert publisher.asked == [large]
    assert publisher.sent == 3


def test_a_body_that_cannot_be_sent_raises_and_queues_nothing() -> None:
    publisher = Publisher()
    assert code_of(publisher.send, {"x": object()}) == "BAD_REQUEST"
    with pytest.raises(TypeError):
        publisher.send("a", "b")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        publisher.send(boddy="a")  # type: ignore[call-arg]
    assert (publisher.sent, publisher.outbox.unanswered) == (0, 0)


def test_a_sender_that_was_not_configured_says_so() -> None:
    with pytest.raises(RuntimeError):
        _native.Sender().send("a")
    with pytest.raises(SiraError):
        Publisher().configure(
            outbox=_native.Outbox(), topic="not..good", options=None, connection=None,
            handling=handling, next_turn=NextTurn(),
        )  # fmt: skip


def test_a_body_may_configure_the_sender_anew_while_it_is_read() -> None:
    publisher, other = Publisher(), _native.Outbox()

    class Body(dict[str, Any]):
        def items(self) -> Any:
            publisher.configure(
                outbox=other, topic="lab.other", options=None, connection=publisher.connection,
                handling=handling, next_turn=publisher.next_turn,
            )  # fmt: skip
            return super().items()

    publisher.send(Body())
    publisher.send("second")
    assert publisher.sent == 2
    assert [item.message.topic for item in items_of(taken(other))] == ["lab.other"] * 2


def test_a_forgotten_publisher_goes_with_its_unanswered_messages() -> None:
    publisher = Publisher()
    publisher.send("a")
    gone = weakref.ref(publisher)
    del publisher
    assert collected(gone)
