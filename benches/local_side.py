"""Our participants of row `local1000`: a crowd of local clients, and who publishes to each of them.

Topics are told apart by number. Each has one publisher and one subscriber, numbers its messages
from 0, and the subscriber checks that each came, once and in order.
"""

from __future__ import annotations

import asyncio
import gc
import time
from contextlib import AsyncExitStack
from typing import Any

import sira
from benches.link import Link
from benches.payload import HEAD, Sequence, tail
from benches.sira_side import connect

PATIENCE_S = 60.0
PAST_NODE = ["shm"]
"""The lanes of a receipt when no byte of a message went by the node."""


def topic_of(client: int, position: int) -> str:
    """One of a client's topics; `client` is numbered over all processes."""
    return f"bench.local.{client}.{position}"


async def crowd(link: Link) -> None:
    """Hold many clients; params: first (number of the first), clients, topics (of each).

    They connect at `connect`, one after the other; at `take` it is waited for the last messages.
    """
    params, checks, tasks = link.params, list[Sequence](), list[asyncio.Task[None]]()
    async with AsyncExitStack() as stack:

        async def take(messages: Any, check: Sequence) -> None:
            async for message in messages:
                if check.take(message.bytes):
                    return

        began_ns = time.perf_counter_ns()
        async with connect(link):  # a process's first one loads what the others then have
            first_ns = time.perf_counter_ns() - began_ns
        gc.collect()
        gc.freeze()  # what was loaded is walked no more: see README.md, row local1000
        link.say("ready")
        await link.heard("connect")
        connect_ns, connect_cpu_ns, subscribe_ns = list[int](), list[int](), list[int]()
        for client in range(params["first"], params["first"] + params["clients"]):
            began_ns, began_cpu_ns = time.perf_counter_ns(), time.process_time_ns()
            bus = await stack.enter_async_context(connect(link))
            connected_ns = time.perf_counter_ns()
            connect_cpu_ns.append(time.process_time_ns() - began_cpu_ns)
            for position in range(params["topics"]):
                topic, check = topic_of(client, position), Sequence()
                messages = await stack.enter_async_context(bus.subscribe(topic))
                checks.append(check)
                tasks.append(asyncio.create_task(take(messages, check)))
            subscribe_ns.append(time.perf_counter_ns() - connected_ns)
            connect_ns.append(connected_ns - began_ns)
        link.say(
            "subscribed",
            connect_ns=connect_ns,
            connect_cpu_ns=connect_cpu_ns,
            subscribe_ns=subscribe_ns,
            first_ns=first_ns,
        )
        await link.heard("take")
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*tasks)
        link.say("taken", messages=sum(check.count for check in checks))
        await link.rested()


async def publisher(link: Link) -> None:
    """Publish on the topics of some clients, a message on each in turn.

    params: clients (their numbers), topics (of each), message_bytes. Each `round` heard is one
    message a topic; `last` says that the readers may stop there. Answered with how many of them
    went past the node.
    """
    params, rest = link.params, tail(link.params["message_bytes"])
    names = [
        topic_of(c, position) for c in params["clients"] for position in range(params["topics"])
    ]

    async with connect(link) as bus:

        async def post(index: int, total: int) -> int:
            past = 0
            for name in names:
                receipt = await bus.publish(name, HEAD.pack(index, total) + rest)
                past += _went_past(receipt)
            return past

        link.say("ready")
        index = 0
        while True:
            order = await link.heard("round")
            began_ns = time.perf_counter_ns()
            past = await post(index, index + 1 if order["last"] else 0)
            index += 1
            seconds = (time.perf_counter_ns() - began_ns) / 1e9
            link.say("posted", past=past, sent=len(names), seconds=seconds)


def _went_past(receipt: sira.Receipt) -> bool:
    return list(receipt.lanes) == PAST_NODE
