"""Ten million small messages through one node: what each process holds must stay where it is."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import numpy as np
import psutil

import sira
from sira.testing import Node

TOPIC = "soak.flow"


@dataclass
class Flow:
    """What was seen: one sample of RSS (bytes) per process and million of messages."""

    messages: int
    seconds: float = 0.0
    received: int = 0
    samples: dict[str, list[int]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


async def _consume(url: str, count: int, said: Connection) -> None:
    async with sira.connect(url) as bus, bus.subscribe(TOPIC) as messages:
        said.send("ready")
        expected = 0
        async for message in messages:
            number = int(message["n"])
            if number != expected:
                said.send(f"message {number} came instead of {expected}")
                return
            expected += 1
            if expected % 1_000_000 == 0 or expected == count:
                said.send(expected)
            if expected == count:
                return


async def _produce(url: str, count: int) -> None:
    numbers = np.zeros((), np.int64)
    padding = np.zeros(54, np.float32)
    body = {"n": numbers, "x": padding}
    async with sira.connect(url) as bus, bus.publisher(TOPIC) as publisher:
        for number in range(count):
            numbers[...] = number
            await publisher.send(body)


def _run_consumer(url: str, count: int, said: Connection) -> None:
    asyncio.run(_consume(url, count, said))


def _run_producer(url: str, count: int) -> None:
    asyncio.run(_produce(url, count))


def run(messages: int, *, rss_more_bytes: int, tell: Callable[[str], None]) -> Flow:
    """Send `messages` messages of about 256 B from one process to another through a node.

    Args:
        messages: at least 4 million, so that there is something to compare.
        rss_more_bytes: growth of any process from its second million to its last that is a leak.
    """
    flow = Flow(messages)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with Node() as node:
        consumer = context.Process(target=_run_consumer, args=(node.url, messages, theirs))
        consumer.start()
        assert ours.recv() == "ready"
        producer = context.Process(target=_run_producer, args=(node.url, messages))
        start_s = time.monotonic()
        producer.start()
        watched = {"node": node.pid, "producer": producer.pid, "consumer": consumer.pid}
        flow.samples = {name: [] for name in watched}
        while flow.received < messages:
            if not ours.poll(120):
                flow.problems.append(f"nothing came for 120 s after {flow.received} messages")
                break
            got = ours.recv()
            if isinstance(got, str):
                flow.problems.append(got)
                break
            flow.received = got
            for name, pid in watched.items():
                if psutil.pid_exists(pid or 0):
                    flow.samples[name].append(psutil.Process(pid).memory_info().rss)
            rss = {name: f"{s[-1] >> 20} MiB" for name, s in flow.samples.items() if s}
            tell(f"{got:,} messages, RSS {rss}")
        flow.seconds = time.monotonic() - start_s
        with sira.connect_sync(node.url) as bus:
            if not bus.ledger(TOPIC).balanced:
                flow.problems.append(f"the ledger does not balance: {bus.ledger(TOPIC).rows}")
        for process in (producer, consumer):
            process.join(30)
            if process.is_alive():
                flow.problems.append(f"{process.name} did not end")
                process.kill()
    for name, samples in flow.samples.items():
        if len(samples) > 2 and samples[-1] > samples[1] + rss_more_bytes:
            flow.problems.append(f"{name} grew from {samples[1]} to {samples[-1]} bytes of RSS")
    return flow
