"""A kernel with very many topics, and how much is done in a turn of the loop.

Time says little on a shared machine, so work is counted: the calls that Python makes, into Python
and into C, between two turns of the loop. One call takes from 0.05 to 0.5 µs; 5 ms are 10,000 and
more. Whatever goes through 100,000 topics at once makes at least as many.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from sira import _native
from sira.kernel import listening
from sira.kernel.bus import Bus
from sira.kernel.clients import Hello
from sira.kernel.identity import Principal
from sira.kernel.settings import load
from sira.kernel.slices import Soon, at_once
from sira.kernel.streams import PublishStream
from sira.kernel.trust.credential import Credential
from sira.testing.doors import Doors
from sira.v1 import bus_pb2, message_pb2

TOPICS = 100_000
CALLS_A_TURN_MAX = 10_000
ASKER = Principal("local", "default", "user", "tester")
WHO = Credential(ASKER)
CLIENT = Hello("c" * 32)


class Crowd:
    """A kernel with very many topics."""

    def __init__(
        self, *, soon: Soon | None = None, tenant: str = "default", **settings: object
    ) -> None:
        limits = {"topics_owned_per_client_max": TOPICS, "subscriptions_per_client_max": TOPICS}
        chosen = load(flags={"data_dir": "/nonexistent", **limits, **settings}, environ={})
        self.now_ns = 1
        self.bus = Bus(
            chosen,
            tenant=tenant,
            clock_ns=lambda: self.now_ns,
            soon=soon or asyncio.get_running_loop().call_soon,
        )
        self.doors = Doors(self.bus, chosen)
        self.client = self.bus.join(CLIENT, ASKER, "here", 1)
        self.stream = self.bus.open_subscribe(self.client, WHO, wake=lambda: None)

    def use(self, count: int = TOPICS) -> None:
        for number in range(count):
            self.bus.topics.ensure(name_of(number), ASKER).count_refused("NO_MATCH")

    def declare(self, count: int = TOPICS, **said: Any) -> None:
        owner = self.client.number if said.get("owned") else 0
        for number in range(count):
            request = bus_pb2.CreateTopicRequest(name=name_of(number), **said)
            at_once(self.bus.topics.creating(request, owner=owner, by=ASKER))

    def listen(self, count: int, **asked: Any) -> None:
        for number in range(count):
            opening = bus_pb2.Open(subscription=number + 1, pattern=name_of(number), **asked)
            listening.open_now(self.bus, self.stream, opening, 1)

    def publishing(self, *, link: str = "") -> PublishStream:
        hello = Hello(CLIENT.id, link=link)
        return self.bus.open_publish(self.client, WHO, wake=lambda: None, hello=hello, now_ns=1)

    def publish(self, count: int = TOPICS) -> None:
        stream = self.publishing()
        for number in range(count):
            message = message_pb2.Message(id=_native.new_id(), topic=name_of(number))
            items = [bus_pb2.Item(message=message, quiet=True, wait_ms=0)]
            stream.ingress.feed(bus_pb2.Frame(items=items).SerializeToString(), 1)
        stream.close(1)

    async def call(self, method: str, request: Any) -> bytes:
        data = request.SerializeToString()
        return await self.doors.call(f"/sira.v1.{method}", data, WHO, CLIENT)

    async def tick_through(self) -> None:
        while self.bus.tick(self.now_ns):  # noqa: ASYNC110  there is more to do
            await asyncio.sleep(0)

    async def open(self, **asked: Any) -> None:
        frame = bus_pb2.Frame(items=[bus_pb2.Item(open=bus_pb2.Open(subscription=1, **asked))])
        self.stream.feed(frame.SerializeToString(), 1)
        await self.sliced()

    async def sliced(self) -> None:
        while self.bus.slices.running:  # noqa: ASYNC110  they go on at each turn
            await asyncio.sleep(0)


def name_of(number: int) -> str:
    return f"lab.room{number % 100}.sensor{number}"


@contextmanager
def counting() -> Iterator[Callable[[], int]]:
    """Count the calls of this thread; what is given returns them and starts again."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    def since() -> int:
        nonlocal calls
        found, calls = calls, 0
        return found

    sys.setprofile(count)
    try:
        yield since
    finally:
        sys.setprofile(None)


async def most_calls_of_a_turn(work: Callable[[], Awaitable[object]]) -> int:
    """Do the work; return the calls of the turn of the loop that made most."""
    most = 0
    with counting() as since:
        working = asyncio.ensure_future(work())
        while not working.done():
            await asyncio.sleep(0)
            most = max(most, since())
    await working
    return most


def on_a_loop(work: Callable[[], Awaitable[None]]) -> None:
    async def guarded() -> None:
        async with asyncio.timeout(120):
            await work()

    asyncio.run(guarded())
