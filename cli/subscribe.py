"""`sira sub`."""

from __future__ import annotations

import asyncio
import re
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from sira.cli.link import Stop, connected
from sira.cli.messages import lines, row, save_npz_of
from sira.cli.output import EXIT_UNACCOUNTED, Output, Result, UsageError, bytes_text


class _Seen:
    """What has come so far."""

    def __init__(self) -> None:
        self.messages = self.payload_bytes = 0


async def sub(args: Namespace, out: Output, stop: Stop) -> Result:
    """Show messages until told to stop, --count of them have come, or none came for --timeout."""
    seen, start_s = _Seen(), time.monotonic()
    save = Path(args.save) if args.save else None
    if save is not None and save.suffix == ".npz" and args.count != 1:
        raise UsageError(f"{save} holds one message", help="add --count 1, or name a folder")
    async with connected(args) as bus:
        subscription = bus.subscribe(args.pattern, group=args.group, overflow=args.overflow)
        async with subscription as messages:
            out.start(pattern=args.pattern, group=args.group, overflow=args.overflow)
            if messages.narrowed:
                out.warning(
                    f"{args.pattern} is narrowed: {messages.narrowed}",
                    cut=messages.cut, readable=messages.readable,
                )  # fmt: skip
            if not out.as_json:
                out.warning(f"listening on {args.pattern}; Ctrl-C ends it")
            await stop.race(_take(messages, args, out, seen, save))
    data = {
        "pattern": args.pattern,
        "messages": seen.messages,
        "payload_bytes": seen.payload_bytes,
        "seconds": time.monotonic() - start_s,
    }
    if args.count is None or args.count > 1:
        out.text(f"{seen.messages} messages, {bytes_text(seen.payload_bytes)}")
    missing = args.count is not None and seen.messages < args.count
    if missing and not stop.asked:
        out.warning(f"{seen.messages} of {args.count} messages came in {args.timeout} s")
    return Result(data, EXIT_UNACCOUNTED if missing else 0)


async def _take(
    messages: Any, args: Namespace, out: Output, seen: _Seen, save: Path | None
) -> None:
    iterator = aiter(messages)
    while args.count is None or seen.messages < args.count:
        try:
            async with asyncio.timeout(args.timeout):
                message = await anext(iterator)
        except (TimeoutError, StopAsyncIteration):
            return
        seen.messages += 1
        seen.payload_bytes += message.payload_bytes
        saved = None
        if save is not None:
            path = save if save.suffix == ".npz" else _numbered(save, message.topic, seen.messages)
            saved = save_npz_of(message, path)
        found = row(message, saved=saved)
        out.item(found, lines(found, full=args.full))


def _numbered(folder: Path, topic: str, number: int) -> Path:
    """File of message `number`; the topic comes from a peer, so only plain characters are kept."""
    return folder / f"{number:06}-{re.sub(r'[^A-Za-z0-9._-]', '_', topic)[:100]}.npz"
