"""Tells what goes on, on `sira.load.*`: each second, while somebody listens, and else nothing.

Looking is done in slices between which others have the loop. A tenant hears of its own world;
operators hear of all.
"""

from __future__ import annotations

import asyncio

from sira import _native
from sira.kernel.bus import Bus
from sira.kernel.edge.kernel_service import add_clients
from sira.kernel.edge.world import Worlds
from sira.kernel.events import Row
from sira.kernel.identity import SYSTEM
from sira.kernel.load import Look, Rates, facts, topic_row
from sira.v1 import kernel_pb2

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
                before.pop(world.tenant, None)
                continue
            then, now = before.get(world.tenant), await _look(bus)
            before[world.tenant] = now
            if then is None:
                first = True
                continue
            number += 1
            rates = Rates(then, now)
            topics = await _rows(bus, rates)
            uptime_ns = now.time_ns - started_ns
            for name, fields in facts(number, bus.settings.node_name, uptime_ns, rates, topics):
                fields["tenant"] = world.tenant
                if heard:
                    bus.events.repeat(name, fields)
                if operators is not None and watched and operators is not world:
                    operators.bus.events.repeat(name, fields)
        wait_s = _FIRST_S if first else _EVERY_S if before else _IDLE_S


def _heard(bus: Bus) -> bool:
    return any(bus.events.is_heard(topic) for topic in _TOPICS)


async def _look(bus: Bus) -> Look:
    stats = kernel_pb2.StatsResponse()
    await add_clients(bus, stats)
    published: dict[str, int] = {}
    for index, topic in enumerate(bus.hub.topics(), 1):
        published[topic.name] = topic.published
        if index % _SLICE == 0:
            await asyncio.sleep(0)
    return Look(_native.now_ns(), stats, published)


async def _rows(bus: Bus, rates: Rates) -> list[Row]:
    rows: list[Row] = []
    for name, rate in rates.busiest():
        counts = bus.hub.row(name)
        if counts is not None:  # not gone meanwhile
            rows.append(topic_row(counts, rate))
    await asyncio.sleep(0)
    return rows
