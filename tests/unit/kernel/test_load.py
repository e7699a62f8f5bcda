"""What `sira.load.*` tells: pure functions of two looks."""

from __future__ import annotations

import json
from typing import Any

import jsonschema

from sira.kernel.events import KINDS
from sira.kernel.load import ROWS_MAX, Look, Rates, facts, topic_row
from sira.v1 import kernel_pb2

SECOND = 1_000_000_000


def look(at_s: float, delivered: int = 0, **published: int) -> Look:
    sub = kernel_pb2.SubscriptionStats(client="c", pattern=">", delivered=delivered)
    client = kernel_pb2.ClientStats(id="c", published=delivered)
    stats = kernel_pb2.StatsResponse(node="n", clients=[client], subscriptions=[sub, sub])
    return Look(int(at_s * SECOND), stats, published)


def counts(topic: str, **changes: Any) -> dict[str, Any]:
    values = {
        "topic": topic, "published": 9, "owed": 9, "delivered": 9, "pending": 0, "retained": 0,
        "superseded": 0, "expired": 0, "dropped": {}, "refused": {}, "class_row": False,
    }  # fmt: skip
    return {**values, **changes}


def test_rates_are_the_difference_of_two_looks() -> None:
    rates = Rates(look(1.0, 50, slow=10, fast=100), look(3.0, 60, slow=12, fast=300, new=4))
    assert rates.busiest() == [("fast", 100.0), ("new", 2.0), ("slow", 1.0)]
    assert [row["rate"] for row in rates.subscriptions()] == [5.0, 5.0]
    assert rates.clients()[0]["publish_rate"] == 5.0
    assert (rates.seconds, rates.total) == (2.0, 103.0)


def test_a_node_that_began_again_has_no_negative_rates() -> None:
    rates = Rates(look(1.0, 9, a=100), look(2.0, 1, a=3))
    assert rates.busiest() == [("a", 0.0)]
    assert rates.subscriptions()[0]["rate"] == 0


def test_what_is_lost_counts_every_reason() -> None:
    row = topic_row(counts("a", delivered=1, dropped={"QUEUE_FULL": 4, "X": 1}, expired=3), 2.0)
    assert (row["lost"], row["unexplained"], row["rate"]) == (8, 0, 2.0)
    assert topic_row(counts("a", delivered=7), 0.0)["unexplained"] == 2


def test_a_snapshot_is_bounded_says_what_it_left_out_and_keeps_to_its_schemas() -> None:
    many = {f"t{n}": n for n in range(ROWS_MAX + 50)}
    rates = Rates(look(1.0), look(2.0, **many))
    busiest = rates.busiest()
    assert len(busiest) == ROWS_MAX and busiest[0] == (f"t{ROWS_MAX + 49}", ROWS_MAX + 49)
    told = dict(facts(7, "n", 5, rates, [topic_row(counts(n), r) for n, r in busiest]))
    assert told["sira.load.topics"]["left_out"] == 50
    for topic, fields in told.items():
        body = json.loads(json.dumps({**fields, "tenant": "default"}))
        jsonschema.validate(body, json.loads(KINDS[topic].json_schema()))
        assert fields.keys() == KINDS[topic].fields.keys()
