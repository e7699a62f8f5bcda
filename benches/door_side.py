"""Our participants in the rows about the door: who asks on a schedule, who is greedy, who looks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import sira
from benches.link import Link
from benches.mixture import ask_on_schedule, for_a_time
from benches.nodes import DENIED_TOPIC, DENYING_RULE, LIMITED_TOPIC
from benches.pacing import Alarm
from benches.payload import Lost, now_ns, tail
from benches.sira_side import connect
from sira.kernel.errors import Denied, RateLimited

TICK_NS = 10_000_000
"""The greedy one sends what is due so often."""
BURSTS_MAX = 64
"""Bursts of one connection without an answer; past it the schedule waits, and that is told."""
PATIENCE_S = 60.0
HASTY = sira.Retry(limited=False)
"""What a limit has no room for is refused; else it would wait on the node until there is room."""


async def asker_on_schedule(link: Link) -> None:
    """Ask at fixed instants; params: message_bytes, requests_per_s, warm_s.

    Each `ask` heard names the seconds of one window; a latency counts from when it was due.
    """
    async with connect(link) as bus:

        async def ask(message: bytes) -> Any:
            return (await bus.request("bench.echo", message, timeout_s=PATIENCE_S)).bytes

        async def until(over: asyncio.Event) -> list[int]:
            return await ask_on_schedule(link.params, ask, over)

        await for_a_time(until, link.params["warm_s"])
        link.say("ready")
        while True:
            order = await link.heard("ask")
            samples_ns = await for_a_time(until, order["seconds"])
            link.say("asked", samples_us=[round(ns / 1e3) for ns in samples_ns])


class _Tally:
    """What became of the messages of the greedy one."""

    def __init__(self) -> None:
        self.accepted = self.refused = self.taken = 0
        self.came = asyncio.Event()  # set with each message that is taken

    async def send(self, bus: sira.Bus, topic: str, bodies: list[bytes]) -> None:
        """Send one burst; refusals for its rate are what is expected."""
        try:
            receipts = await bus.publish_many(topic, bodies, timeout_s=PATIENCE_S)
            self.accepted += len(receipts)
        except RateLimited as error:
            self.accepted += int(error.details["accepted"])
            self.refused += int(error.details["refused"])


async def greedy(link: Link) -> None:
    """Send far more than is allowed, on several connections, and take what comes through.

    params: message_bytes, connections, sent_per_s (of all connections). Each `pour` heard names
    the seconds of one window. Refusals are not waited for: what is due is sent, whatever became of
    what was sent before.
    """
    params, tally, topic = link.params, _Tally(), "bench.greed"
    body = b"\0" * 16 + tail(params["message_bytes"])
    async with AsyncExitStack() as stack:
        buses = [
            await stack.enter_async_context(connect(link, retry=HASTY))
            for _ in range(params["connections"])
        ]
        messages = await stack.enter_async_context(buses[0].subscribe(topic))

        async def take() -> None:
            async for message in messages:
                if message.bytes != body:
                    raise Lost("another message came than was sent")
                tally.taken += 1
                tally.came.set()

        async def pour() -> None:
            order = await link.heard("pour")
            before, start_ns = (tally.accepted, tally.refused), now_ns()
            end_ns = start_ns + int(order["seconds"] * 1e9)
            per_s = params["sent_per_s"] / len(buses)
            async with asyncio.TaskGroup() as group:
                for bus in buses:
                    group.create_task(_pour_on(bus, topic, body, tally, start_ns, end_ns, per_s))
            seconds = (now_ns() - start_ns) / 1e9
            await _checked(buses[0], topic, tally)
            link.say(
                "poured",
                seconds=seconds,
                accepted=tally.accepted - before[0],
                refused=tally.refused - before[1],
            )

        async def obey() -> None:
            while True:
                await pour()

        link.say("ready")
        await asyncio.gather(take(), obey())


async def _pour_on(
    bus: sira.Bus, topic: str, body: bytes, tally: _Tally, start_ns: int, end_ns: int, per_s: float
) -> None:
    """Send what is due every TICK_NS until `end_ns`, then wait for the answers."""
    alarm, room, due_ns, sent = Alarm(), asyncio.Semaphore(BURSTS_MAX), start_ns, 0

    async def one(count: int) -> None:
        await tally.send(bus, topic, [body] * count)
        room.release()

    async with asyncio.TaskGroup() as group:
        while due_ns < end_ns:
            due_ns += TICK_NS
            await alarm.until(due_ns)
            await room.acquire()
            count = int((due_ns - start_ns) / 1e9 * per_s) - sent
            group.create_task(one(count))
            sent += count
    alarm.close()


async def _checked(bus: sira.Bus, topic: str, tally: _Tally) -> None:
    """Compare what was answered with what was taken and with the node's books.

    Raises:
        Lost: they differ, or what was accepted does not arrive.
    """
    async with asyncio.timeout(PATIENCE_S):
        while tally.taken < tally.accepted:
            tally.came.clear()
            await tally.came.wait()
    row = (await bus.ledger(topic))[topic]
    refused = row.refused.get("RATE_LIMITED", 0)
    seen = (tally.taken, tally.accepted, tally.refused)
    if seen != (row.owed, row.owed, refused) or not row.balanced:
        raise Lost(f"taken, accepted, refused: {seen}; the node says {row}")


async def _is_refused(
    bus: sira.Bus, topic: str, error: type[sira.SiraError], fits: Callable[[str], bool]
) -> bool:
    """Whether two messages to `topic` at once are not both taken, and why."""
    try:
        await bus.publish_many(topic, [b"?", b"?"], timeout_s=PATIENCE_S)
    except error as refusal:
        return fits(str(refusal))
    return False


async def probe(link: Link) -> None:
    """Look whether rules and limits are in force as they should; params: rules, limited.

    Raises:
        Lost: they are not, or they are where there should be none.
    """
    rules, limited = link.params["rules"] > 0, link.params["limited"]
    async with connect(link, retry=HASTY) as bus:
        denied = await _is_refused(bus, DENIED_TOPIC, Denied, lambda text: DENYING_RULE in text)
        narrowed = await _is_refused(bus, LIMITED_TOPIC, RateLimited, lambda _text: True)
    if (denied, narrowed) != (rules, limited):
        raise Lost(f"denied {denied}, limited {narrowed}; wanted {rules}, {limited}")
    link.say("probed")


async def watcher(link: Link) -> None:
    """Say how many clients and subscriptions the node counts, each time it is asked."""
    async with connect(link) as bus:
        link.say("ready")
        while True:
            await link.heard("count")
            values = (await bus.stats()).values
            link.say("counted", clients=values["clients"], subscriptions=values["subscriptions"])
