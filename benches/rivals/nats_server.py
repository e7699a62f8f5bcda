"""NATS core: nats-py on uvloop through a nats-server on loopback.

Core NATS has no back-pressure between clients: a consumer that falls behind is cut off or drops. So
the producer keeps a window: consumers tell their progress now and then, and the producer stays
WINDOW messages ahead at most. That costs one small message in TELL_EVERY.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import nats
import numpy as np
from nats.aio.client import Client
from nats.aio.msg import Msg
from numpy.typing import NDArray

from benches import patterns
from benches.link import Link
from benches.payload import HEAD, Sequence, now_ns

TELL_EVERY = 1_000
WINDOW = 16_000
FAN_TELL_EVERY = 200
FAN_WINDOW = 1_600
BULK_WINDOW = 16


async def _connect(url: str) -> Client:
    return await nats.connect("nats://" + url, allow_reconnect=False)


class _Window:
    """The producer's side: how far the slowest of `consumers` has come."""

    def __init__(self, client: Client, *, window: int, consumers: int) -> None:
        self._client, self._window = client, window
        self._done = dict.fromkeys(range(consumers), 0)
        self._moved = asyncio.Event()
        self._sent = 0

    async def open(self) -> None:
        """Listen to the progress that consumers tell."""
        await self._client.subscribe("progress", cb=self._told)
        await self._client.flush()

    async def _told(self, message: Msg) -> None:
        consumer, count = HEAD.unpack(message.data)
        self._done[consumer] = count
        self._moved.set()

    async def publish(self, message: bytes) -> None:
        """Send, when the window has room; lets the loop write now and then."""
        while self._sent - min(self._done.values()) >= self._window:
            self._moved.clear()
            await self._moved.wait()
        self._sent += 1
        await self._client.publish("flow", message)
        if self._sent % patterns.BURST == 0:
            await asyncio.sleep(0)


async def echo_server(link: Link) -> None:
    """Answer requests."""
    client = await _connect(link.params["url"])

    async def answer(message: Msg) -> None:
        await message.respond(message.data)

    await client.subscribe("echo", cb=answer)
    await client.flush()
    link.say("listening")
    await link.rested()


async def asker(link: Link) -> None:
    """Ask with `request`, one at a time."""
    client = await _connect(link.params["url"])

    async def ask(message: bytes) -> bytes:
        return (await client.request("echo", message, timeout=10)).data

    await patterns.ask_in_turn_async(link, ask)
    await link.rested()


async def _take_flow(
    link: Link, client: Client, take: Callable[[bytes], bool], *, consumer: int, tell_every: int
) -> None:
    """Subscribe to the flow; `take` says of each message whether it ends a phase."""
    count = 0

    async def taken(message: Msg) -> None:
        nonlocal count
        try:
            ended = take(message.data)
        except Exception as error:
            link.say("error", traceback=repr(error))
            return
        count += 1
        if ended or count % tell_every == 0:
            await client.publish("progress", HEAD.pack(consumer, count))

    await client.subscribe("flow", cb=taken)
    await client.flush()


async def sink(link: Link) -> None:
    """Take a numbered one-way flow."""
    client = await _connect(link.params["url"])
    check, phases = Sequence(), iter(("warm", "done"))

    def take(data: bytes) -> bool:
        if check.take(data):
            link.say(next(phases), end_ns=now_ns(), count=check.count - link.params["warmup"])
            return True
        return False

    await _take_flow(link, client, take, consumer=0, tell_every=TELL_EVERY)
    link.say("listening")
    await link.rested()


async def source(link: Link) -> None:
    """Send a numbered one-way flow."""
    client = await _connect(link.params["url"])
    window = _Window(client, window=WINDOW, consumers=1)
    await window.open()
    await patterns.pour_async(link, window.publish, client.flush)
    await link.rested()


async def bulk_sink(link: Link) -> None:
    """Take tensors, one a message."""
    client = await _connect(link.params["url"])
    check = patterns.TensorSink(link)
    await _take_flow(link, client, check.take, consumer=0, tell_every=1)
    link.say("listening")
    await link.rested()


async def bulk_source(link: Link) -> None:
    """Send tensors, one a message; nats-py joins `bytes`, so each is copied into one."""
    client = await _connect(link.params["url"])
    window = _Window(client, window=BULK_WINDOW, consumers=1)
    await window.open()

    async def send(tensor: NDArray[np.float32], _slot: int) -> None:
        await window.publish(tensor.tobytes())

    await patterns.pour_tensors_async(link, send, client.flush)
    await link.rested()


async def fan_source(link: Link) -> None:
    """Publish once; nats-server writes it to every subscription."""
    client = await _connect(link.params["url"])
    window = _Window(client, window=FAN_WINDOW, consumers=link.params["processes"])
    await window.open()
    link.say("listening")
    await link.heard("subscribed")
    await patterns.pour_async(link, window.publish, client.flush)
    await link.rested()


async def fan_sink(link: Link) -> None:
    """Hold connections with several subscriptions each; tells the progress of the slowest."""
    params = link.params
    clients = [await _connect(params["url"]) for _ in range(params["connections"])]
    checks = [Sequence() for _ in range(params["subscriptions"])]
    ended = 0

    def on(client: Client, check: Sequence) -> Callable[[Msg], Any]:
        async def taken(message: Msg) -> None:
            nonlocal ended
            try:
                last = check.take(message.data)
            except Exception as error:
                link.say("error", traceback=repr(error))
                return
            if last:
                ended += 1
                if ended % len(checks) == 0:
                    count = sum(k.count - params["warmup"] for k in checks)
                    event = "warm" if ended == len(checks) else "done"
                    link.say(event, end_ns=now_ns(), count=count)
            if last or check.count % FAN_TELL_EVERY == 0:
                slowest = min(k.count for k in checks)
                await client.publish("progress", HEAD.pack(params["process"], slowest))

        return taken

    for position, check in enumerate(checks):
        client = clients[position % len(clients)]
        await client.subscribe("flow", cb=on(client, check))
    for client in clients:
        await client.flush()
    link.say("subscribed")
    await link.rested()


async def swarm(link: Link) -> None:
    """Hold many connections; each subscribes to a subject of its own and publishes to it."""

    async def echo_on(position: int) -> patterns.Echo:
        client = await _connect(link.params["url"])
        subject = f"swarm.{link.params['process']}.{position}"
        arrived: asyncio.Queue[bytes] = asyncio.Queue()

        async def taken(message: Msg) -> None:
            arrived.put_nowait(message.data)

        await client.subscribe(subject, cb=taken)

        async def echo(message: bytes) -> bytes:
            await client.publish(subject, message)
            return await arrived.get()

        return echo

    await patterns.swarm(link, [await echo_on(i) for i in range(link.params["connections"])])
