"""Load loops that rivals share: ask and wait, send as fast as it goes, echo on many connections.

Each comes for blocking clients and for asyncio ones; the rival hands in one function. Its call
costs about 0.1 µs a message, the same for all.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benches import payload
from benches.link import Link
from benches.pacing import Alarm
from benches.payload import FILL_PERIOD, HEAD, Lost, Tensors, now_ns, tail
from benches.stats import latency_figures

BURST = 64
"""Messages sent between two looks at the clock."""


def ask_in_turn(link: Link, ask: Callable[[bytes], Any]) -> None:
    """Request, wait for the reply, check it, again; params: warmup, calls, message_bytes."""
    params, filling = link.params, tail(link.params["message_bytes"])
    samples_ns = []
    for index in range(-params["warmup"], params["calls"]):
        if index == 0:
            link.say("ready")
            link.hear("go")
        message = HEAD.pack(index % 2**32, 0) + filling
        start_ns = now_ns()
        reply = ask(message)
        samples_ns.append(now_ns() - start_ns)
        if HEAD.unpack_from(reply)[0] != index % 2**32:
            raise Lost(f"reply to {index} carries another number")
    link.say("done", **latency_figures(samples_ns[params["warmup"] :]))


async def ask_in_turn_async(link: Link, ask: Callable[[bytes], Awaitable[Any]]) -> None:
    """Do as `ask_in_turn`, on the event loop."""
    params, filling = link.params, tail(link.params["message_bytes"])
    samples_ns = []
    for index in range(-params["warmup"], params["calls"]):
        if index == 0:
            link.say("ready")
            await link.heard("go")
        message = HEAD.pack(index % 2**32, 0) + filling
        start_ns = now_ns()
        reply = await ask(message)
        samples_ns.append(now_ns() - start_ns)
        if HEAD.unpack_from(reply)[0] != index % 2**32:
            raise Lost(f"reply to {index} carries another number")
    link.say("done", **latency_figures(samples_ns[params["warmup"] :]))


def pour(link: Link, send: Callable[[bytes], Any], flush: Callable[[], Any] | None = None) -> None:
    """Send numbered messages for a time; params: warmup, send_s, message_bytes."""
    params, filling, pack = link.params, tail(link.params["message_bytes"]), HEAD.pack
    flush = flush or (lambda: None)
    for index in range(params["warmup"]):
        send(pack(index, params["warmup"] if index == params["warmup"] - 1 else 0) + filling)
    flush()
    link.say("ready")
    link.hear("go")
    index, start_ns = params["warmup"], now_ns()
    deadline_ns = start_ns + int(params["send_s"] * 1e9)
    while now_ns() < deadline_ns:
        for _ in range(BURST):
            send(pack(index, 0) + filling)
            index += 1
    send(pack(index, index + 1) + filling)
    flush()
    link.say("sent", start_ns=start_ns, count=index + 1 - params["warmup"])


def drain(link: Link, receive: Callable[[], Any]) -> None:
    """Take what `pour` sends, each in its turn; params: warmup."""
    check = payload.Sequence()
    while not check.take(receive()):
        pass
    link.say("warm")
    while not check.take(receive()):
        pass
    link.say("done", end_ns=now_ns(), count=check.count - link.params["warmup"])


async def pour_async(
    link: Link,
    send: Callable[[bytes], Awaitable[Any]],
    flush: Callable[[], Awaitable[Any]] | None = None,
) -> None:
    """Do as `pour`, on the event loop."""
    params, filling, pack = link.params, tail(link.params["message_bytes"]), HEAD.pack
    for index in range(params["warmup"]):
        await send(pack(index, params["warmup"] if index == params["warmup"] - 1 else 0) + filling)
    if flush:
        await flush()
    link.say("ready")
    await link.heard("go")
    index, start_ns = params["warmup"], now_ns()
    deadline_ns = start_ns + int(params["send_s"] * 1e9)
    while now_ns() < deadline_ns:
        for _ in range(BURST):
            await send(pack(index, 0) + filling)
            index += 1
    await send(pack(index, index + 1) + filling)
    if flush:
        await flush()
    link.say("sent", start_ns=start_ns, count=index + 1 - params["warmup"])


def tensors(params: dict[str, Any]) -> list[NDArray[np.float32]]:
    """Buffers a bulk producer fills in turn: float32, `payload_bytes` each, pages touched."""
    return [
        np.zeros(params["payload_bytes"] // 4, np.float32) + np.float32(0)
        for _ in range(params["buffers"])
    ]


async def pour_tensors_async(
    link: Link,
    send: Callable[[NDArray[np.float32], int], Awaitable[Any]],
    flush: Callable[[], Awaitable[Any]] | None = None,
    before_fill: Callable[[int], Awaitable[Any]] | None = None,
) -> None:
    """Fill a tensor, send it, again; params: payload_bytes, buffers, warmup, count.

    Buffers (slots) take turns; `before_fill(slot)` waits until that one may be written again.
    """
    params, buffers = link.params, tensors(link.params)
    start_ns = 0
    for index in range(params["warmup"] + params["count"]):
        if index == params["warmup"]:
            if flush:
                await flush()
            link.say("ready")
            await link.heard("go")
            start_ns = now_ns()
        slot = index % len(buffers)
        if before_fill:
            await before_fill(slot)
        Tensors.fill(buffers[slot], index)
        await send(buffers[slot], slot)
    if flush:
        await flush()
    link.say("sent", start_ns=start_ns, count=params["count"])


def pour_tensors(
    link: Link,
    send: Callable[[NDArray[np.float32], int], Any],
    before_fill: Callable[[int], Any] | None = None,
) -> None:
    """Do as `pour_tensors_async`, blocking."""
    params, buffers = link.params, tensors(link.params)
    start_ns = 0
    for index in range(params["warmup"] + params["count"]):
        if index == params["warmup"]:
            link.say("ready")
            link.hear("go")
            start_ns = now_ns()
        slot = index % len(buffers)
        if before_fill:
            before_fill(slot)
        Tensors.fill(buffers[slot], index)
        send(buffers[slot], slot)
    link.say("sent", start_ns=start_ns, count=params["count"])


class TensorSink:
    """Counts tensors on arrival and tells the coordinator when warm-up and count are complete."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._tensors = Tensors(link.params.get("fill_period", FILL_PERIOD))
        self._warmup = link.params["warmup"]
        self._total = self._warmup + link.params["count"]

    def take(self, buffer: Any) -> bool:
        """Sum `buffer` (an array, or bytes of float32); true when it was the last one due."""
        array = buffer if isinstance(buffer, np.ndarray) else np.frombuffer(buffer, np.float32)
        self._tensors.take(array)
        if self._tensors.count == self._warmup:
            self._link.say("warm")
        if self._tensors.count == self._total:
            self._link.say("done", end_ns=now_ns(), count=self._link.params["count"])
            return True
        return False


Echo = Callable[[bytes], Awaitable[Any]]
"""Sends a message on one connection and returns what came back on it."""


async def swarm(link: Link, connections: Sequence[Echo]) -> None:
    """Echo on many connections: first as fast as they go, then on a schedule.

    params: message_bytes. Says `subscribed` before the first message, so that what an idle
    connection costs can be read, and goes on at `go`. Each `run` heard names a window (start_ns,
    end_ns on the shared clock), interval_ns and seed. interval_ns 0: one message is always under
    way on each connection, and round trips that end inside the window count. Else each connection
    sends every interval_ns, and a latency counts from when the message was due: a late loop or a
    busy connection is not hidden.
    """
    filling = tail(link.params["message_bytes"])
    sequence = [0] * len(connections)
    link.say("subscribed")
    await link.heard("go")

    async def once(position: int) -> None:
        message = HEAD.pack(sequence[position], 0) + filling
        reply = await connections[position](message)
        if HEAD.unpack_from(reply)[0] != sequence[position]:
            raise Lost(f"connection {position}: another message came back")
        sequence[position] += 1

    for position in range(len(connections)):
        await once(position)
    link.say("ready")
    while True:
        order = await link.heard("run")
        samples_ns: list[int] = []
        await asyncio.sleep(max(0.0, (order["start_ns"] - now_ns()) / 1e9))
        loops = [
            _pace(order, random.Random(order["seed"] * 1000 + i), once, i, samples_ns)
            if order["interval_ns"]
            else _flood(order, once, i, samples_ns)
            for i in range(len(connections))
        ]
        await asyncio.gather(*loops)
        link.say("ran", samples_us=[round(ns / 1e3) for ns in samples_ns])


async def _flood(
    order: dict[str, Any], once: Callable[[int], Awaitable[None]], position: int, out: list[int]
) -> None:
    """Echo on one connection without a pause until the window closes."""
    while (start_ns := now_ns()) < order["end_ns"]:
        await once(position)
        if (ended_ns := now_ns()) <= order["end_ns"]:
            out.append(ended_ns - start_ns)


async def _pace(
    order: dict[str, Any],
    rng: random.Random,
    once: Callable[[int], Awaitable[None]],
    position: int,
    out: list[int],
) -> None:
    """Echo on one connection every `interval_ns`, from a random phase."""
    due_ns, alarm = order["start_ns"] + int(rng.random() * order["interval_ns"]), Alarm()
    while due_ns < order["end_ns"]:
        await alarm.until(due_ns)
        await once(position)
        out.append(now_ns() - due_ns)
        due_ns += order["interval_ns"]
    alarm.close()
