"""What goes on in a world, as `sira.load.*` tells it: rates between two looks. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sira.kernel import ledger
from sira.kernel.events import Field, Row
from sira.v1 import kernel_pb2

ROWS_MAX = 200  # of one fact: about 50 KiB, and more than can be read


@dataclass(frozen=True, slots=True)
class Look:
    """What was counted at one moment.

    Attributes:
        time_ns: CLOCK_MONOTONIC.
        stats: clients and subscriptions.
        published: by topic.
    """

    time_ns: int
    stats: kernel_pb2.StatsResponse
    published: Mapping[str, int]

    @property
    def subscriptions(self) -> dict[tuple[str, str, str, int], kernel_pb2.SubscriptionStats]:
        """Subscriptions by what they are; twins of one client are told apart by their order."""
        found: dict[tuple[str, str, str, int], kernel_pb2.SubscriptionStats] = {}
        seen: dict[tuple[str, str, str], int] = {}
        for sub in self.stats.subscriptions:
            key = (sub.client, sub.pattern, sub.group)
            seen[key] = twin = seen.get(key, -1) + 1
            found[*key, twin] = sub
        return found


class Rates:
    """What has grown between two looks, a second."""

    def __init__(self, before: Look, now: Look) -> None:
        self.before, self.now = before, now
        self.seconds = max((now.time_ns - before.time_ns) / 1e9, 1e-9)

    def rate(self, count: int, then: int) -> float:
        """Return the rate of a count; one that began again has grown from 0 and is told as 0."""
        return max(count - then, 0) / self.seconds

    def busiest(self) -> list[tuple[str, float]]:
        """Return the topics that grew most, and their rates."""
        then = self.before.published
        rates = ((self.rate(n, then.get(name, 0)), name) for name, n in self.now.published.items())
        found = heapq.nsmallest(ROWS_MAX, ((-rate, name) for rate, name in rates))
        return [(name, -rate) for rate, name in found]

    @property
    def total(self) -> float:
        """Messages a second on all topics."""
        then = self.before.published
        return sum(self.rate(n, then.get(name, 0)) for name, n in self.now.published.items())

    def clients(self) -> list[Row]:
        """Return a row for each client, the busiest first."""
        old = {client.id: client for client in self.before.stats.clients}
        none = kernel_pb2.ClientStats()
        rows: list[dict[str, Any]] = [
            {
                "id": client.id,
                "principal": client.principal,
                "peer": client.peer,
                "published": client.published,
                "delivered": client.delivered,
                "publish_rate": self.rate(client.published, old.get(client.id, none).published),
                "deliver_rate": self.rate(client.delivered, old.get(client.id, none).delivered),
                "queued_bytes": client.queued_bytes,
            }
            for client in self.now.stats.clients
        ]
        rows.sort(key=lambda row: (-row["publish_rate"] - row["deliver_rate"], row["id"]))
        return list(rows[:ROWS_MAX])

    def subscriptions(self) -> list[Row]:
        """Return a row for each subscription: those that stand still, then the fullest."""
        old, none = self.before.subscriptions, kernel_pb2.SubscriptionStats()
        rows: list[dict[str, Any]] = [
            {
                "client": sub.client,
                "pattern": sub.pattern,
                "group": sub.group,
                "overflow": sub.overflow,
                "rate": self.rate(sub.delivered, old.get(key, none).delivered),
                "pending": sub.pending,
                "in_flight": sub.in_flight,
                "delivered": sub.delivered,
                "dropped": sub.dropped,
                "stalled": sub.stalled,
            }
            for key, sub in self.now.subscriptions.items()
        ]
        rows.sort(key=lambda row: (not row["stalled"], -row["pending"], -row["rate"]))
        return list(rows[:ROWS_MAX])


def topic_row(counts: Mapping[str, Any], rate: float) -> Row:
    """Return the row of one topic, from its row in the ledger."""
    return {
        "name": counts["topic"],
        "published": counts["published"],
        "rate": rate,
        "delivered": counts["delivered"],
        "pending": counts["pending"],
        "lost": sum(counts["dropped"].values()) + counts["expired"],
        "unexplained": abs(ledger.difference(ledger.row(counts, node=""))),
    }


def facts(
    number: int, node: str, uptime_ns: int, rates: Rates, topics: list[Row]
) -> list[tuple[str, dict[str, Field]]]:
    """Return the facts of one snapshot, that of the node last: who has it has all."""
    stats, count = rates.now.stats, len(rates.now.published)

    def rows(of: list[Row], all_: int) -> dict[str, Field]:
        return {"number": number, "rows": of, "left_out": max(0, all_ - len(of))}

    return [
        ("sira.load.topics", rows(topics, count)),
        ("sira.load.clients", rows(rates.clients(), len(stats.clients))),
        ("sira.load.subscriptions", rows(rates.subscriptions(), len(stats.subscriptions))),
        (
            "sira.load.node",
            {
                "number": number,
                "node": node,
                "uptime_ns": uptime_ns,
                "interval_s": rates.seconds,
                "rate": rates.total,
                "topics": count,
                "clients": len(stats.clients),
                "subscriptions": len(stats.subscriptions),
            },
        ),
    ]
