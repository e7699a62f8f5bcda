"""Ten million messages from one process to another: what each process holds must stay where it is.

Small ones by gRPC through the node, small ones past it in shared memory, and a tenth as many that
take a chunk of shared memory each.
"""

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
SAMPLES = 10


@dataclass(frozen=True)
class Way:
    """How they go: past the node or by gRPC, how large, and one of how many that are asked for."""

    is_direct: bool
    floats: int
    one_of: int = 1


WAYS = {"grpc": Way(False, 54), "direct": Way(True, 54), "chunks": Way(True, 2_000, 10)}


@dataclass
class Flow:
    """What was seen: one sample of RSS (bytes) per process and tenth of the messages."""

    way: str
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
            if expected % (count // SAMPLES) == 0 or expected == count:
                said.send(expected)
            if expected == count:
                return


async def _produce(url: str, count: int, floats: int) -> None:
    numbers = np.zeros((), np.int64)
    body = {"n": numbers, "x": np.zeros(floats, np.float32)}
    async with sira.connect(url) as bus, bus.publisher(TOPIC) as publisher:
        for number in range(count):
            numbers[...] = number
            await publisher.send(body)


def _run_consumer(url: str, count: int, said: Connection) -> None:
    asyncio.run(_consume(url, count, said))


def _run_producer(url: str, count: int, floats: int) -> None:
    asyncio.run(_produce(url, count, floats))


def run(name: str, count: int, *, rss_more_bytes: int, tell: Callable[[str], None]) -> Flow:
    """Send messages from one process to another.

    Args:
        name: one of WAYS.
        count: how many, where the way is not one of larger ones.
        rss_more_bytes: growth of any process from its second sample to its last that is a leak.
    """
    way = WAYS[name]
    messages = count // way.one_of
    flow = Flow(name, messages)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with Node() as node:
        url = node.socket_url if way.is_direct else node.url
        consumer = context.Process(target=_run_consumer, args=(url, messages, theirs))
        consumer.start()
        assert ours.recv() == "ready"
        producer = context.Process(target=_run_producer, args=(url, messages, way.floats))
        start_s = time.monotonic()
        producer.start()
        watched = {"node": node.pid, "producer": producer.pid, "consumer": consumer.pid}
        flow.samples = {who: [] for who in watched}
        while flow.received < messages:
            if not ours.poll(120):
                flow.problems.append(f"nothing came for 120 s after {flow.received} messages")
                break
            got = ours.recv()
            if isinstance(got, str):
                flow.problems.append(got)
                break
            flow.received = got
            for who, pid in watched.items():
                if psutil.pid_exists(pid or 0):
                    flow.samples[who].append(psutil.Process(pid).memory_info().rss)
            rss = {who: f"{s[-1] >> 20} MiB" for who, s in flow.samples.items() if s}
            tell(f"{got:,} messages by {name}, RSS {rss}")
        flow.seconds = time.monotonic() - start_s
        with sira.connect_sync(node.url) as bus:
            if not bus.ledger(TOPIC).balanced:
                flow.problems.append(f"the ledger does not balance: {bus.ledger(TOPIC).rows}")
        for process in (producer, consumer):
            process.join(30)
            if process.is_alive():
                flow.problems.append(f"{process.name} did not end")
                process.kill()
    for who, samples in flow.samples.items():
        if len(samples) > 2 and samples[-1] > samples[1] + rss_more_bytes:
            flow.problems.append(f"{who} grew from {samples[1]} to {samples[-1]} bytes of RSS")
    return flow
