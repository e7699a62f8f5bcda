"""Room past the node: who waits for it, who does not, and who is told."""

from __future__ import annotations

import math
import os
import select
import threading
import time

import numpy as np

from sira import _native

from .route_harness import TOPIC, Link, Routed
from .test_route_sender import live

MIB = 1 << 20


def fill(routed: Routed) -> None:
    """Post until there is no room."""
    while routed.outbox.direct(TOPIC, "x") is not None:
        pass
    assert routed.outbox.blocked(TOPIC) is not None


def taken_meanwhile(link: Link, cell: int, over: threading.Event) -> threading.Thread:
    """Have a thread take all once somebody waits for room."""

    def take() -> None:
        while not link.writer.waiting and not over.is_set():
            time.sleep(0)
        link.texts(cell)

    thread = threading.Thread(target=take)
    thread.start()
    return thread


def test_a_thread_waits_until_there_is_room() -> None:
    routed = Routed()
    link, cell = routed.live(window=4)
    for _ in range(100):  # a machine that stands still for 20 ms: once more
        fill(routed)
        over = threading.Event()
        thread = taken_meanwhile(link, cell, over)
        receipt = routed.outbox.direct(TOPIC, "late", None, None, 1.0)
        over.set()
        thread.join()
        if receipt is not None:
            break
    assert receipt is not None
    assert receipt.lanes == ["shm"]
    assert link.texts(cell) == ["late"]
    assert link.writer.waiting == 0


def test_a_publisher_waits_in_its_thread_and_has_nothing_to_await() -> None:
    came: list[str] = []
    for _ in range(100):
        publisher, link, cell = live(window=4)
        fill(publisher.routed)
        over = threading.Event()
        thread = taken_meanwhile(link, cell, over)
        assert publisher.send_here("late", 1.0) is None
        over.set()
        thread.join()
        assert publisher.asked == []
        assert publisher.sent == 1
        came = link.texts(cell)
        if publisher.accepted:  # else it went by the node
            break
    assert came == ["late"]


def test_who_has_waited_in_vain_waits_no_more_until_something_is_posted() -> None:
    routed = Routed()
    link, cell = routed.live(window=2)
    fill(routed)
    assert routed.outbox.direct(TOPIC, "late", wait_s=0.001) is None
    assert routed.outbox.blocked(TOPIC) is None
    assert routed.outbox.sleeps(TOPIC) is None
    assert routed.outbox.direct(TOPIC, "late", wait_s=1e9) is None  # at once
    assert len(link.texts(cell)) == 2
    assert routed.outbox.direct(TOPIC, "on") is not None
    fill(routed)
    assert routed.outbox.sleeps(TOPIC) is link.writer


def test_a_large_message_is_waited_for_longer() -> None:
    routed = Routed()
    routed.lending.arena.take(MIB)  # known to the grant
    link, cell = routed.live(held_bytes_max=MIB)
    body = {"x": np.zeros(MIB, np.uint8)}
    assert routed.outbox.direct(TOPIC, body) is not None
    assert routed.outbox.room_s(TOPIC) == 0.02
    assert routed.outbox.direct(TOPIC, body) is None
    assert routed.outbox.room_s(TOPIC) == 0.02 + MIB / 1e9
    begun_s = time.monotonic()
    assert routed.outbox.direct(TOPIC, body, wait_s=math.inf) is None
    assert time.monotonic() - begun_s >= 0.02 + MIB / 1e9
    assert link.take(cell) is not None


def test_nobody_waits_for_a_subscriber_that_does_not_block() -> None:
    routed = Routed()
    waits, drops = Link(), Link()
    ask, cells = routed.asked(), (waits.cell(), drops.cell())
    page = routed.page.shown
    targets = [
        (waits.writer, cells[0], 2, 1 << 30, True),
        (drops.writer, cells[1], 2, 1 << 30, False),
    ]
    assert routed.outbox.route(ask, page, 5, page.word(5), targets, [], 2)  # type: ignore[arg-type]  # list is invariant
    for text in ("a", "b"):
        assert routed.outbox.direct(TOPIC, text) is not None
    assert routed.outbox.direct(TOPIC, "c", wait_s=1e9) is None  # both are full
    assert routed.outbox.blocked(TOPIC) is None
    waits.texts(cells[0])
    assert routed.outbox.direct(TOPIC, "c", wait_s=1e9) is None
    assert routed.outbox.blocked(TOPIC) is None
    drops.texts(cells[1])
    assert routed.outbox.direct(TOPIC, "c") is not None


def test_the_bell_rings_when_half_of_what_was_out_is_taken() -> None:
    routed = Routed()
    link, cell = routed.live(window=8)
    assert routed.outbox.sleeps(TOPIC) is None
    fill(routed)
    assert routed.outbox.sleeps(TOPIC) is link.writer
    for _ in range(3):
        assert link.take(cell) is not None
    assert not is_rung(link.writer)
    assert link.take(cell) is not None
    assert is_rung(link.writer)
    os.read(link.writer.bell, 8)
    assert routed.outbox.sleeps(TOPIC) is None


def is_rung(writer: _native.ShmWriter) -> bool:
    return bool(select.select([writer.bell], [], [], 0)[0])
