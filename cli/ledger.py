"""`sira ledger` and `sira explain`."""

from __future__ import annotations

import asyncio
import time
from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sira.cli.link import Stop, connected
from sira.cli.output import EXIT_UNACCOUNTED, Output, Result, UsageError
from sira.kernel.authorize import ACTIONS
from sira.kernel.topics import is_pattern

if TYPE_CHECKING:
    from sira.client.bus import Bus

_COUNTS = (
    "published",
    "owed",
    "received",
    "delivered",
    "forwarded",
    "pending",
    "retained",
    "superseded",
    "expired",
    "dead_lettered",
    "redelivered",
)
_POLL_S = 0.05
_REASONS = ("dropped", "unknown", "refused")


async def ledger(args: Namespace, out: Output, stop: Stop) -> Result:
    """Show what became of every message; exit code 1 when one is unexplained."""
    from rich.table import Table

    out.start(pattern=args.pattern)
    async with connected(args) as bus:
        found = await bus.ledger(args.pattern)
    rows = [ledger_row(row) for row in found.rows]
    table = Table(
        "topic", "published", "owed", "delivered", "pending", "kept", "expired", "dropped"
    )
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_column("unknown")
    table.add_column("refused")
    table.add_column("")
    for row in rows:
        out.item(row)
        table.add_row(
            row["topic"],
            str(row["published"]),
            str(row["owed"]),
            str(row["delivered"]),
            str(row["pending"]),
            str(row["retained"]),
            str(row["expired"] + row["superseded"]),
            *(_reasons(row[name]) for name in _REASONS),
            "" if row["balanced"] else f"{unexplained(row)} unexplained",
        )
    missing = sum(unexplained(row) for row in rows)
    balanced = bool(found.balanced) and all(row["balanced"] for row in rows)
    if rows:
        out.show(table)
    out.text(
        f"{len(rows)} rows, balanced: every message is accounted for"
        if balanced
        else f"{len(rows)} rows, NOT balanced: {missing} deliveries are unexplained"
    )
    if found.moved:
        out.text(
            f"{found.moved} topics went meanwhile: what was delivered on them may stand in two rows"
        )
    data = {
        "rows": len(rows),
        "balanced": balanced,
        "unexplained": missing,
        "moved": found.moved,
    }
    return Result(data, 0 if balanced else EXIT_UNACCOUNTED)


def ledger_row(row: Any) -> dict[str, Any]:
    """Return a row as JSON has it, judged here and not only by the node."""
    found: dict[str, Any] = {
        "topic": row.topic,
        "node": row.node,
        **{name: getattr(row, name) for name in _COUNTS},
        **{name: dict(getattr(row, name)) for name in _REASONS},
        "class_row": row.class_row,
    }
    found["balanced"] = unexplained(found) == 0 and "" not in found["unknown"]
    return found


def unexplained(row: Mapping[str, Any]) -> int:
    """Deliveries of `row` that no column explains; counted twice is as unexplained as missing."""
    explained = sum(
        row[name]
        for name in (
            "delivered",
            "forwarded",
            "pending",
            "retained",
            "superseded",
            "expired",
            "dead_lettered",
        )
    )
    explained += sum(row["dropped"].values())
    explained += sum(count for reason, count in row["unknown"].items() if reason)
    return abs(int(row["owed"]) + int(row["received"]) - int(explained))


def _reasons(counts: Mapping[str, int]) -> str:
    return " ".join(f"{reason}={count}" for reason, count in sorted(counts.items()) if count)


async def explain(args: Namespace, out: Output, stop: Stop) -> Result:
    """Say who gets a topic's messages, by which lane, and why."""
    from rich.table import Table

    action, topic = _asked(args)
    deadline_s = time.monotonic() + args.wait
    async with connected(args) as bus:
        who = _principal(bus, getattr(args, "as"))
        while True:
            found = await bus.explain(topic, action=action, principal=who, client=args.client or "")
            if found.matches or time.monotonic() >= deadline_s:
                break
            await asyncio.sleep(_POLL_S)
        who = who or bus.node.principal
    matches = [
        {
            "client": match.client,
            "pattern": match.pattern,
            "group": match.group,
            "lane": match.lane,
            "lane_reason": match.lane_reason,
            "pending": match.pending,
            "state": match.state,
        }
        for match in found.matches
    ]
    kind = f", {found.kind}" if found.kind else ""
    out.text(f"{action} {topic}: {found.decision}{kind}")
    for reason in found.reasons:
        out.text(f"  {reason}")
    for name in ("readable", "cut"):
        if getattr(found, name):
            out.text(f"  {name}: {', '.join(getattr(found, name))}")
    for name, spec in sorted(found.contract.items()):
        out.text(f"  contract {name}: {spec}")
    if matches:
        table = Table("client", "pattern", "group", "lane", "why", "pending", "state")
        for match in matches:
            table.add_row(*(str(value) for value in match.values()))
        out.show(table)
        if found.matches_left_out:
            out.text(f"  and {found.matches_left_out} more")
    elif found.kind and not is_pattern(topic):
        out.text("  nobody listens")
    publishers = [
        {"client": each.client, "lane": each.lane, "path": each.path, "why": each.why}
        for each in found.publishers
    ]
    if publishers:
        table = Table("publisher", "lane", "path", "why")
        for row in publishers:
            table.add_row(*row.values())
        out.show(table)
    data = {
        "topic": topic,
        "action": action,
        "principal": who,
        "decision": found.decision,
        "reasons": list(found.reasons),
        "rule": found.rule,
        "readable": list(found.readable),
        "cut": list(found.cut),
        "obligations": list(found.obligations),
        "kind": found.kind,
        "contract": dict(found.contract),
        "matches": matches,
        "publishers": publishers,
    }
    alone = args.wait > 0 and not matches
    return Result(data, EXIT_UNACCOUNTED if alone or found.decision != "allow" else 0)


def _asked(args: Namespace) -> tuple[str, str]:
    """Return action and resource.

    Raises:
        UsageError: no action, or two.
    """
    if args.topic is None:
        return args.action or "publish", args.what
    if args.action:
        raise UsageError("the action is there twice: as a word and with --action")
    if args.what not in ACTIONS:
        raise UsageError(f"{args.what!r} is no action", help=f"one of {', '.join(ACTIONS)}")
    return args.what, args.topic


def _principal(bus: Bus, text: str | None) -> str:
    """Return a principal in full; one without `sira://` is of the node's cluster."""
    if not text or text.startswith("sira://"):
        return text or ""
    cluster = bus.node.principal.removeprefix("sira://").partition("/")[0]
    return f"sira://{cluster}/{text}"
