"""The load of the row `mixed`: large tensors and small requests of one asyncio producer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benches.link import Link
from benches.pacing import Alarm
from benches.patterns import tensors
from benches.payload import HEAD, Lost, Tensors, now_ns, tail
from benches.stats import latency_figures

OUTSTANDING_MAX = 4_096
"""Requests under way at once; past it the schedule waits, and its lateness is counted."""


async def mix(
    link: Link,
    send: Callable[[NDArray[np.float32]], Awaitable[Any]],
    ask: Callable[[bytes], Awaitable[Any]],
) -> None:
    """Move tensors alone, ask alone, then both; params: count, warmup, requests_per_s, idle_s.

    `send` returns when the consumer has summed the tensor. The fill runs on a thread, so that it is
    not the load generator that holds up the requests.
    """
    params = link.params
    (tensor,) = tensors(params)
    moved = 0

    async def move(count: int) -> float:
        nonlocal moved
        start_ns = now_ns()
        for _ in range(count):
            await asyncio.to_thread(Tensors.fill, tensor, moved)
            await send(tensor)
            moved += 1
        return (now_ns() - start_ns) / 1e9

    async def until(over: asyncio.Event) -> list[int]:
        return await ask_on_schedule(params, ask, over)

    await move(params["warmup"])
    await for_a_time(until, params["idle_s"] / 4)
    link.say("ready")
    await link.heard("go")
    alone_s = await move(params["count"])
    idle_ns = await for_a_time(until, params["idle_s"])
    over = asyncio.Event()
    asking = asyncio.create_task(until(over))
    beside_s = await move(params["count"])
    over.set()
    beside_ns = await asking
    link.say(
        "done",
        alone_s=alone_s,
        beside_s=beside_s,
        idle=latency_figures(idle_ns),
        beside=latency_figures(beside_ns),
        beside_requests=len(beside_ns),
    )
    await link.rested()


async def for_a_time(
    until: Callable[[asyncio.Event], Awaitable[list[int]]], duration_s: float
) -> list[int]:
    """Run `until` and end it after `duration_s`."""
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(duration_s, over.set)
    return await until(over)


async def ask_on_schedule(
    params: dict[str, Any], ask: Callable[[bytes], Awaitable[Any]], over: asyncio.Event
) -> list[int]:
    """Send requests at fixed instants until `over`; each one's time from when it was due, ns."""
    filling, samples_ns = tail(params["message_bytes"]), list[int]()
    interval_ns = int(1e9 / params["requests_per_s"])
    room = asyncio.Semaphore(OUTSTANDING_MAX)

    async def one(index: int, due_ns: int) -> None:
        reply = await ask(HEAD.pack(index, 0) + filling)
        samples_ns.append(now_ns() - due_ns)
        room.release()
        if HEAD.unpack_from(reply)[0] != index:
            raise Lost(f"reply to {index} carries another number")

    index, due_ns, alarm = 0, now_ns(), Alarm()
    async with asyncio.TaskGroup() as group:
        while not over.is_set():
            await alarm.until(due_ns)
            await room.acquire()
            group.create_task(one(index, due_ns))
            index, due_ns = index + 1, due_ns + interval_ns
    alarm.close()
    return samples_ns


class Replies:
    """Matches replies that come back in order with those who wait for them."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[Any]] = []

    def expect(self) -> asyncio.Future[Any]:
        """A place in the order; take it when the request is handed over."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        return future

    def arrived(self, reply: Any) -> None:
        """Give `reply` to the one who has waited longest."""
        self._waiting.pop(0).set_result(reply)
