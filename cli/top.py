"""`sira top`: topics, clients, subscriptions and their rates, live or once.

It reads nothing but facts on `sira.load.*`, which the node tells each second while somebody
listens: a picture is made of those of one second.
"""

from __future__ import annotations

import json
import math
import sys
import time
from argparse import Namespace
from typing import Any

from sira import _native
from sira.cli.link import Stop, connected
from sira.cli.output import Output, Result, bytes_text, duration_text

PATTERN = "sira.load.*"
# The node speaks once a second: a picture this much early is that of its interval.
EARLY_S = 0.5


class Pictures:
    """Makes pictures of facts as they come."""

    def __init__(self, pattern: str, tenant: str) -> None:
        """Show topics that match `pattern`; operators hear of all tenants and are shown theirs."""
        self._pattern, self._tenant = pattern, tenant
        self._parts: dict[str, dict[str, Any]] = {}

    def feed(self, topic: str, body: bytes) -> dict[str, Any] | None:
        """Take one fact; return the picture that is whole with it, as JSON has it."""
        fact = json.loads(body)
        if fact["tenant"] != self._tenant:
            return None
        self._parts[topic.removeprefix("sira.load.")] = fact
        parts = self._parts
        if len(parts) < 4 or len({part["number"] for part in parts.values()}) > 1:
            return None
        node = parts["node"]
        topics = parts["topics"]["rows"]
        if self._pattern != ">":
            topics = [row for row in topics if _native.topic_match(self._pattern, row["name"])]
        return {
            "node": node["node"],
            "uptime_ns": node["uptime_ns"],
            "interval_s": node["interval_s"],
            "rate": node["rate"],
            "topics": topics,
            "clients": parts["clients"]["rows"],
            "subscriptions": parts["subscriptions"]["rows"],
            "left_out": {
                name: parts[name]["left_out"] for name in ("topics", "clients", "subscriptions")
            },
        }

    async def next(self, messages: Any) -> dict[str, Any]:
        """Return the next picture of a subscription to `PATTERN`."""
        while True:
            message = await messages.next()
            found = self.feed(message.topic, bytes(message.bytes))
            if found is not None:
                return found


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
    counts = (
        f"{len(found[name]) + found['left_out'][name]} {name}"
        for name in ("topics", "clients", "subscriptions")
    )
    return (
        f"{found['node']}  up {duration_text(found['uptime_ns'])}  {found['rate']:,.0f} msg/s  "
        + "  ".join(counts)
    )


async def top(args: Namespace, out: Output, stop: Stop) -> Result:
    """Show pictures until told to stop; with --once a single one."""
    _native.check_pattern(args.pattern)
    live = not args.once and not out.as_json and sys.stdout.isatty()
    shown, shown_s = 0, -math.inf
    async with connected(args) as bus, bus.subscribe(PATTERN) as messages:
        out.start(interval_s=args.interval)
        pictures = Pictures(args.pattern, bus.node.tenant)
        if live:
            from sira.cli.top_screen import TopScreen

            screen = TopScreen(messages, pictures, args)
            await screen.run_async()
            if screen.failure is not None:
                raise screen.failure
            return Result({"pictures": screen.pictures})
        while (found := await stop.race(pictures.next(messages))) is not None:
            if time.monotonic() - shown_s < args.interval - EARLY_S:
                continue
            shown, shown_s = shown + 1, time.monotonic()
            out.item(found)
            _show(found, out)
            if args.once:
                break
    return Result({"pictures": shown})


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
