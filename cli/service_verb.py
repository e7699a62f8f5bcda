"""`sira verbs`, and the verbs that services brought to the node: found in its table, and run."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from google.protobuf.message import Message

from sira.cli.brought import (
    Brought,
    following,
    lines,
    one_line,
    reply_of,
    request_of,
    split,
    table,
    verb_of,
)
from sira.cli.link import Stop, connected, url_of
from sira.cli.output import (
    EXIT_INTERRUPTED,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    CliError,
    Output,
    Result,
)
from sira.cli.parser import parser_of
from sira.cli.table import common
from sira.client import dynamic
from sira.client.bus import Bus
from sira.client.retry import Retry
from sira.kernel.errors import FrameCorrupt, SiraError, Unreachable

_LOOK_S = 10.0
_ONCE = Retry(connects=False)  # a word that may be a slip is not waited for


async def verbs(args: Namespace, out: Output, stop: Stop) -> Result:
    """List what services brought; with --complete, the words that may come next."""
    if args.complete is not None:
        await _complete(args, out)
        return Result({"count": 0})
    out.start(url=url_of(args))
    async with connected(args) as bus:
        found = table(await bus.introspect(timeout_s=_LOOK_S))
    from rich.markup import escape
    from rich.table import Table

    shown = Table("verb", "summary", "method")
    for name in sorted(found):
        out.item(found[name].row())
        shown.add_row(name, escape(found[name].summary), escape(found[name].method))
    if found:
        out.show(shown)
    else:
        out.text("no service has brought a verb")
    return Result({"count": len(found)})


async def _complete(args: Namespace, out: Output) -> None:
    """Print words for a shell. It says nothing where the node does not."""
    typed = args.complete.split()
    try:
        async with connected(args, retry=_ONCE) as bus:
            found = table(await bus.introspect(timeout_s=_LOOK_S))
            words = [each for each in typed if not each.startswith("-")]
            next_ = following(words, found)
            known = split(words, found)
            if known is not None:
                method = await dynamic.find(
                    bus.connection, found[known[0]].method, timeout_s=_LOOK_S
                )
                verb = verb_of(found[known[0]], method.takes)
                next_ += [each.name for each in (*verb.arguments, *common(verb))]
    except SiraError:
        return
    for word in next_:
        out.text(word)


async def run(args: Namespace, out: Output, stop: Stop) -> Result:
    """Run a verb that is none of this command's own, where the node's table has it.

    Args:
        args: what every verb has, and in `words` all the rest of the command line.

    Raises:
        CliError: UNREACHABLE: no node that could have it; NO_VERB: the node has none of that name.
        UsageError: it takes other arguments.
    """
    try:
        async with connected(args, retry=_ONCE) as bus:
            found = table(await bus.introspect(timeout_s=_LOOK_S))
            known = split(args.words, found)
            if known is None:
                raise _no_verb(args.words, found)
            return await _run(found[known[0]], known[1], args, bus, out, stop)
    except Unreachable as error:
        if out.verb:
            raise
        raise CliError(
            "UNREACHABLE",
            f"{args.words[0]!r} is no verb of this command, and no node answers that a service "
            f"may have brought it to: {error}",
            help="`sira --help` shows this command's own",
            exit_code=EXIT_UNREACHABLE,
            retryable=True,
        ) from None


async def _run(
    brought: Brought, words: list[str], common: Namespace, bus: Bus, out: Output, stop: Stop
) -> Result:
    out.verb = brought.name
    method = await dynamic.find(bus.connection, brought.method, timeout_s=_LOOK_S)
    parser = parser_of(verb_of(brought, method.takes))
    args = parser.parse_args(words)
    if args.help:
        out.text(parser.format_help().rstrip())
        return Result(brought.row())
    request = method.request()
    request_of(request, vars(args), _body(args.json_body))
    try:
        if method.streams:
            return await _stream(method, request, args.timeout, out, stop)
        answer = await stop.race(
            method.call(request, timeout_s=args.timeout, repeatable=brought.effects != "once")
        )
        if answer is None:
            raise CliError(
                "INTERRUPTED", "interrupted before it was done", exit_code=EXIT_INTERRUPTED
            )
        reply = reply_of(answer)
    except ValueError as error:
        raise FrameCorrupt(str(error)) from None
    out.text(lines(reply))
    return Result(reply)


async def _stream(
    method: dynamic.Method, request: Message, timeout_s: float, out: Output, stop: Stop
) -> Result:
    count = 0
    out.start(method=method.name)

    async def take() -> None:
        nonlocal count
        async for each in method.replies(request, timeout_s=timeout_s):
            reply = reply_of(each)
            count += 1
            out.item(reply, one_line(reply))

    await stop.race(take())
    return Result({"count": count})


def _body(text: str | None) -> str | None:
    """Return the JSON body that --json-body names."""
    if text is None or not text.startswith(("-", "@")):
        return text
    try:
        data = sys.stdin.buffer.read() if text == "-" else Path(text[1:]).read_bytes()
        return data.decode()
    except UnicodeDecodeError:
        raise CliError("USAGE", f"{text} is no UTF-8", exit_code=EXIT_USAGE) from None


def _no_verb(words: list[str], found: dict[str, Brought]) -> CliError:
    typed = [word for word in words if not word.startswith("-")]
    more = following(typed[:1], found)
    if more:
        why = f"{typed[0]!r} is followed by one of: {', '.join(more)}"
    else:
        why = f"{typed[0]!r} is no verb of this command, and no service has brought it to the node"
    return CliError(
        "NO_VERB",
        why,
        help="`sira --help` shows this command's own, `sira verbs` those of services",
        exit_code=EXIT_USAGE,
    )
