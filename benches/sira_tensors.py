"""Sira's participants of row `shm`: large tensors by whichever lane the measurement is named after.

An array handed in is filled where the application has it, and the SDK puts it on its way; a loan is
filled where it is sent from. Receipts must tell the lane and the copies that are measured.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

import sira
from benches import patterns
from benches.exchange import (
    Answers,
    Fill,
    Stamp,
    answer_touched,
    ask_tensors_async,
    ask_touched_async,
    held_array,
    pour_in_place_async,
)
from benches.link import Link
from benches.payload import Lost, Tensors
from benches.sira_side import asker, connect, echo_server, sink, source

__all__ = [
    "asker", "bulk_sink", "bulk_source", "echo_server", "loan_asker", "loan_source", "sink",
    "source", "tensor_answerer", "tensor_asker", "touched_answerer", "touched_asker",
]  # fmt: skip

BULK, ASKED, LOOK = "bench.bulk", "bench.asked", "bench.look"
TIMEOUT_S = 60.0


class Told:
    """Counts what receipts tell: by which lanes a message left, and how often it was copied."""

    def __init__(self, params: dict[str, Any], *, copies: int | None = None) -> None:
        """Expect `copies`; None: what the system is named after."""
        self._wanted = (params["lane"], params["copies"] if copies is None else copies)
        self._warmup = params["warmup"]
        self._seen: Counter[tuple[str, int]] = Counter()
        self.count = 0

    def take(self, receipt: Any) -> None:
        """Count one; those of the warm-up may tell anything: a lane may have to be opened."""
        self.count += 1
        if self.count > self._warmup:
            self._seen["+".join(receipt.lanes), receipt.copies] += 1

    def check(self) -> None:
        """Compare.

        Raises:
            Lost: one left by another lane, or was copied more often or less.
        """
        if self._seen.keys() != {self._wanted}:
            raise Lost(f"lane and copies {self._wanted} were due, receipts tell {dict(self._seen)}")


def window(params: dict[str, Any]) -> int:
    """Return how many tensors may be under way: all but the one that is being filled."""
    return int(params["buffers"]) - 1


def spec(params: dict[str, Any]) -> dict[str, str]:
    """Return the layout of one tensor of the case's size."""
    return {"x": f"f32[{params['payload_bytes'] // 4}]"}


async def look(bus: sira.Bus, link: Link, tensor: NDArray[np.float32]) -> None:
    """Publish as often as the warm-up has it, and once more: which lane do messages take here?

    Replies carry no receipt, and what a request's receipt tells is not handed out.
    """
    told = Told(link.params, copies=1)
    for _ in range(link.params["warmup"] + 1):
        told.take(await bus.publish(LOOK, {"x": tensor}, timeout_s=TIMEOUT_S))
    told.check()


async def bulk_sink(link: Link) -> None:
    """Take tensors, one a message, viewed where the SDK put them."""
    check = patterns.TensorSink(link)
    async with (
        connect(link) as bus,
        bus.subscribe(BULK, window_messages=window(link.params)) as messages,
    ):
        link.say("listening")
        async for message in messages:
            last = check.take(message["x"])
            del message  # else it is held while the next one is waited for
            if last:
                break
        await link.rested()


async def bulk_source(link: Link) -> None:
    """Hand arrays in; one is refilled once the receipt of its last message is here."""
    told, sent, buffers = Told(link.params), 0, link.params["buffers"]
    async with connect(link) as bus, bus.publisher(BULK) as publisher:

        async def before_fill(_slot: int) -> None:
            while sent - told.count >= buffers:
                async for receipt in publisher.receipts():
                    told.take(receipt)
                    break

        async def send(tensor: NDArray[np.float32], _slot: int) -> None:
            nonlocal sent
            await publisher.send({"x": tensor})
            sent += 1

        async def flush() -> None:
            async for receipt in publisher.receipts():
                told.take(receipt)
            if sent > link.params["warmup"]:
                told.check()

        await patterns.pour_tensors_async(link, send, flush, before_fill)
        await link.rested()


async def loan_source(link: Link) -> None:
    """Fill loans; each waits for its receipt, while the one before is being read."""
    told, wanted = Told(link.params), spec(link.params)
    async with connect(link) as bus:

        async def send(fill: Fill) -> None:
            async with bus.loan(BULK, wanted) as out:
                fill(out["x"])
            told.take(out.receipt)

        await pour_in_place_async(link, send)
        told.check()
        await link.rested()


async def tensor_answerer(link: Link) -> None:
    """Sum each request and reply with a tensor of the same size, an array handed in."""
    answers, reply = Answers(), held_array(link)
    async with connect(link) as bus, bus.subscribe(ASKED) as messages:
        await look(bus, link, reply)
        link.say("listening")
        resting = asyncio.create_task(link.rested())
        async for message in messages:
            answers.take(message["x"])(reply)
            await message.reply({"x": reply})
            del message
        await resting


async def tensor_asker(link: Link) -> None:
    """Ask with an array of ours, one at a time."""
    tensor = held_array(link)
    async with connect(link) as bus:
        await look(bus, link, tensor)

        async def ask(fill: Fill) -> Any:
            fill(tensor)
            return (await bus.request(ASKED, {"x": tensor}, timeout_s=TIMEOUT_S))["x"]

        await ask_tensors_async(link, ask)
        await link.rested()


async def loan_asker(link: Link) -> None:
    """Ask with loans, one at a time; what answers is `tensor_answerer`."""
    wanted, told = spec(link.params), Told(link.params)
    async with connect(link) as bus:
        for index in range(link.params["warmup"] + 1):
            async with bus.loan(LOOK, wanted) as out:
                Tensors.fill(out["x"], index)
            told.take(out.receipt)
        told.check()

        async def ask(fill: Fill) -> Any:
            async with bus.loan(ASKED, wanted, request=True, timeout_s=TIMEOUT_S) as out:
                fill(out["x"])
            return (await out.reply())["x"]

        await ask_tensors_async(link, ask)
        await link.rested()


async def touched_answerer(link: Link) -> None:
    """Look at both ends of each request where it lies, answer with a few bytes."""
    async with connect(link) as bus, bus.subscribe(ASKED) as messages:
        link.say("listening")
        resting = asyncio.create_task(link.rested())
        async for message in messages:
            await message.reply(answer_touched(message["x"]))
            del message
        await resting


async def touched_asker(link: Link) -> None:
    """Ask with a loan, one at a time, of which both ends are written."""
    wanted = {"x": f"u8[{link.params['payload_bytes']}]"}
    async with connect(link) as bus:

        async def ask(write: Stamp) -> Any:
            async with bus.loan(ASKED, wanted, request=True, timeout_s=TIMEOUT_S) as out:
                write(out["x"])
            return (await out.reply()).bytes

        await ask_touched_async(link, ask)
        await link.rested()
