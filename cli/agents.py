"""`sira agents`: who is registered, as it changes; Agent Cards of A2A, out and in."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sira.cli import a2a
from sira.cli.body import pairs
from sira.cli.link import Stop, connected
from sira.cli.output import Output, Result, UsageError, duration_text, printable
from sira.kernel.errors import NotFound

if TYPE_CHECKING:
    from sira.client.matches import AgentChange, AgentInfo

_MS = 1_000_000  # ns
_LONG_S = 3600.0
_VERSION_CHARS = 8  # as reasons name it
_CARD_BYTES_MAX = 48 << 10  # a registration has 60 KiB, and the capabilities are in it twice then


async def list_agents(args: Namespace, out: Output, stop: Stop) -> Result:
    """List who is registered; with --watch follow what changes."""
    labels = pairs(args.labels, what="label")
    if args.watch:
        if labels or args.name:
            raise UsageError("--watch follows all of a --kind", help="leave out NAME and --labels")
        return await _watch(args, out, stop)
    out.start(kind=args.kind or "")
    async with connected(args) as bus:
        agents = await bus.agents(kind=args.kind or "", labels=labels, name=args.name or "")
    for each in agents:
        out.item(agent_row(each))
    if agents:
        out.show(_table(agents))
    else:
        out.text("nobody is registered")
    return Result({"count": len(agents)})


async def _watch(args: Namespace, out: Output, stop: Stop) -> Result:
    out.start(kind=args.kind or "")
    count = 0
    async with connected(args) as bus:
        changes = bus.watch_agents(kind=args.kind or "")
        try:
            while (change := await stop.race(_next(changes))) is not None:
                if change.agent is None:
                    continue
                count += 1
                found = {"change": change.kind, "revision": change.revision}
                out.item({**found, **agent_row(change.agent)}, _line(change))
        finally:
            await changes.aclose()
    return Result({"count": count})


async def _next(changes: Any) -> AgentChange | None:
    with contextlib.suppress(StopAsyncIteration):
        change: AgentChange = await anext(changes)
        return change
    return None


async def learned(args: Namespace, out: Output, stop: Stop) -> Result:
    """Say what was learned of each kind of agents."""
    from rich.table import Table

    out.start()
    async with connected(args) as bus:
        found = await bus.learned()
    table = Table("kind", "head", "capabilities", "examples", "right", "of held out", "age", "cpu")
    for column in range(2, 8):
        table.columns[column].justify = "right"
    for each in found:
        out.item(dataclasses.asdict(each))
        table.add_row(
            each.kind,
            each.version[:_VERSION_CHARS],
            str(each.capabilities),
            str(each.examples),
            f"{each.right:.0%}" if each.held_out else "",
            str(each.held_out),
            duration_text(max(0, time.time_ns() - each.trained_ns)),
            duration_text(each.took_ms * _MS),
        )
    if found:
        out.show(table)
    else:
        out.text(
            "nothing is learned yet: agents are ranked by their words and examples as they are"
        )
    return Result({"count": len(found)})


async def export(args: Namespace, out: Output, stop: Stop) -> Result:
    """Show an agent as an Agent Card."""
    if not args.a2a:
        raise UsageError("--a2a is the form there is")
    out.start(name=args.name)
    async with connected(args) as bus:
        agents = await bus.agents(name=args.name)
        url = bus.url.split(",")[0]
    if not agents:
        raise NotFound(f"no agent {args.name} is registered", details={"name": args.name})
    card = a2a.card_of(agents[0], url=url)
    text = json.dumps(card, indent=2, ensure_ascii=False)
    if args.out:
        _write(args.out, text)
        out.text(f"{args.out} has the card of {args.name}")
    else:
        out.text(text)
    return Result({"name": args.name, "file": args.out and str(args.out), "card": card})


async def import_card(args: Namespace, out: Output, stop: Stop) -> Result:
    """Register the agent of an Agent Card, and beat for it until told to end."""
    from sira.client.beats import enrol
    from sira.client.registering import Load

    if not args.a2a:
        raise UsageError("--a2a is the form there is")
    registration = a2a.registration_of(_read(args.file), name=args.name or "")
    out.start(name=registration.name)
    async with connected(args) as bus:
        # Who listens is elsewhere, at the endpoints of the card.
        membership = await enrol(bus, registration, Load(), timeout_s=5.0, listens=lambda: True)
        found = {
            "name": registration.name,
            "generation": membership.told.generation,
            "revision": membership.told.revision,
            "capabilities": [each.name for each in registration.capabilities],
        }
        out.item(found, f"{registration.name} is registered, until this ends")
        try:
            if not args.once:
                while not await stop.sleep(_LONG_S):
                    pass
        finally:
            if args.once:
                await membership.abandon()
            else:
                await membership.leave()
    return Result(found)


def _write(path: str, text: str) -> None:
    Path(path).write_text(text + "\n", encoding="utf-8")


def _read(path: str) -> str:
    """Return a card's text. Raises UsageError."""
    try:
        data = Path(path).read_bytes()
        if len(data) > _CARD_BYTES_MAX:
            raise UsageError(f"a card of {len(data)} bytes; at most {_CARD_BYTES_MAX}")
        return data.decode()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is no text in UTF-8") from None


def agent_row(agent: AgentInfo) -> dict[str, Any]:
    """Return an agent as JSON has it."""
    state = agent.state
    return {
        "name": agent.name,
        "kind": agent.kind,
        "status": state.status,
        "reason": state.reason,
        "since_ms": state.since_ms,
        "beat_age_ms": state.beat_age_ms,
        "in_flight": state.in_flight,
        "waiting": state.waiting,
        "lag_ms": state.lag_ms,
        "max_in_flight": agent.max_in_flight,
        "version": agent.version,
        "description": agent.description,
        "labels": dict(agent.labels),
        "capabilities": [each.name for each in agent.capabilities],
        "endpoints": list(agent.endpoints),
        "principal": agent.principal,
        "generation": agent.generation,
    }


def _table(agents: list[AgentInfo]) -> Any:
    from rich.table import Table

    table = Table("agent", "kind", "status", "for", "busy", "waiting", "lag", "version", "can")
    for column in (3, 4, 5, 6):
        table.columns[column].justify = "right"
    for each in agents:
        state = each.state
        table.add_row(
            printable(each.name),
            each.kind,
            state.status + (f": {printable(state.reason)}" if state.reason else ""),
            duration_text(state.since_ms * _MS),
            f"{state.in_flight}/{each.max_in_flight}" if each.max_in_flight else "",
            str(state.waiting),
            duration_text(state.lag_ms * _MS),
            each.version,
            ", ".join(capability.name for capability in each.capabilities),
        )
    return table


def _line(change: AgentChange) -> str:
    assert change.agent is not None, "of one"
    if change.kind == "removed":
        return f"{change.agent.name}  is registered no more"
    state = change.agent.state
    return f"{change.agent.name}  {state.status}  {printable(state.reason)}".rstrip()
