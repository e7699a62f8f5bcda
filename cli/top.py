"""`sira top`: topics, clients, subscriptions and their rates, live or once.

A picture is the difference of two looks at the node; making it is a pure function of the two.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from sira.cli.ledger import ledger_row, unexplained
from sira.cli.link import Stop, connected
from sira.cli.output import Output, Result, bytes_text, duration_text
from sira.v1 import kernel_pb2

if TYPE_CHECKING:
    from sira.client.bus import Bus
    from sira.client.info import Ledger

_FIRST_INTERVAL_S = 0.25  # the first picture comes soon, whatever --interval is


class Look:
    """What the node said at one moment."""

    def __init__(
        self,
        time_ns: int,
        stats: kernel_pb2.StatsResponse,
        ledger: Ledger,
    ) -> None:
        self.time_ns, self.stats = time_ns, stats
        self.rows = {row["topic"]: row for row in map(ledger_row, ledger.rows)}
        self.clients = {client.id: client for client in stats.clients}
        self.subscriptions: dict[tuple[str, str, str, int], kernel_pb2.SubscriptionStats] = {}
        for sub in stats.subscriptions:
            # One client may subscribe to the same twice; the node lists them in a fixed order.
            twin = sum(
                key[:3] == (sub.client, sub.pattern, sub.group) for key in self.subscriptions
            )
            self.subscriptions[sub.client, sub.pattern, sub.group, twin] = sub


async def look(bus: Bus, pattern: str) -> Look:
    """Ask the node."""
    stats = await bus.stats()
    ledger = await bus.ledger("" if pattern == ">" else pattern)
    return Look(time.monotonic_ns(), stats, ledger)


def picture(before: Look, now: Look) -> dict[str, Any]:
    """Rates between two looks, as JSON has it; the busiest topics and clients first."""
    seconds = max((now.time_ns - before.time_ns) / 1e9, 1e-9)

    def rate(count: int, then: int) -> float:
        return max(count - then, 0) / seconds  # a restarted node counts from 0 again

    topics: list[dict[str, Any]] = []
    for name, row in now.rows.items():
        then = before.rows.get(name, {}).get("published", 0)
        topics.append(
            {
                "name": name,
                "published": row["published"],
                "rate": rate(row["published"], then),
                "delivered": row["delivered"],
                "pending": row["pending"],
                "lost": sum(row["dropped"].values())
                + sum(row["unknown"].values())
                + row["expired"],
                "unexplained": unexplained(row),
            }
        )
    clients: list[dict[str, Any]] = []
    for client in now.stats.clients:
        old = before.clients.get(client.id, kernel_pb2.ClientStats())
        clients.append(
            {
                "id": client.id,
                "principal": client.principal,
                "peer": client.peer,
                "published": client.published,
                "delivered": client.delivered,
                "publish_rate": rate(client.published, old.published),
                "deliver_rate": rate(client.delivered, old.delivered),
                "queued_bytes": client.queued_bytes,
            }
        )
    subscriptions: list[dict[str, Any]] = []
    for key, sub in now.subscriptions.items():
        old_sub = before.subscriptions.get(key, kernel_pb2.SubscriptionStats())
        subscriptions.append(
            {
                "client": sub.client,
                "pattern": sub.pattern,
                "group": sub.group,
                "overflow": sub.overflow,
                "rate": rate(sub.delivered, old_sub.delivered),
                "pending": sub.pending,
                "in_flight": sub.in_flight,
                "delivered": sub.delivered,
                "dropped": sub.dropped,
                "stalled": sub.stalled,
            }
        )
    topics.sort(key=lambda row: (-row["rate"], row["name"]))
    clients.sort(key=lambda row: (-row["publish_rate"] - row["deliver_rate"], row["id"]))
    subscriptions.sort(key=lambda row: (not row["stalled"], -row["pending"], -row["rate"]))
    return {
        "node": now.stats.node,
        "uptime_ns": now.stats.uptime_ns,
        "interval_s": seconds,
        "topics": topics,
        "clients": clients,
        "subscriptions": subscriptions,
    }


TABLES: dict[str, tuple[tuple[str, str], ...]] = {
    "topics": (
        ("name", "topic"),
        ("rate", "msg/s"),
        ("published", "published"),
        ("delivered", "delivered"),
        ("pending", "pending"),
        ("lost", "lost"),
    ),
    "clients": (
        ("id", "client"),
        ("principal", "principal"),
        ("publish_rate", "out/s"),
        ("deliver_rate", "in/s"),
        ("queued_bytes", "waiting"),
        ("peer", "peer"),
    ),
    "subscriptions": (
        ("pattern", "subscription"),
        ("client", "client"),
        ("group", "group"),
        ("overflow", "overflow"),
        ("rate", "msg/s"),
        ("pending", "pending"),
        ("in_flight", "in flight"),
        ("dropped", "dropped"),
        ("stalled", "state"),
    ),
}


def cell(key: str, value: Any) -> str:
    """Text of one value in a table."""
    if key == "stalled":
        return "STALLED" if value else "ok"
    if key == "queued_bytes":
        return bytes_text(value)
    return f"{value:,.0f}" if isinstance(value, float) else str(value)


def headline(found: dict[str, Any]) -> str:
    """One line above the tables."""
    total = sum(row["rate"] for row in found["topics"])
    return (
        f"{found['node']}  up {duration_text(found['uptime_ns'])}  {total:,.0f} msg/s  "
        f"{len(found['topics'])} topics  {len(found['clients'])} clients  "
        f"{len(found['subscriptions'])} subscriptions"
    )


async def top(args: Namespace, out: Output, stop: Stop) -> Result:
    """Show pictures until told to stop; with --once a single one."""
    live = not args.once and not out.as_json and sys.stdout.isatty()
    pictures = 0
    async with connected(args) as bus:
        out.start(interval_s=args.interval)
        before = await look(bus, args.pattern)
        if live:
            from sira.cli.top_screen import TopScreen

            screen = TopScreen(bus, before, args)
            await screen.run_async()
            if screen.failure is not None:
                raise screen.failure
            return Result({"pictures": screen.pictures})
        while not await stop.sleep(args.interval if args.once or pictures else _FIRST_INTERVAL_S):
            now = await look(bus, args.pattern)
            found = picture(before, now)
            before = now
            pictures += 1
            out.item(found)
            _show(found, out)
            if args.once:
                break
    return Result({"pictures": pictures})


def _show(found: dict[str, Any], out: Output) -> None:
    from rich.table import Table

    out.text(headline(found))
    for name, columns in TABLES.items():
        if not found[name]:
            continue
        table = Table(*(title for _, title in columns))
        for row in found[name]:
            table.add_row(*(cell(key, row[key]) for key, _ in columns))
        out.show(table)
