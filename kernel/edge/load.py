"""Tells what goes on, on `sira.load.*`: each second, while somebody listens, and else nothing.

Looking is done in slices between which others have the loop. A tenant hears of its own world;
operators hear of all.
"""

from __future__ import annotations

import asyncio
from functools import partial

from sira import _native
from sira.kernel.bus import Bus
from sira.kernel.edge.kernel_service import clients
from sira.kernel.edge.parts import taking_turns
from sira.kernel.edge.world import Worlds
from sira.kernel.events import Row
from sira.kernel.identity import SYSTEM
from sira.kernel.load import Look, Rates, facts, topic_row

_TOPICS = ("sira.load.node", "sira.load.topics", "sira.load.clients", "sira.load.subscriptions")
_EVERY_S = 1.0
_FIRST_S = 0.25  # between the two looks of the first snapshot
_IDLE_S = 0.5  # so often is asked whether somebody listens
_SLICE = 1_000  # topics looked at in one go: well under a millisecond


async def tell(worlds: Worlds) -> None:
    """Tell until cancelled."""
    started_ns = _native.now_ns()
    before: dict[str, Look] = {}
    number, wait_s = 0, _IDLE_S
    while True:
        await asyncio.sleep(wait_s)
        operators = worlds.get(SYSTEM)
        watched = operators is not None and _heard(operators.bus)
        first = False
        for world in worlds:
            bus = world.bus
            heard = _heard(bus)
            if not heard and not watched:
                if (unheard := before.pop(world.tenant, None)) is not None:
                    await taking_turns(unheard.forgotten())
                continue
            then, now = before.get(world.tenant), await _look(bus)
            before[world.tenant] = now
            if then is None:
                first = True
                continue
            number += 1
            rates = Rates(then, now)
            uptime_ns, node = now.time_ns - started_ns, bus.settings.node_name
            told = facts(number, node, uptime_ns, rates, partial(_row, bus))
            for name, fields in await taking_turns(told):
                fields["tenant"] = world.tenant
                if heard:
                    bus.events.repeat(name, fields)
                if operators is not None and watched and operators is not world:
                    operators.bus.events.repeat(name, fields)
            await taking_turns(then.forgotten())
        wait_s = _FIRST_S if first else _EVERY_S if before else _IDLE_S


def _heard(bus: Bus) -> bool:
    return any(bus.events.is_heard(topic) for topic in _TOPICS)


async def _look(bus: Bus) -> Look:
    look = Look()
    for part in clients(bus):
        look.add(part)
        await asyncio.sleep(0)
    topics = bus.hub.topics()
    while topics:
        for topic in topics[-_SLICE:]:
            look.published[topic.name] = topic.published
        del topics[-_SLICE:]  # freeing all at once takes long
        await asyncio.sleep(0)
    look.time_ns = _native.now_ns()
    return look


def _row(bus: Bus, name: str, rate: float) -> Row | None:
    counts = bus.hub.row(name)
    return topic_row(counts, rate) if counts is not None else None  # gone meanwhile
