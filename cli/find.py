"""`sira find` and `sira call`: who can do it, why; and having it done."""

from __future__ import annotations

import time
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from sira.cli.body import options, pairs, read_body
from sira.cli.link import Stop, connected
from sira.cli.messages import lines, row, save_npz_of
from sira.cli.output import EXIT_UNACCOUNTED, Output, Result, UsageError, duration_text, printable

if TYPE_CHECKING:
    from sira.client.call_receipt import CallReceipt
    from sira.client.matches import Match

_SHARE = 100


async def find(args: Namespace, out: Output, stop: Stop) -> Result:
    """Show who can do what the words ask for, best first."""
    from rich.table import Table

    if bool(args.text) == bool(args.capability):
        raise UsageError("ask by words or by --capability, by one of them",
                         help='as `sira find "segment organs in CT images"`')  # fmt: skip
    out.start(text=args.text or "", capability=args.capability or "")
    async with connected(args) as bus:
        found = await bus.discover(
            args.text or "",
            capability=args.capability or "",
            k=args.k,
            labels=pairs(args.labels, what="label"),
            takes=pairs(args.takes, what="contract"),
            kind=args.kind or "",
            version=args.version or "",
            any_status=args.all,
        )
    table = Table("agent", "capability", "status", "score", "sure", "version")
    for column in (3, 4):
        table.columns[column].justify = "right"
    for each in found:
        out.item(match_row(each, fits=True))
        table.add_row(*_cells(each))
    runners_up = found.runners_up if args.explain or not found else ()
    for each in runners_up:
        out.item(match_row(each, fits=False))
    if found:
        out.show(table)
    else:
        out.text(f"nobody: {printable(found.reason) or 'no agent can do it'}")
    if found.is_shortlist:
        out.text("not sure enough to name one alone: this is a shortlist")
    for each in found if args.explain else ():
        _explain(each, out)
    if runners_up:
        out.text("what came next, or does not fit:")
    for each in runners_up:
        _explain(each, out)
    data = {
        "count": len(found),
        "no_match": found.no_match,
        "reason": found.reason,
        "is_shortlist": found.is_shortlist,
        "revision": found.revision,
        "embedder": found.embedder,
    }
    return Result(data, 0 if found else EXIT_UNACCOUNTED)


async def call(args: Namespace, out: Output, stop: Stop) -> Result:
    """Have somebody do it; show the answer, and who gave it."""
    text = args.text
    if args.capability and args.body is None and not args.tensor:
        text, args.body = None, args.text  # by name: what stands first is the body
    if bool(text) == bool(args.capability):
        raise UsageError("ask by words or by --capability, by one of them",
                         help='as `sira call "segment organs" @scan.npz`')  # fmt: skip
    body, content_type = read_body(args)
    out.start(text=text or "", capability=args.capability or "")
    async with connected(args) as bus:
        start_ns = time.monotonic_ns()
        reply = await bus.call(
            text,
            body,
            capability=args.capability or "",
            timeout_s=args.timeout,
            idempotent=args.idempotent,
            labels=pairs(args.labels, what="label"),
            kind=args.kind or "",
            version=args.version or "",
            **options(args, content_type),
        )
        round_trip_ns = time.monotonic_ns() - start_ns
    receipt = reply.receipt
    assert receipt is not None, "of a call"
    saved = save_npz_of(reply, args.save) if args.save else None
    found = row(reply, saved=saved)
    out.item(found, lines(found, full=args.full, title="source"))
    told = receipt_row(receipt)
    out.text(
        f"by {receipt.agent}, {receipt.capability} ({receipt.confidence:.0%} sure), "
        f"lane {receipt.lane}, {duration_text(round_trip_ns)}"
    )
    return Result({**told, "round_trip_ns": round_trip_ns})


def match_row(match: Match, *, fits: bool) -> dict[str, Any]:
    """Return a match as JSON has it."""
    return {
        "agent": match.agent,
        "kind": match.kind,
        "capability": match.capability,
        "topic": match.topic,
        "fits": fits,
        "score": match.score,
        "confidence": match.confidence,
        "status": match.status,
        "in_flight": match.state.in_flight,
        "version": match.version,
        "effects": match.effects,
        "reasons": [
            {"part": each.part, "value": each.value, "text": each.text} for each in match.reasons
        ],
    }


def receipt_row(receipt: CallReceipt) -> dict[str, Any]:
    """Return the receipt of a call as JSON has it."""
    return {
        "agent": receipt.agent,
        "capability": receipt.capability,
        "topic": receipt.topic,
        "score": receipt.score,
        "confidence": receipt.confidence,
        "is_shortlist": receipt.is_shortlist,
        "lane": receipt.lane,
        "tries": receipt.tries,
    }


def _cells(match: Match) -> tuple[str, ...]:
    return (
        printable(match.agent),
        match.capability,
        match.status,
        f"{match.score:.3f}",
        f"{match.confidence * _SHARE:.0f} %",
        match.version,
    )


def _explain(match: Match, out: Output) -> None:
    out.text(f"{match.agent}  {match.capability}  score {match.score:.3f}  {match.status}")
    for each in match.reasons:
        shown = f"{each.value:+.3f}" if each.value else ""
        out.text(f"    {each.part:9} {shown:>7}  {printable(each.text)}".rstrip())
