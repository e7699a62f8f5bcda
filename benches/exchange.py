"""Loops of row `shm`: tensors filled where they are sent from, asked for and answered.

A system hands in one function that is given a `Fill` and calls it once on the memory of its choice:
an array of its own that it sends then, or memory that is shared already. So what a copy costs is in
the figures of whoever makes one, and nobody sends bytes that were not written just now.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benches.link import Link, Quit
from benches.pairs import check_stamp, stamp
from benches.payload import HEAD, Lost, Tensors, now_ns
from benches.stats import latency_figures

Fill = Callable[[NDArray[np.float32]], None]
"""Writes every element of a float32 array, as whoever makes tensors would."""
Stamp = Callable[[Any], None]
"""Writes both ends of a buffer of bytes."""
REPLY_LEAD = 6
"""A reply is filled as the request so many numbers later: who sends the request back fails."""


def floats(buffer: Any) -> NDArray[np.float32]:
    """View what came as float32, where it lies."""
    return buffer if isinstance(buffer, np.ndarray) else np.frombuffer(buffer, np.float32)


def held_array(link: Link) -> NDArray[np.float32]:
    """Return an array of the case's size whose pages are there already."""
    return np.ones(link.params["payload_bytes"] // 4, np.float32)


class Answers:
    """Reads requests, and says what their replies are filled with."""

    def __init__(self) -> None:
        self._requests = Tensors()

    def take(self, buffer: Any) -> Fill:
        """Sum the next request; how its reply is filled.

        Raises:
            Lost: another request, or a changed one.
        """
        self._requests.take(floats(buffer))
        return partial(Tensors.fill, index=self._requests.count - 1 + REPLY_LEAD)


def _replies() -> Tensors:
    replies = Tensors()
    replies.count = REPLY_LEAD
    return replies


def ask_tensors(link: Link, ask: Callable[[Fill], Any]) -> None:
    """Fill a request, send it, wait for the reply and sum it, again; params: warmup, calls.

    All of that is timed, and as much again at the other end.
    """
    warmup, replies, samples_ns = link.params["warmup"], _replies(), []
    for index in range(warmup + link.params["calls"]):
        if index == warmup:
            link.say("ready")
            link.hear("go")
        start_ns = now_ns()
        replies.take(floats(ask(partial(Tensors.fill, index=index))))
        samples_ns.append(now_ns() - start_ns)
    link.say("done", **latency_figures(samples_ns[warmup:]))


async def ask_tensors_async(link: Link, ask: Callable[[Fill], Awaitable[Any]]) -> None:
    """Do as `ask_tensors`, on the event loop."""
    warmup, replies, samples_ns = link.params["warmup"], _replies(), []
    for index in range(warmup + link.params["calls"]):
        if index == warmup:
            link.say("ready")
            await link.heard("go")
        start_ns = now_ns()
        replies.take(floats(await ask(partial(Tensors.fill, index=index))))
        samples_ns.append(now_ns() - start_ns)
    link.say("done", **latency_figures(samples_ns[warmup:]))


def ask_touched(link: Link, ask: Callable[[Stamp], Any]) -> None:
    """Write both ends of a request in place, send it, wait for its number, again.

    What lies between is written and read by nobody: all sizes should take the same time. params:
    warmup, calls.

    Raises:
        Lost: another request was answered.
    """
    warmup, samples_ns = link.params["warmup"], []
    for index in range(warmup + link.params["calls"]):
        if index == warmup:
            link.say("ready")
            link.hear("go")
        start_ns = now_ns()
        reply = ask(partial(stamp, number=index, total=0))
        samples_ns.append(now_ns() - start_ns)
        _check_answer(reply, index)
    link.say("done", **latency_figures(samples_ns[warmup:]))


async def ask_touched_async(link: Link, ask: Callable[[Stamp], Awaitable[Any]]) -> None:
    """Do as `ask_touched`, on the event loop."""
    warmup, samples_ns = link.params["warmup"], []
    for index in range(warmup + link.params["calls"]):
        if index == warmup:
            link.say("ready")
            await link.heard("go")
        start_ns = now_ns()
        reply = await ask(partial(stamp, number=index, total=0))
        samples_ns.append(now_ns() - start_ns)
        _check_answer(reply, index)
    link.say("done", **latency_figures(samples_ns[warmup:]))


def _check_answer(reply: Any, index: int) -> None:
    if HEAD.unpack_from(reply)[0] != index:
        raise Lost(f"reply to {index} carries another number")


def answer_touched(request: Any) -> bytes:
    """Look at both ends of a request; its answer.

    Raises:
        Lost: they are not of one message.
    """
    check_stamp(request)
    return bytes(request[: HEAD.size])


def pour_in_place(link: Link, send: Callable[[Fill], Any]) -> None:
    """Send tensors one way; params: warmup, count."""
    warmup, start_ns = link.params["warmup"], 0
    for index in range(warmup + link.params["count"]):
        if index == warmup:
            link.say("ready")
            link.hear("go")
            start_ns = now_ns()
        send(partial(Tensors.fill, index=index))
    link.say("sent", start_ns=start_ns, count=link.params["count"])


async def pour_in_place_async(link: Link, send: Callable[[Fill], Awaitable[Any]]) -> None:
    """Do as `pour_in_place`, on the event loop."""
    warmup, start_ns = link.params["warmup"], 0
    for index in range(warmup + link.params["count"]):
        if index == warmup:
            link.say("ready")
            await link.heard("go")
            start_ns = now_ns()
        await send(partial(Tensors.fill, index=index))
    link.say("sent", start_ns=start_ns, count=link.params["count"])


def leave_when_closed(link: Link) -> None:
    """Let a participant that blocks for ever end with its line; it hears nothing from now on."""

    def wait() -> None:
        try:
            link.rest()
        except Quit:
            os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
