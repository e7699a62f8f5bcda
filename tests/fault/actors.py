"""The processes that get killed: a publisher and subscribers that write down what they know.

Each fact is one line, written with a single write(2) before the next step, so that a kill -9
leaves whole lines: `sent N` is written before, `accepted N` or `CODE N` after, `got N` when the
application has it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys

import numpy as np

import sira


def say(text: str) -> None:
    os.write(sys.stdout.fileno(), f"{text}\n".encode())


async def publish(url: str, topic: str, *, at_once: int, payload_floats: int, hears: bool) -> None:
    """Publish 0, 1, 2, ... until SIGTERM, `at_once` of them unanswered at a time.

    With `hears` it takes its own messages, too, from before the first one on: its two streams carry
    each other's credits and receipts then.
    """
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with sira.connect(url, timeout_s=30) as bus, contextlib.AsyncExitStack() as stack:
        if hears:
            messages = await stack.enter_async_context(bus.subscribe(topic))
            hearing = asyncio.ensure_future(hear(messages))
        say("ready")
        free = asyncio.Semaphore(at_once)

        async def one(number: int) -> None:
            body = {
                "n": np.int64(number),
                "x": np.full(payload_floats * (1 + number % 3), number, np.float32),
            }
            try:
                receipt = await bus.publish(topic, body, timeout_s=10)
            except sira.SiraError as error:
                say(f"{error.code} {number}")
            else:
                say(f"accepted {number} {receipt.matched} {receipt.lanes[0]}")
            finally:
                free.release()

        running: set[asyncio.Task[None]] = set()
        number = 0
        while not stop.is_set():
            await free.acquire()
            say(f"sent {number}")
            task = asyncio.create_task(one(number))
            running.add(task)
            task.add_done_callback(running.discard)
            number += 1
            await asyncio.sleep(0)
        await asyncio.gather(*running)
        if hears:
            while any(row.pending for row in await bus.ledger(topic)):  # noqa: ASYNC110  asks a node
                await asyncio.sleep(0.01)
            hearing.cancel()
        say("done")


async def hear(messages: sira.Subscription) -> None:
    """Write down every message, for ever."""
    async for message in messages:
        say(heard(message))


def heard(message: sira.Message) -> str:
    """Say which message it is, and whether its payload is the one of its number."""
    number = int(message["n"])
    return f"got {number}" if (message["x"] == np.float32(number)).all() else f"CORRUPT {number}"


async def subscribe(url: str, topic: str, *, group: str) -> None:
    """Take messages until SIGTERM; check that the payload is the one of its number."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with (
        sira.connect(url, timeout_s=30) as bus,
        bus.subscribe(topic, group=group) as messages,
    ):
        say("ready")
        stopping = asyncio.ensure_future(stop.wait())
        while True:
            following = asyncio.ensure_future(anext(messages))
            await asyncio.wait({following, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                following.cancel()
                break
            say(heard(following.result()))
        say("done")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["publish", "subscribe"])
    parser.add_argument("--url", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--group", default="")
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--payload-floats", type=int, default=64)
    parser.add_argument("--hears", action="store_true")
    given = parser.parse_args()
    if given.role == "publish":
        work = publish(
            given.url, given.topic, at_once=given.at_once, payload_floats=given.payload_floats,
            hears=given.hears,
        )  # fmt: skip
    else:
        work = subscribe(given.url, given.topic, group=given.group)
    asyncio.run(work)


if __name__ == "__main__":
    main()
