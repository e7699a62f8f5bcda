"""`sira config get|set|history|rollback|list`: values that the node keeps, with their versions."""

from __future__ import annotations

import json
from argparse import Namespace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sira.cli.link import Stop, connected
from sira.cli.output import Output, Result

if TYPE_CHECKING:
    from sira.client.config import ConfigValue


async def get(args: Namespace, out: Output, stop: Stop) -> Result:
    """Show the value that holds."""
    async with connected(args) as bus:
        value = await bus.config.get(args.key)
    out.text(_text(value))
    return Result({"key": args.key, "value": value})


async def set_value(args: Namespace, out: Output, stop: Stop) -> Result:
    """Make a version."""
    async with connected(args) as bus:
        made = await bus.config.set(args.key, _given(args.value), expected_version=args.expect)
    out.text(f"{made.key}: version {made.version}")
    return Result(_row(made))


async def rollback(args: Namespace, out: Output, stop: Stop) -> Result:
    """Make a version that has an earlier one's value."""
    async with connected(args) as bus:
        made = await bus.config.rollback(args.key, args.to, expected_version=args.expect)
    out.text(f"{made.key}: version {made.version}, with the value of {made.rolled_back_to}")
    return Result(_row(made))


async def history(args: Namespace, out: Output, stop: Stop) -> Result:
    """List the versions of a key, newest first."""
    out.start(key=args.key)
    async with connected(args) as bus:
        found = await bus.config.history(args.key)
    return _shown(found, out, "version")


async def list_keys(args: Namespace, out: Output, stop: Stop) -> Result:
    """List the keys that are set."""
    out.start(pattern=args.pattern)
    async with connected(args) as bus:
        found = await bus.config.list(args.pattern)
    if not found:
        out.text("no key is set")
        return Result({"count": 0})
    return _shown(found, out, "key")


def _shown(found: list[ConfigValue], out: Output, first: str) -> Result:
    from rich.table import Table

    others = [each for each in ("key", "version") if each != first]
    table = Table(first, *([] if first == "version" else others), "value", "by", "at")
    for each in found:
        row = _row(each)
        out.item(row)
        named = [str(row[first]), *([] if first == "version" else [str(row[n]) for n in others])]
        at = datetime.fromtimestamp(each.time_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(*named, _text(each.value), each.principal, at)
    out.show(table)
    return Result({"count": len(found)})


def _row(value: ConfigValue) -> dict[str, Any]:
    return {
        "key": value.key,
        "value": value.value,
        "version": value.version,
        "principal": value.principal,
        "time_ns": value.time_ns,
        "rolled_back_to": value.rolled_back_to,
    }


def _given(text: str) -> Any:
    """Return what an argument means: JSON, or else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
