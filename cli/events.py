"""`sira events`: what the node says about itself, as it says it, one line a fact."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from typing import Any

from sira.cli.link import Stop, connected
from sira.cli.output import EXIT_UNACCOUNTED, Output, Result, UsageError, printable

_PREFIX = "sira."
LOAD_PREFIX = "sira.load."
_APART = ("tenant", "suppressed")  # fields of every fact: said after its own


async def events(args: Namespace, out: Output, stop: Stop) -> Result:
    """Follow the facts that match a pattern until told to stop, or until --count have come."""
    pattern = args.pattern
    if pattern != "sira.>" and not pattern.startswith(_PREFIX):
        raise UsageError(f"{pattern!r} is none of the node's", help="as sira.> or sira.client.*")
    wanted = 1 if args.once else args.count
    seen = 0

    async def follow(messages: Any) -> None:
        nonlocal seen
        async for message in messages:
            if message.topic.startswith(LOAD_PREFIX) and not pattern.startswith(LOAD_PREFIX):
                continue  # each second, and long: `sira top` reads them better
            found = fact(message.topic, bytes(message.bytes), message.time_ns)
            out.item(found, line(found))
            seen += 1
            if seen == wanted:
                return

    async with connected(args) as bus, bus.subscribe(pattern) as messages:
        out.start(pattern=pattern)
        if messages.narrowed:
            out.warning(
                f"{pattern} is narrowed: {messages.narrowed}",
                cut=messages.cut, readable=messages.readable,
            )  # fmt: skip
        if not out.as_json:
            out.warning(f"listening on {pattern}; Ctrl-C ends it")
        await stop.race(follow(messages))
    short = wanted is not None and seen < wanted
    return Result({"pattern": pattern, "facts": seen}, EXIT_UNACCOUNTED if short else 0)


def fact(topic: str, body: bytes, time_ns: int) -> dict[str, Any]:
    """Return a fact as JSON has it: what came is from a peer, and may be anything."""
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    fields = said if isinstance(said, dict) else {"text": body.decode(errors="replace")}
    left_out = fields.get("suppressed", 0)
    return {
        "topic": topic,
        "time_ns": time_ns,
        "tenant": str(fields.get("tenant", "")),
        "suppressed": left_out if isinstance(left_out, int) else 0,
        "fields": {name: value for name, value in fields.items() if name not in _APART},
    }


def line(found: dict[str, Any]) -> str:
    """Return a fact for people: time, topic, fields, and what was left out before it."""
    seconds, ns = divmod(found["time_ns"], 10**9)
    at = f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{ns // 10**6:03}"
    parts = [at, found["topic"].ljust(26)]
    parts += [f"{name}={_text(value)}" for name, value in found["fields"].items() if value != ""]
    parts.append(f"tenant={found['tenant']}")
    if found["suppressed"]:
        parts.append(f"({found['suppressed']} before it were left out)")
    return printable(" ".join(parts))


def _text(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False) if " " in value else value
    return json.dumps(value, ensure_ascii=False)
