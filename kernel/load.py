"""What goes on in a world, as `sira.load.*` tells it: rates between two looks. Pure, in slices."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeAlias, TypeVar

from sira.kernel import ledger
from sira.kernel.events import Field, Row
from sira.v1 import kernel_pb2

ROWS_MAX = 200  # of one fact: about 50 KiB, and more than can be read
_ROWS_A_SLICE = 500  # 2 µs each
T = TypeVar("T")
R = TypeVar("R")
Sliced: TypeAlias = Generator[None, None, R]  # yields so that others have the loop


@dataclass(slots=True)
class Look:
    """What was counted at one moment, or in the few in which it was looked at.

    Attributes:
        time_ns: CLOCK_MONOTONIC.
        clients: by id.
        subscriptions: by client, pattern, group and their order: twins of one client.
        published: by topic.
    """

    time_ns: int = 0
    clients: dict[str, kernel_pb2.ClientStats] = field(default_factory=dict)
    subscriptions: dict[tuple[str, str, str, int], kernel_pb2.SubscriptionStats] = field(
        default_factory=dict
    )
    published: dict[str, int] = field(default_factory=dict)
    _twins: dict[tuple[str, str, str], int] = field(default_factory=dict)

    def add(self, part: kernel_pb2.StatsResponse) -> None:
        """Take note of some clients and subscriptions, in the order in which they stand."""
        for client in part.clients:
            self.clients[client.id] = client
        for sub in part.subscriptions:
            key = (sub.client, sub.pattern, sub.group)
            self._twins[key] = twin = self._twins.get(key, -1) + 1
            self.subscriptions[*key, twin] = sub

    def forgotten(self) -> Sliced[None]:
        """Let go of all of it: freeing very much at once takes long."""
        tables: tuple[dict[Any, Any], ...] = (
            self.clients, self.subscriptions, self.published, self._twins,
        )  # fmt: skip
        for table in tables:
            while table:
                for _ in range(min(_ROWS_A_SLICE, len(table))):
                    table.popitem()
                yield


class Rates:
    """What has grown between two looks, a second."""

    def __init__(self, before: Look, now: Look) -> None:
        self.before, self.now = before, now
        self.seconds = max((now.time_ns - before.time_ns) / 1e9, 1e-9)

    def rate(self, count: int, then: int) -> float:
        """Return the rate of a count; one that began again has grown from 0 and is told as 0."""
        return max(count - then, 0) / self.seconds

    def topics(self) -> Sliced[tuple[float, list[tuple[str, float]]]]:
        """Return messages a second on all topics, and which grew most, with their rates."""
        then, total = self.before.published, 0.0

        def rates() -> Iterator[tuple[float, str]]:
            nonlocal total
            for name, n in self.now.published.items():
                rate = self.rate(n, then.get(name, 0))
                total += rate
                yield -rate, name

        found = yield from _first(rates(), key=lambda pair: pair)
        return total, [(name, -rate) for rate, name in found]

    def clients(self) -> Sliced[list[Row]]:
        """Return a row for each client, the busiest first."""
        old, none = self.before.clients, kernel_pb2.ClientStats()
        rows: Iterator[dict[str, Any]] = (
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
            for client in self.now.clients.values()
        )
        found = yield from _first(
            rows, key=lambda row: (-row["publish_rate"] - row["deliver_rate"], row["id"])
        )
        return list(found)

    def subscriptions(self) -> Sliced[list[Row]]:
        """Return a row for each subscription: those that stand still, then the fullest."""
        old, none = self.before.subscriptions, kernel_pb2.SubscriptionStats()
        rows: Iterator[dict[str, Any]] = (
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
        )
        found = yield from _first(
            rows, key=lambda row: (not row["stalled"], -row["pending"], -row["rate"])
        )
        return list(found)


def _first(things: Iterator[T], *, key: Callable[[T], Any]) -> Sliced[list[T]]:
    """Return the first `ROWS_MAX` in the order of `key`; of two that are equal, the earlier."""
    found: list[T] = []
    while step := list(islice(things, _ROWS_A_SLICE)):
        found = sorted(found + step, key=key)[:ROWS_MAX]
        yield
    return found


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
    number: int,
    node: str,
    uptime_ns: int,
    rates: Rates,
    row_of: Callable[[str, float], Row | None],
) -> Sliced[list[tuple[str, dict[str, Field]]]]:
    """Return the facts of one snapshot, that of the node last: who has it has all.

    `row_of` tells of a topic and its rate; None: it is gone.
    """
    now, count = rates.now, len(rates.now.published)

    def told(of: Iterable[Row | None], all_: int) -> dict[str, Field]:
        rows = [row for row in of if row is not None]
        return {"number": number, "rows": rows, "left_out": max(0, all_ - len(rows))}

    total, busiest = yield from rates.topics()
    topics = told((row_of(name, rate) for name, rate in busiest), count)
    yield
    clients = told((yield from rates.clients()), len(now.clients))
    subscriptions = told((yield from rates.subscriptions()), len(now.subscriptions))
    return [
        ("sira.load.topics", topics),
        ("sira.load.clients", clients),
        ("sira.load.subscriptions", subscriptions),
        (
            "sira.load.node",
            {
                "number": number,
                "node": node,
                "uptime_ns": uptime_ns,
                "interval_s": rates.seconds,
                "rate": total,
                "topics": count,
                "clients": len(now.clients),
                "subscriptions": len(now.subscriptions),
            },
        ),
    ]
