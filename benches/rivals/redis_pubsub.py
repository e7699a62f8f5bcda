"""Redis pub/sub: redis-py (hiredis parser when installed) through a redis-server on loopback.

One-way producers pipeline PIPELINE messages a round trip, which is the fast way, not one call each.
Redis drops a subscriber that falls behind, so producers keep a window as in `nats_server.py`: the
consumer's progress is a key, read in the same pipeline.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import redis
import redis.asyncio
from numpy.typing import NDArray

from benches import patterns
from benches.link import Link
from benches.payload import Sequence, now_ns

PIPELINE = 100
TELL_EVERY = 1_000
WINDOW = 16_000
FAN_TELL_EVERY = 200
FAN_WINDOW = 1_600
BULK_WINDOW = 16


def _client(link: Link) -> redis.Redis:
    host, _, port = link.params["url"].rpartition(":")
    return redis.Redis(host, int(port))


def _subscribe(client: Any, channel: str) -> Any:
    """Subscribe and take the confirmation."""
    pubsub = client.pubsub()
    pubsub.subscribe(channel)
    while (pubsub.parse_response() or [b""])[0] != b"subscribe":
        pass
    return pubsub


def _take(pubsub: Any) -> bytes:
    """Payload of the next message; the raw reply, which is quicker than `listen()`."""
    payload: bytes = pubsub.parse_response()[2]
    return payload


def echo_server(link: Link) -> None:
    """Answer on a second channel."""
    client = _client(link)
    pubsub = _subscribe(client, "echo")
    link.say("listening")
    while True:
        client.publish("reply", _take(pubsub))


def asker(link: Link) -> None:
    """Publish to one channel, wait on the other."""
    client = _client(link)
    pubsub = _subscribe(client, "reply")

    def ask(message: bytes) -> bytes:
        client.publish("echo", message)
        return _take(pubsub)

    patterns.ask_in_turn(link, ask)


class _Window:
    """The producer's side: pipelines, and waits when too far ahead of the slowest consumer."""

    def __init__(self, client: redis.Redis, *, window: int, consumers: int, pipeline: int) -> None:
        self._keys = [f"progress.{i}" for i in range(consumers)]
        self._client, self._window, self._pipeline_length = client, window, pipeline
        self._pipeline = client.pipeline(transaction=False)
        self._queued = self._sent = 0

    def publish(self, message: Any) -> None:
        """Queue one message; every PIPELINE of them are sent."""
        self._pipeline.publish("flow", message)
        self._queued += 1
        if self._queued == self._pipeline_length:
            self.flush()

    def flush(self) -> None:
        """Send what is queued and wait for room."""
        self._pipeline.mget(self._keys)
        done = self._pipeline.execute()[-1]
        self._sent += self._queued
        self._queued = 0
        while self._sent - min(int(n or 0) for n in done) > self._window - self._pipeline_length:
            time.sleep(0.0002)  # bounded by the stage's time limit
            done = self._client.mget(self._keys)


def sink(link: Link) -> None:
    """Take a numbered one-way flow."""
    client = _client(link)
    pubsub = _subscribe(client, "flow")
    link.say("listening")
    check = Sequence()
    for event in ("warm", "done"):
        while not check.take(_take(pubsub)):
            if check.count % TELL_EVERY == 0:
                client.set("progress.0", check.count)
        link.say(event, end_ns=now_ns(), count=check.count - link.params["warmup"])
        client.set("progress.0", check.count)


def source(link: Link) -> None:
    """Send a numbered one-way flow, pipelined."""
    window = _Window(_client(link), window=WINDOW, consumers=1, pipeline=PIPELINE)
    patterns.pour(link, window.publish, window.flush)


def bulk_sink(link: Link) -> None:
    """Take tensors, one a message."""
    client = _client(link)
    pubsub = _subscribe(client, "flow")
    link.say("listening")
    check, count, last = patterns.TensorSink(link), 0, False
    while not last:
        last = check.take(_take(pubsub))
        count += 1
        client.set("progress.0", count)


def bulk_source(link: Link) -> None:
    """Send tensors, one PUBLISH a round trip."""
    window = _Window(_client(link), window=BULK_WINDOW, consumers=1, pipeline=1)

    def send(tensor: NDArray[np.float32], _slot: int) -> None:
        window.publish(tensor.data.cast("B"))

    patterns.pour_tensors(link, send)


def fan_source(link: Link) -> None:
    """Publish once; redis-server writes it to every subscriber."""
    consumers = link.params["processes"]
    window = _Window(_client(link), window=FAN_WINDOW, consumers=consumers, pipeline=PIPELINE)
    link.say("listening")
    link.hear("subscribed")
    patterns.pour(link, window.publish, window.flush)


async def fan_sink(link: Link) -> None:
    """Hold one connection for each subscription: a connection subscribes to a channel only once."""
    params = link.params
    host, _, port = params["url"].rpartition(":")
    client = redis.asyncio.Redis(host=host, port=int(port), max_connections=4096)
    pubsubs = []
    for _ in range(params["subscriptions"]):
        pubsub = client.pubsub()
        await pubsub.subscribe("flow")
        while (await pubsub.parse_response() or [b""])[0] != b"subscribe":
            pass
        pubsubs.append(pubsub)
    checks = [Sequence() for _ in pubsubs]
    key = f"progress.{params['process']}"

    async def phase(pubsub: Any, check: Sequence) -> None:
        while not check.take((await pubsub.parse_response())[2]):
            if check.count % FAN_TELL_EVERY == 0:
                await client.set(key, min(k.count for k in checks))

    link.say("subscribed")
    for event in ("warm", "done"):
        await asyncio.gather(*(phase(p, k) for p, k in zip(pubsubs, checks, strict=True)))
        link.say(event, end_ns=now_ns(), count=sum(k.count - params["warmup"] for k in checks))
        await client.set(key, min(k.count for k in checks))
    await link.rested()
