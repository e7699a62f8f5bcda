"""`sira pub` and `sira request`."""

from __future__ import annotations

import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sira.cli.body import options, read_body
from sira.cli.link import Stop, connected
from sira.cli.messages import lines, row, save_npz_of
from sira.cli.output import (
    EXIT_UNACCOUNTED,
    Output,
    Result,
    UsageError,
    bytes_text,
    duration_text,
)
from sira.kernel.errors import SiraError

if TYPE_CHECKING:
    from sira._native import Receipt
    from sira.client.bus import Bus

_PROGRESS_S = 1.0


class _Tally:
    """What became of the messages of one `sira pub`."""

    def __init__(self) -> None:
        self.accepted = self.refused = self.unknown = self.matched = self.bytes = 0
        self.sent = 0
        self.start_ns = time.monotonic_ns()

    def take(self, receipt: Receipt) -> None:
        self.accepted += 1
        self.matched += receipt.matched
        self.bytes += receipt.bytes

    def fail(self, error: SiraError) -> None:
        # What timed out or lost its connection may have arrived: nobody here can tell.
        if error.code in ("OUTCOME_UNKNOWN", "TIMEOUT", "UNREACHABLE"):
            self.unknown += 1
        else:
            self.refused += 1

    def data(self, topic: str) -> dict[str, Any]:
        return {
            "topic": topic,
            "accepted": self.accepted,
            "refused": self.refused,
            "unknown": self.unknown,
            "matched": self.matched,
            "bytes": self.bytes,
            "seconds": (time.monotonic_ns() - self.start_ns) / 1e9,
        }


async def pub(args: Namespace, out: Output, stop: Stop) -> Result:
    """Publish one message, --count of them, or --rate a second until told to stop.

    A signal lets the message that is on its way have its receipt; a second one does not.
    """
    topic, body, content_type = _parts(args)
    keywords = options(args, content_type)
    keywords["ttl_s"], keywords["timeout_s"] = args.ttl, args.timeout
    count = args.count or (None if args.rate else 1)
    tally = _Tally()
    out.start(topic=topic, count=count, rate=args.rate)
    async with connected(args) as bus:
        tally.start_ns = time.monotonic_ns()
        await _publish(bus, topic, body, keywords, count, args.rate, out, tally, stop)
    data = tally.data(topic)
    if count != 1:
        out.text(
            f"{tally.accepted} accepted, {tally.refused} refused, {tally.unknown} unknown, "
            f"{bytes_text(tally.bytes)} in {data['seconds']:.1f} s"
        )
    return Result(data, EXIT_UNACCOUNTED if tally.refused or tally.unknown else 0)


async def _publish(
    bus: Bus,
    topic: str,
    body: Any,
    keywords: dict[str, Any],
    count: int | None,
    rate: float | None,
    out: Output,
    tally: _Tally,
    stop: Stop,
) -> None:
    told_s = time.monotonic()
    start_s = told_s
    while not stop.asked and (count is None or tally.sent < count):
        if rate and await stop.sleep(start_s + tally.sent / rate - time.monotonic()):
            return
        tally.sent += 1
        try:
            receipt = await bus.publish(topic, body, **keywords)
        except SiraError as error:
            if count == 1:
                raise
            tally.fail(error)
            out.warning(f"{error} [{error.code}]", code=error.code)
            continue
        tally.take(receipt)
        out.item(receipt_row(receipt), receipt_line(receipt) if count == 1 else None)
        if count != 1 and time.monotonic() - told_s > _PROGRESS_S:
            told_s = time.monotonic()
            out.progress(
                f"{tally.accepted} accepted, {tally.accepted / (told_s - start_s):.0f}/s",
                done=tally.sent / count if count else None,
            )


def receipt_row(receipt: Receipt) -> dict[str, Any]:
    """Return the receipt as JSON has it."""
    return {
        "id": receipt.id,
        "matched": receipt.matched,
        "grade": receipt.grade,
        "lanes": list(receipt.lanes),
        "copies": receipt.copies,
        "bytes": receipt.bytes,
        "nodes": receipt.nodes,
        "spooled": receipt.spooled,
        "offset": receipt.offset,
    }


def receipt_line(receipt: Receipt) -> str:
    """One line for people about a receipt."""
    lanes = "+".join(receipt.lanes) or "no lane"
    return (
        f"{receipt.grade} {receipt.id}  matched {receipt.matched}  {lanes}  "
        f"copies {receipt.copies}  {bytes_text(receipt.bytes)}"
    )


def _parts(args: Namespace) -> tuple[str, Any, str]:
    if not args.topic:
        raise UsageError("no topic given", help="as `sira pub lab.echo hello`")
    body, content_type = read_body(args)
    return args.topic, body, content_type


async def request(args: Namespace, out: Output, stop: Stop) -> Result:
    """Ask once; show the reply, or with --stream every reply until the end."""
    topic, body, content_type = _parts(args)
    keywords = options(args, content_type)
    out.start(topic=topic)
    replies = 0
    async with connected(args) as bus:
        start_ns = time.monotonic_ns()
        if args.stream:
            async for reply in bus.request_stream(topic, body, timeout_s=args.timeout, **keywords):
                replies += 1
                _show(reply, args, out, index=replies)
        else:
            reply = await bus.request(topic, body, timeout_s=args.timeout, **keywords)
            replies = 1
            _show(reply, args, out, index=None)
        round_trip_ns = time.monotonic_ns() - start_ns
    out.text(
        f"{replies} {'reply' if replies == 1 else 'replies'} in {duration_text(round_trip_ns)}"
    )
    return Result({"topic": topic, "replies": replies, "round_trip_ns": round_trip_ns})


def _show(reply: Any, args: Namespace, out: Output, *, index: int | None) -> None:
    saved = None
    if args.save:
        path = Path(args.save)
        if index is not None:
            path = path.with_name(f"{path.stem}-{index:06}.npz")
        saved = save_npz_of(reply, path)
    found = row(reply, saved=saved)
    out.item(found, lines(found, full=args.full, title="source"))
