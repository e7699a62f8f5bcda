"""The books balance and every reader is right, whatever mix of traffic there was: small and large,
awaited and streamed, subscriptions that come and go, rest, drop or keep the newest. Seeded walks.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest

import sira

# Fresh at each run, and the same in all its workers (tests/conftest.py).
FRESH = random.Random(os.environ["SIRA_RUN_SEED"])
SEEDS = [int(s) for s in os.environ.get("SIRA_SEED", "").split(",") if s] or [
    FRESH.randrange(1 << 32) for _ in range(2)
]
STEPS = 150
SIZES = (8, 8, 8, 64, 300, 448, 449, 4_000, 70_000, 600_000)
HEAD = struct.Struct("<II")  # publisher, number


@dataclass(eq=False)
class Reader:
    """One subscription and its task: takes what comes unless it rests, and checks the order."""

    messages: Any
    overflow: str
    ordered: bool = True
    taken: Counter[str] = field(default_factory=Counter)  # by topic
    seen: set[tuple[int, int]] = field(default_factory=set)
    awake: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    _last: dict[tuple[int, str, int], int] = field(default_factory=dict)

    async def read(self) -> None:
        async for message in self.messages:
            self.note(message)
            await self.awake.wait()

    def note(self, message: Any) -> None:
        body = message.bytes
        publisher, number = HEAD.unpack_from(body)
        assert bytes(body[HEAD.size :]) == bytes([number % 251]) * (len(body) - HEAD.size)
        assert (publisher, number) not in self.seen, "delivered twice"
        self.seen.add((publisher, number))
        key = (publisher, message.topic, message.priority)
        if self.ordered:
            assert self._last.get(key, -1) < number, "out of order"
        self._last[key] = number
        self.taken[message.topic] += 1


class Walk:
    """Publishers and readers of a few topics, and what must have become of each message."""

    def __init__(self, seed: int, topic: str) -> None:
        self.random = random.Random(seed)
        self.topics = [f"{topic}.{name}" for name in ("a", "b", "c")]
        self.pattern = f"{topic}.>"
        self.numbers: Counter[int] = Counter()
        self.published: Counter[str] = Counter()
        self.owed: Counter[str] = Counter()
        self.lanes: Counter[str] = Counter()
        self.readers: list[Reader] = []
        self.gone: list[Reader] = []

    def body(self, publisher: int) -> bytes:
        number = self.numbers[publisher]
        self.numbers[publisher] += 1
        size = self.random.choice(SIZES)
        return HEAD.pack(publisher, number) + bytes([number % 251]) * (size - HEAD.size)

    def note(self, topic: str, receipt: Any) -> None:
        self.published[topic] += 1
        self.owed[topic] += receipt.matched or 1  # a message for nobody is owed once, and dropped
        self.lanes.update(receipt.lanes)

    # ---- steps ---------------------------------------------------------------------------------

    async def publish(self, buses: list[Any]) -> None:
        """One message after the other, each awaited: on one host these soon go past the node."""
        publisher = self.random.randrange(len(buses))
        topic = self.random.choice(self.topics)
        for _ in range(self.random.choice([1, 3, 20])):
            priority = self.random.choice([0, 0, 0, 0, 5])
            receipt = await buses[publisher].publish(
                topic, self.body(publisher), priority=priority, timeout_s=30
            )
            self.note(topic, receipt)

    async def publish_many(self, buses: list[Any]) -> None:
        """Many at once: more than the windows take, so some go by the node."""
        publisher = self.random.randrange(len(buses))
        topic = self.random.choice(self.topics)
        bodies = [self.body(publisher) for _ in range(self.random.choice([2, 30]))]
        for receipt in await buses[publisher].publish_many(topic, bodies, timeout_s=30):
            self.note(topic, receipt)

    async def subscribe(self, buses: list[Any], *, witness: bool = False) -> None:
        bus = self.random.choice(buses)
        pattern = self.pattern if witness else self.random.choice([*self.topics, self.pattern])
        group = "" if witness else self.random.choice(["", "", "", "g"])
        overflow = "block" if witness else self.random.choice(["block", "block", "drop", "latest"])
        window = None if witness else self.random.choice([None, 1, 4, 64])
        messages = bus.subscribe(pattern, group=group, overflow=overflow, window_messages=window)
        await messages.__aenter__()
        reader = Reader(messages, overflow, ordered=not group)
        reader.awake.set()
        reader.task = asyncio.create_task(reader.read())
        self.readers.append(reader)

    async def unsubscribe(self) -> None:
        if len(self.readers) > 1:  # the first is the witness
            reader = self.readers.pop(self.random.randrange(1, len(self.readers)))
            await self.end(reader)
            self.gone.append(reader)

    async def end(self, reader: Reader) -> None:
        assert reader.task is not None
        if reader.task.done():
            reader.task.result()
        reader.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reader.task
        await reader.messages.__aexit__(None, None, None)

    def rest(self) -> None:
        """A reader takes nothing for a while: what comes for it waits, or is dropped."""
        if len(self.readers) > 1:
            reader = self.random.choice(self.readers[1:])
            reader.awake.clear()
            asyncio.get_running_loop().call_later(0.03, reader.awake.set)

    async def ask(self, buses: list[Any]) -> None:
        """The books balance in between, too."""
        ledger = await self.random.choice(buses).ledger(self.pattern)
        assert ledger.balanced
        for row in ledger.rows:
            assert row.published <= self.published[row.topic] + 1
            assert row.pending <= row.owed


@pytest.mark.parametrize("seed", SEEDS)
async def test_after_any_mix_of_traffic_the_books_balance_and_who_listened_has_all(
    world: Any, topic: str, seed: int, accounted: Any
) -> None:
    print(f"SIRA_SEED={seed}")
    walk = Walk(seed, topic)
    async with contextlib.AsyncExitStack() as stack:
        buses = [await stack.enter_async_context(world.bus()) for _ in range(3)]
        await walk.subscribe(buses, witness=True)
        steps = {
            walk.publish: 12, walk.publish_many: 4, walk.subscribe: 2, walk.ask: 2,
            walk.unsubscribe: 2, walk.rest: 2, asyncio.sleep: 4,
        }  # fmt: skip
        for step in walk.random.choices(list(steps), list(steps.values()), k=STEPS):
            if step is asyncio.sleep:
                await asyncio.sleep(walk.random.choice([0, 0, 0.002]))
            elif step == walk.rest:
                walk.rest()
            elif step == walk.unsubscribe:
                await walk.unsubscribe()
            else:
                await step(buses)  # type: ignore[operator]
        rows = {}
        for name in walk.topics:
            if walk.published[name]:
                rows[name] = await accounted(buses[0], name)
        await check(walk, rows)
        for reader in walk.readers:
            await walk.end(reader)


async def check(walk: Walk, rows: dict[str, sira.LedgerRow]) -> None:
    witness = walk.readers[0]
    assert len(witness.seen) == sum(walk.numbers.values()), "the witness has heard all of it"
    for name, row in rows.items():
        assert (row.published, row.owed) == (walk.published[name], walk.owed[name])
        taken_now = sum(reader.taken[name] for reader in walk.readers)
        taken = taken_now + sum(reader.taken[name] for reader in walk.gone)
        # What a subscription took last before it ended may not have been confirmed any more.
        assert taken_now <= row.delivered <= taken
        assert row.owed == row.delivered + row.superseded + sum(row.dropped.values())
        assert set(row.dropped) <= {"QUEUE_FULL", "UNSUBSCRIBED", "PEER_LOST"}
