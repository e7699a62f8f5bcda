"""Inbox: what its buffers cost, when they come back, and that nothing leaks."""

from __future__ import annotations

import gc
import sys
import threading

import numpy as np

from sira import _native

from .client_harness import (
    MIB,
    SUBSCRIPTION,
    attached,
    chunk_item,
    down,
    drain,
    frame,
    head,
    head_item,
    resident_bytes,
    taken,
)


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
