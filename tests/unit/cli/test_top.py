"""The pictures of `sira top`: made of facts as they come."""

from __future__ import annotations

import json
from typing import Any

from sira.cli.top import Pictures, headline

KINDS = ("topics", "clients", "subscriptions", "node")


def feed(pictures: Pictures, number: int, tenant: str = "default", **rows: Any) -> list[Any]:
    found = []
    for kind in KINDS:
        fact: dict[str, Any] = {"number": number, "tenant": tenant}
        if kind == "node":
            fact |= {"node": "n", "uptime_ns": 1, "interval_s": 1.0, "rate": 5.0}
        else:
            fact |= {"rows": rows.get(kind, []), "left_out": 3}
        found.append(pictures.feed(f"sira.load.{kind}", json.dumps(fact).encode()))
    return [picture for picture in found if picture is not None]


def test_a_picture_is_made_of_the_facts_of_one_second() -> None:
    pictures = Pictures(">", "default")
    assert len(feed(pictures, 1)) == 1
    (second,) = feed(pictures, 2, topics=[{"name": "lab.a"}])
    assert second["topics"] == [{"name": "lab.a"}] and second["interval_s"] == 1.0
    assert "4 topics" in headline(second) and "3 clients" in headline(second)


def test_topics_that_were_not_asked_for_and_other_tenants_are_left_out() -> None:
    pictures = Pictures("lab.>", "default")
    assert feed(pictures, 1, tenant="other") == []
    (found,) = feed(pictures, 2, topics=[{"name": "lab.a"}, {"name": "x.y"}])
    assert [row["name"] for row in found["topics"]] == ["lab.a"]
