"""A node that goes down waits until all that it accepted is delivered, or its time is up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from sira import _native
from sira.kernel.edge.world import World, Worlds
from sira.kernel.slices import at_once
from sira.kernel.subscriptions import Subscription

# What is with the clients and not confirmed is waited for as long as confirmations come; after so
# long without one the rest is left to the ledger.
CONFIRM_S = 1.0
_LOOK_S = 0.01


def waiting(worlds: Worlds) -> int:
    """Return deliveries that are owed: waiting here or in links, or sent and not confirmed."""
    return sum(each.pending + each.sub.in_flight for each in _subscriptions(worlds))


async def flush(worlds: Worlds, calls_now: Callable[[], int], grace_s: float) -> None:
    """Wait until all that was accepted is sent and confirmed, at most `grace_s`.

    Args:
        worlds: of the node; all of them drain.
        calls_now: gives calls of services that have no answer yet.
        grace_s: the longest wait.
    """
    end_ns = _native.now_ns() + round(grace_s * 1e9)
    confirmed_ns, with_clients_before = _native.now_ns(), -1
    while (now_ns := _native.now_ns()) < end_ns:
        for world in worlds:
            at_once(world.bus.settle())
        pending = sum(each.sub.pending for each in _subscriptions(worlds))
        with_clients = waiting(worlds) - pending
        if with_clients != with_clients_before:
            confirmed_ns, with_clients_before = now_ns, with_clients
        busy = pending or calls_now() or any(map(_is_busy, worlds))
        if not busy and (not with_clients or now_ns - confirmed_ns > CONFIRM_S * 1e9):
            return
        for world in worlds:
            world.ticker.hurry()
        await asyncio.sleep(_LOOK_S)


def _subscriptions(worlds: Worlds) -> Iterator[Subscription]:
    """Yield those of all tenants."""
    for world in worlds:
        yield from world.bus.subscriptions


def _is_busy(world: World) -> bool:
    """Whether something of a tenant is still under way on the node."""
    stats = world.bus.hub.stats
    under_way = stats["transfers"] - stats["transfers_kept"]
    return bool(stats["parked"] or under_way or len(world.requests))
