"""The books balance and every reader is right, whatever mix of traffic there was: small and large,
awaited, at once, in a stream or from a thread; subscriptions and connections that come and go,
rest, drop or keep the newest. Seeded walks.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import struct
from collections import Counter
from collections.abc import Callable
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

    bus: Any
    messages: Any
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

    async def stop(self) -> None:
        """Take nothing more. Raises what was wrong with what came."""
        assert self.task is not None
        if not self.task.done():
            self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

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

    def __init__(self, seed: int, topic: str, make_bus: Callable[[], Any]) -> None:
        self.random = random.Random(seed)
        self.make_bus = make_bus
        self.topics = [f"{topic}.{name}" for name in ("a", "b", "c")]
        self.streamed = f"{topic}.streamed"  # what nobody has receipts of
        self.pattern = f"{topic}.>"
        self.buses: list[Any] = []  # the first stays
        self.sync: Any = None
        self.publishers: dict[Any, int] = {}  # connections; the sync one is 0
        self.numbers: Counter[int] = Counter()
        self.published: Counter[str] = Counter()
        self.owed: Counter[str] = Counter()
        self.readers: list[Reader] = []
        self.gone: list[Reader] = []

    async def connect(self) -> None:
        bus = self.make_bus()
        await bus.__aenter__()
        self.buses.append(bus)
        self.publishers[bus] = len(self.publishers) + 1

    def body(self, publisher: int) -> bytes:
        number = self.numbers[publisher]
        self.numbers[publisher] += 1
        size = self.random.choice(SIZES)
        return HEAD.pack(publisher, number) + bytes([number % 251]) * (size - HEAD.size)

    def note(self, topic: str, receipt: Any) -> None:
        self.published[topic] += 1
        self.owed[topic] += receipt.matched or 1  # a message for nobody is owed once, and dropped

    def publisher(self) -> tuple[Any, int]:
        bus = self.random.choice(self.buses)
        return bus, self.publishers[bus]

    # ---- steps ---------------------------------------------------------------------------------

    async def publish(self) -> None:
        """One message after the other, each awaited: on one host these soon go past the node."""
        bus, number = self.publisher()
        topic = self.random.choice(self.topics)
        for _ in range(self.random.choice([1, 3, 20])):
            priority = self.random.choice([0, 0, 0, 0, 5])
            body = self.body(number)
            self.note(topic, await bus.publish(topic, body, priority=priority, timeout_s=30))

    async def publish_many(self) -> None:
        """Many at once: more than the windows take, so some go by the node."""
        bus, number = self.publisher()
        topic = self.random.choice(self.topics)
        bodies = [self.body(number) for _ in range(self.random.choice([2, 30]))]
        for receipt in await bus.publish_many(topic, bodies, timeout_s=30):
            self.note(topic, receipt)

    async def stream(self) -> None:
        bus, number = self.publisher()
        async with bus.publisher(self.streamed, timeout_s=30) as publisher:
            for _ in range(self.random.choice([1, 40])):
                await publisher.send(self.body(number))
                self.published[self.streamed] += 1

    async def publish_in_a_thread(self) -> None:
        if self.sync is None:
            return
        topic = self.random.choice(self.topics)
        bodies = [self.body(0) for _ in range(self.random.choice([1, 20]))]

        def work() -> list[Any]:
            return [self.sync.publish(topic, body, timeout_s=30) for body in bodies]

        for receipt in await asyncio.to_thread(work):
            self.note(topic, receipt)

    async def replace(self) -> None:
        """A connection goes with all that listens on it, and another one comes."""
        bus = self.buses.pop(self.random.randrange(1, len(self.buses)))
        for reader in [each for each in self.readers if each.bus is bus]:
            self.readers.remove(reader)
            self.gone.append(reader)
            await reader.stop()
        await bus.close()
        await self.connect()

    async def subscribe(self, *, witness: bool = False) -> None:
        bus = self.buses[0] if witness else self.random.choice(self.buses)
        pattern = self.pattern if witness else self.random.choice([*self.topics, self.pattern])
        group = "" if witness else self.random.choice(["", "", "", "g"])
        overflow = "block" if witness else self.random.choice(["block", "block", "drop", "latest"])
        window = None if witness else self.random.choice([None, 1, 4, 64])
        messages = bus.subscribe(pattern, group=group, overflow=overflow, window_messages=window)
        await messages.__aenter__()
        reader = Reader(bus, messages, ordered=not group)
        reader.awake.set()
        reader.task = asyncio.create_task(reader.read())
        self.readers.append(reader)

    async def unsubscribe(self) -> None:
        if len(self.readers) > 1:  # the first is the witness
            reader = self.readers.pop(self.random.randrange(1, len(self.readers)))
            self.gone.append(reader)
            await reader.stop()
            await reader.messages.__aexit__(None, None, None)

    async def rest(self) -> None:
        """A reader takes nothing for a while: what comes for it waits, or is dropped."""
        if len(self.readers) > 1:
            reader = self.random.choice(self.readers[1:])
            reader.awake.clear()
            asyncio.get_running_loop().call_later(0.03, reader.awake.set)

    async def ask(self) -> None:
        """The books balance in between, too."""
        ledger = await self.random.choice(self.buses).ledger(self.pattern)
        assert ledger.balanced
        for row in ledger.rows:
            assert row.published <= self.published[row.topic]
            assert row.pending <= row.owed

    async def wait(self) -> None:
        await asyncio.sleep(self.random.choice([0, 0, 0.002]))

    async def close(self) -> None:
        for reader in self.readers:
            await reader.stop()
        for bus in self.buses:
            await bus.close()
        if self.sync is not None:
            await asyncio.to_thread(self.sync.close)


@pytest.mark.parametrize("seed", SEEDS)
async def test_after_any_mix_of_traffic_the_books_balance_and_who_listened_has_all(
    world: Any, topic: str, seed: int, accounted: Any
) -> None:
    print(f"SIRA_SEED={seed}")
    walk = Walk(seed, topic, lambda: world.bus())
    try:
        if world.kind != "local":
            walk.sync = await asyncio.to_thread(lambda: world.sync())
        for _ in range(3):
            await walk.connect()
        before = await passed_by(walk)
        await walk.subscribe(witness=True)
        steps = {
            walk.publish: 12, walk.publish_many: 4, walk.stream: 4, walk.publish_in_a_thread: 4,
            walk.subscribe: 3, walk.ask: 2, walk.unsubscribe: 2, walk.replace: 1, walk.rest: 2,
            walk.wait: 4,
        }  # fmt: skip
        for step in walk.random.choices(list(steps), list(steps.values()), k=STEPS):
            await step()
        rows = {name: await accounted(walk.buses[0], name) for name in walk.published}
        check(walk, rows)
        assert world.kind != "direct" or await passed_by(walk) > before
    finally:
        await walk.close()


async def passed_by(walk: Walk) -> float:
    """Messages that have gone past the node."""
    return float((await walk.buses[0].stats()).values["messages_direct"])


def check(walk: Walk, rows: dict[str, sira.LedgerRow]) -> None:
    witness = walk.readers[0]
    assert len(witness.seen) == sum(walk.numbers.values()), "the witness has heard all of it"
    for name, row in rows.items():
        assert row.published == walk.published[name]
        assert row.owed == walk.owed[name] or name == walk.streamed
        taken_now = sum(reader.taken[name] for reader in walk.readers)
        taken = taken_now + sum(reader.taken[name] for reader in walk.gone)
        # What a subscription took last before it ended may not have been confirmed any more.
        assert taken_now <= row.delivered <= taken
        assert row.owed == row.delivered + row.superseded + sum(row.dropped.values())
        assert set(row.dropped) <= {"QUEUE_FULL", "UNSUBSCRIBED", "PEER_LOST"}
