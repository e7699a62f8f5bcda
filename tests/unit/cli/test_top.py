"""The pictures of `sira top`: pure functions of two looks."""

from __future__ import annotations

from typing import Any

from sira.cli.top import Look, picture
from sira.client.info import Ledger, LedgerRow
from sira.v1 import kernel_pb2

SECOND = 1_000_000_000


def row(topic: str, published: int, **changes: Any) -> LedgerRow:
    values: dict[str, Any] = {
        "topic": topic, "node": "n", "published": published, "owed": published, "received": 0,
        "delivered": published, "forwarded": 0, "pending": 0, "retained": 0, "superseded": 0,
        "expired": 0, "dropped": {}, "dead_lettered": 0, "unknown": {}, "redelivered": 0,
        "refused": {}, "class_row": False,
    }  # fmt: skip
    return LedgerRow(**{**values, **changes})


def look(at_s: float, *rows: LedgerRow, delivered: int = 0) -> Look:
    sub = kernel_pb2.SubscriptionStats(client="c", pattern=">", delivered=delivered)
    client = kernel_pb2.ClientStats(id="c", published=delivered)
    stats = kernel_pb2.StatsResponse(node="n", clients=[client], subscriptions=[sub, sub])
    return Look(int(at_s * SECOND), stats, Ledger(rows=rows, balanced=True, epoch=""))


def test_rates_are_the_difference_of_two_looks() -> None:
    before = look(1.0, row("slow", 10), row("fast", 100), delivered=50)
    now = look(3.0, row("slow", 12), row("fast", 300), row("new", 4), delivered=60)
    found = picture(before, now)
    assert [(topic["name"], topic["rate"]) for topic in found["topics"]] == [
        ("fast", 100.0), ("new", 2.0), ("slow", 1.0),
    ]  # fmt: skip
    assert [sub["rate"] for sub in found["subscriptions"]] == [5.0, 5.0]
    assert found["clients"][0]["publish_rate"] == 5.0
    assert found["interval_s"] == 2.0


def test_a_node_that_began_again_has_no_negative_rates() -> None:
    found = picture(look(1.0, row("a", 100), delivered=9), look(2.0, row("a", 3), delivered=1))
    assert found["topics"][0]["rate"] == 0
    assert found["subscriptions"][0]["rate"] == 0


def test_what_is_lost_counts_every_reason() -> None:
    lost = row("a", 9, owed=9, delivered=1, dropped={"QUEUE_FULL": 4}, unknown={"X": 1}, expired=3)
    assert picture(look(1.0), look(2.0, lost))["topics"][0]["lost"] == 8
