"""`sira mem`: the memory that clients of the node share, whose it is and who looks at it."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable
from typing import Any

from sira.cli.link import Stop, connected
from sira.cli.output import Output, Result, bytes_text, duration_text

_SHOWN_CHARS = 12  # of a client's id: enough to tell them apart, and what `sira top` can find


async def mem(args: Namespace, out: Output, stop: Stop) -> Result:
    """Show what is lent, who holds it, and what clients share past the node."""
    out.start(pattern=args.pattern)
    async with connected(args) as bus:
        found = await bus.memory(args.pattern)
    segments = [segment_row(each) for each in found.segments]
    links = [link_row(each) for each in found.links]
    for row in (*segments, *links):
        out.item(row)
    _show_segments(sorted(segments, key=lambda row: -row["bytes"]), out)
    _show_links(links, out)
    held = sum(holder["leases"] for row in segments for holder in row["holders"])
    out.text(
        f"{bytes_text(found.bytes)} in {len(segments)} segments and {len(links)} links; "
        f"{held} pieces are held by readers"
    )
    if found.left_out:
        out.text(f"and {found.left_out} more: ask for the topics of a pattern")
    data = {
        "segments": len(segments),
        "links": len(links),
        "bytes": found.bytes,
        "held": held,
        "left_out": found.left_out,
    }
    return Result(data)


def party_row(party: Any) -> dict[str, Any]:
    """Return one end of shared memory as JSON has it."""
    return {
        "client": party.client,
        "peer": party.peer,
        "tenant": party.tenant,
        "gone": party.gone,
    }


def segment_row(segment: Any) -> dict[str, Any]:
    """Return a segment as JSON has it."""
    return {
        "kind": "segment",
        "number": segment.segment,
        "topic": segment.topic,
        "bytes": segment.bytes,
        "age_ns": segment.age_ns,
        "state": segment.state,
        "owner": party_row(segment.owner),
        "leases": segment.leases,
        "holders": [
            {
                "party": party_row(each.party),
                "leases": each.leases,
                "bytes": each.bytes,
                "held_ns": each.held_ns,
                "link": each.link,
                "reads": each.reads,
                "waiting": each.waiting,
            }
            for each in segment.holders
        ],
    }


def link_row(link: Any) -> dict[str, Any]:
    """Return a link as JSON has it."""
    return {
        "kind": "link",
        "number": link.link,
        "bytes": link.bytes,
        "age_ns": link.age_ns,
        "state": link.state,
        "writer": party_row(link.writer),
        "reader": party_row(link.reader),
        "cells": [
            {
                "topic": each.topic,
                "publisher": each.publisher,
                "subscriber": each.subscriber,
                "pattern": each.pattern,
                "pending": each.pending,
                "delivered": each.delivered,
                "open": each.open,
            }
            for each in link.cells
        ],
    }


def _show_segments(rows: Iterable[dict[str, Any]], out: Output) -> None:
    from rich.table import Table

    table = Table("topic", "bytes", "age", "state", "owner", "out", "reader", "holds", "since")
    for column in (1, 2, 5, 7, 8):
        table.columns[column].justify = "right"
    for row in rows:
        own: tuple[str, ...] = (
            row["topic"],
            bytes_text(row["bytes"]),
            duration_text(row["age_ns"]),
            row["state"],
            _name(row["owner"]),
            str(row["leases"]),
        )
        for holder in row["holders"] or [None]:
            if holder is None:
                table.add_row(*own, "", "", "")
                continue
            holds = f"{holder['leases']} ({bytes_text(holder['bytes'])})"
            if holder["waiting"]:
                holds += f", {holder['waiting']} wait"
            if holder["link"]:
                holds += f", by link {holder['link']}"
            table.add_row(
                *own,
                _name(holder["party"]),
                holds,
                duration_text(holder["held_ns"]) if holder["leases"] else "",
            )
            own = ("",) * len(own)
    if table.row_count:
        out.show(table)


def _show_links(rows: Iterable[dict[str, Any]], out: Output) -> None:
    from rich.table import Table

    table = Table("link", "from", "to", "state", "age", "bytes", "topic", "pending", "delivered")
    for column in (0, 4, 5, 7, 8):
        table.columns[column].justify = "right"
    for row in rows:
        own: tuple[str, ...] = (
            str(row["number"]),
            _name(row["writer"]),
            _name(row["reader"]),
            row["state"],
            duration_text(row["age_ns"]),
            bytes_text(row["bytes"]),
        )
        for cell in row["cells"] or [{"topic": "", "pending": "", "delivered": ""}]:
            table.add_row(*own, cell["topic"], str(cell["pending"]), str(cell["delivered"]))
            own = ("",) * len(own)
    if table.row_count:
        out.show(table)


def _name(party: dict[str, Any]) -> str:
    client = party["client"][:_SHOWN_CHARS] or "?"
    return f"{client} {party['peer'].removeprefix('unix:')}{' (gone)' if party['gone'] else ''}"
