"""What `sira.load.*` tells: pure functions of two looks."""

from __future__ import annotations

import json
from typing import Any

import jsonschema

from sira.kernel.events import KINDS
from sira.kernel.load import ROWS_MAX, Look, Rates, facts, topic_row
from sira.kernel.slices import at_once
from sira.v1 import kernel_pb2

SECOND = 1_000_000_000


def look(at_s: float, delivered: int = 0, **published: int) -> Look:
    sub = kernel_pb2.SubscriptionStats(client="c", pattern=">", delivered=delivered)
    client = kernel_pb2.ClientStats(id="c", published=delivered)
    found = Look(int(at_s * SECOND), published=published)
    found.add(kernel_pb2.StatsResponse(clients=[client], subscriptions=[sub]))
    found.add(kernel_pb2.StatsResponse(subscriptions=[sub]))  # its twin, in another part
    return found


def counts(topic: str, **changes: Any) -> dict[str, Any]:
    values = {
        "topic": topic, "published": 9, "owed": 9, "delivered": 9, "pending": 0, "retained": 0,
        "superseded": 0, "expired": 0, "dropped": {}, "refused": {}, "class_row": False,
    }  # fmt: skip
    return {**values, **changes}


def test_rates_are_the_difference_of_two_looks() -> None:
    rates = Rates(look(1.0, 50, slow=10, fast=100), look(3.0, 60, slow=12, fast=300, new=4))
    busiest = [("fast", 100.0), ("new", 2.0), ("slow", 1.0)]
    assert at_once(rates.topics()) == (103.0, busiest)
    assert [row["rate"] for row in at_once(rates.subscriptions())] == [5.0, 5.0]
    assert at_once(rates.clients())[0]["publish_rate"] == 5.0
    assert rates.seconds == 2.0


def test_a_node_that_began_again_has_no_negative_rates() -> None:
    rates = Rates(look(1.0, 9, a=100), look(2.0, 1, a=3))
    assert at_once(rates.topics()) == (0.0, [("a", 0.0)])
    assert at_once(rates.subscriptions())[0]["rate"] == 0


def test_what_is_lost_counts_every_reason() -> None:
    row = topic_row(counts("a", delivered=1, dropped={"QUEUE_FULL": 4, "X": 1}, expired=3), 2.0)
    assert (row["lost"], row["unexplained"], row["rate"]) == (8, 0, 2.0)
    assert topic_row(counts("a", delivered=7), 0.0)["unexplained"] == 2


def test_a_snapshot_is_bounded_says_what_it_left_out_and_keeps_to_its_schemas() -> None:
    many = {f"t{n}": n for n in range(ROWS_MAX * 10)}  # more than a slice has
    rates = Rates(look(1.0), look(2.0, **many))
    _, busiest = at_once(rates.topics())
    assert [name for name, _ in busiest] == [f"t{n}" for n in reversed(range(1_800, 2_000))]
    told = dict(at_once(facts(7, "n", 5, rates, lambda n, r: topic_row(counts(n), r))))
    assert told["sira.load.topics"]["left_out"] == ROWS_MAX * 9
    for topic, fields in told.items():
        body = json.loads(json.dumps({**fields, "tenant": "default"}))
        jsonschema.validate(body, json.loads(KINDS[topic].json_schema()))
        assert fields.keys() == KINDS[topic].fields.keys()
