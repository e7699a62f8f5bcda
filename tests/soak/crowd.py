"""A thousand subscribers, each on a connection of its own: all get all, and the books balance."""

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

TOPIC = "soak.crowd"
PROCESSES = 10
CONNECT_AT_ONCE = 20
PATIENCE_S = 120.0


@dataclass
class Crowd:
    """What was seen. Bytes and seconds are the node's, the first per subscriber's connection."""

    subscribers: int
    messages: int
    deliveries: int = 0
    seconds: float = 0.0
    node_rss_bytes_each: float = 0.0
    node_cpu_s: float = 0.0
    node_idle_cpu_s: float = 0.0
    problems: list[str] = field(default_factory=list)


async def _members(url: str, count: int, messages: int, said: Connection) -> None:
    """Hold `count` connections with a subscription each; say how many got everything in order."""
    turns = asyncio.Semaphore(CONNECT_AT_ONCE)
    complete = 0
    subscribed: asyncio.Queue[None] = asyncio.Queue()

    async def member() -> None:
        nonlocal complete
        async with turns:
            bus = await sira.connect(url, timeout_s=60)
            subscription = bus.subscribe(TOPIC)
            await subscription.__aenter__()
        subscribed.put_nowait(None)
        try:
            for expected in range(messages):
                message = await anext(subscription)
                if int(message["n"]) != expected:
                    return
            complete += 1
        finally:
            await subscription.__aexit__(None, None, None)
            await bus.close()

    tasks = [asyncio.create_task(member()) for _ in range(count)]
    for _ in range(count):
        await subscribed.get()
    said.send("subscribed")
    await asyncio.gather(*tasks)
    said.send(complete)


def _run_members(url: str, count: int, messages: int, said: Connection) -> None:
    asyncio.run(_members(url, count, messages, said))


def _heard(pipe: Connection, problems: list[str]) -> object:
    if not pipe.poll(PATIENCE_S):
        problems.append(f"a process said nothing for {PATIENCE_S:g} s")
        return None
    return pipe.recv()


def run(subscribers: int, messages: int, *, tell: Callable[[str], None]) -> Crowd:
    """Publish `messages` messages to `subscribers` connections, `PROCESSES` processes in all."""
    crowd = Crowd(subscribers, messages)
    context = multiprocessing.get_context("spawn")
    with Node() as node, sira.connect_sync(node.url) as bus:
        node_process = psutil.Process(node.pid)
        rss_bytes = node_process.memory_info().rss
        pipes, processes = [], []
        for index in range(PROCESSES):
            ours, theirs = context.Pipe()
            share = subscribers // PROCESSES + (index < subscribers % PROCESSES)
            arguments = (node.url, share, messages, theirs)
            processes.append(context.Process(target=_run_members, args=arguments))
            processes[-1].start()
            pipes.append(ours)
        for pipe in pipes:
            _heard(pipe, crowd.problems)
        crowd.node_rss_bytes_each = (node_process.memory_info().rss - rss_bytes) / subscribers
        tell(f"{subscribers} subscribed, {crowd.node_rss_bytes_each / 1024:.1f} KiB each")
        idle_s = sum(node_process.cpu_times()[:2])
        time.sleep(2.0)  # what an idle crowd costs is measured over a time
        cpu_s = sum(node_process.cpu_times()[:2])
        crowd.node_idle_cpu_s = cpu_s - idle_s
        start_s = time.monotonic()
        with bus.publisher(TOPIC) as publisher:
            for number in range(messages):
                publisher.send({"n": np.int64(number), "x": np.zeros(60, np.float32)})
        complete = 0
        for pipe in pipes:
            got = _heard(pipe, crowd.problems)
            complete += got if isinstance(got, int) else 0
        crowd.seconds = time.monotonic() - start_s
        crowd.node_cpu_s = sum(node_process.cpu_times()[:2]) - cpu_s
        if complete != subscribers:
            crowd.problems.append(f"{subscribers - complete} subscribers did not get everything")
        row = bus.ledger(TOPIC)[TOPIC]
        crowd.deliveries = row.delivered
        if not row.balanced or row.delivered != subscribers * messages:
            crowd.problems.append(f"the ledger says {row}")
        for process in processes:
            process.join(30)
            if process.is_alive():
                crowd.problems.append("a process of subscribers did not end")
                process.kill()
    return crowd
