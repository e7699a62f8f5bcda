"""The processes that get killed: a publisher and subscribers that write down what they know.

Each fact is one line, written with a single write(2) before the next step, so that a kill -9
leaves whole lines: `sent N` is written before, `accepted N` or `CODE N` after, `got N` when the
application has it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys

import numpy as np

import sira


def say(text: str) -> None:
    os.write(sys.stdout.fileno(), f"{text}\n".encode())


async def publish(url: str, topic: str, *, at_once: int, payload_floats: int) -> None:
    """Publish 0, 1, 2, ... until SIGTERM, `at_once` of them unanswered at a time."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with sira.connect(url, timeout_s=30) as bus:
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
                say(f"accepted {number} {receipt.matched}")
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
        say("done")


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
            message = following.result()
            number = int(message["n"])
            whole = bool((message["x"] == np.float32(number)).all())
            say(f"got {number}" if whole else f"CORRUPT {number}")
        say("done")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["publish", "subscribe"])
    parser.add_argument("--url", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--group", default="")
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--payload-floats", type=int, default=64)
    given = parser.parse_args()
    if given.role == "publish":
        work = publish(
            given.url, given.topic, at_once=given.at_once, payload_floats=given.payload_floats
        )
    else:
        work = subscribe(given.url, given.topic, group=given.group)
    asyncio.run(work)


if __name__ == "__main__":
    main()
