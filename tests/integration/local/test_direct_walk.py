"""Publishers whose messages go now past the node and now by it: order holds and nothing is lost."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

import sira
import sira.testing

from .raw import run

pytestmark = pytest.mark.integration
DIRECT_MIN = 500  # small messages past the node, before a walk ends
MESSAGES_MIN = 2000
SIZES = [(0.93, 100), (0.97, 3000), (0.995, 200_000), (1.0, 5_000_000)]  # probability, bytes
Numbers = dict[tuple[str, int], list[int]]  # by topic and priority


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIRA_DIRECT", "on")
    monkeypatch.setenv("SIRA_SHM", "on")


def body(dice: random.Random) -> dict[str, Any]:
    drawn = dice.random()
    size = next(size for limit, size in SIZES if drawn < limit)
    return {"x": np.zeros(size, np.uint8)}


class Ways:
    """How many messages were published, and how many small ones past the node."""

    def __init__(self) -> None:
        self.count = self.direct = 0

    def note(self, receipt: sira.Receipt) -> None:
        self.count += 1
        self.direct += receipt.lanes == ["shm"] and receipt.bytes < 64 << 10

    @property
    def enough(self) -> bool:
        return self.direct >= DIRECT_MIN and self.count >= MESSAGES_MIN


@pytest.mark.parametrize("seed", range(3))
def test_order_holds_while_subscriptions_come_and_go_and_some_are_slow(
    node: sira.testing.Node, seed: int
) -> None:
    async def work() -> None:
        dice = random.Random(seed)
        sent: Numbers = defaultdict(list)
        ways = Ways()
        root = f"walk{seed}"
        window = dice.choice([16, 64, 2048])

        async def read(messages: sira.Subscription, got: Numbers) -> None:
            async for message in messages:
                got[message.topic, message.priority].append(int(message.headers["n"]))
                if dice.random() < 0.02:
                    await asyncio.sleep(dice.random() * 0.01)

        async def come_and_go() -> None:
            while True:
                await asyncio.sleep(dice.random() * 0.2)
                async with other.subscribe(f"{root}.*"):
                    await asyncio.sleep(dice.random() * 0.1)

        async with (
            sira.connect(node.socket_url) as bus,
            sira.connect(node.socket_url) as other,
            other.subscribe(f"{root}.>", window_messages=window) as all_of_it,
            other.subscribe(f"{root}.a") as one_topic,
        ):
            got_all: Numbers = defaultdict(list)
            got_one: Numbers = defaultdict(list)
            tasks = [
                asyncio.create_task(read(all_of_it, got_all)),
                asyncio.create_task(read(one_topic, got_one)),
                asyncio.create_task(come_and_go()),
            ]
            while not ways.enough:
                topic, priority = f"{root}.{dice.choice('aab')}", dice.choice([0, 0, 0, 5])
                numbers = sent[topic, priority]
                numbers.append(len(numbers))
                receipt = await bus.publish(
                    topic, body(dice), priority=priority, headers={"n": str(numbers[-1])}
                )
                ways.note(receipt)
                if dice.random() < 0.01:
                    await asyncio.sleep(0.02)
            of_one = {key: numbers for key, numbers in sent.items() if key[0] == f"{root}.a"}
            while (got_all, got_one) != (sent, of_one):
                for got, wanted in ((got_all, sent), (got_one, of_one)):
                    for key, numbers in got.items():
                        assert numbers == wanted[key][: len(numbers)]
                await asyncio.sleep(0.01)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    run(work)


def test_threads_that_publish_and_read_without_a_loop_keep_order(node: sira.testing.Node) -> None:
    errors: list[BaseException] = []
    got: dict[str, Numbers] = {name: defaultdict(list) for name in ("left", "right")}
    sent: dict[str, Numbers] = {}

    def publish(bus: sira.SyncBus, name: str) -> None:
        dice, ways = random.Random(name), Ways()
        mine = sent[name] = defaultdict(list)
        while not ways.enough:
            priority = dice.choice([0, 3])
            numbers = mine[f"threads.{name}", priority]
            numbers.append(len(numbers))
            headers = {"n": str(numbers[-1])}
            receipt = bus.publish(f"threads.{name}", body(dice), priority=priority, headers=headers)
            ways.note(receipt)
        bus.publish(f"threads.{name}", b"", headers={"last": str(ways.count)})

    def read(messages: sira.SyncSubscription, mine: Numbers) -> None:
        left, count = None, 0
        while left is None or count < left:
            message = messages.next(timeout_s=60)
            if last := message.headers.get("last"):
                left = int(last)
                continue
            count += 1
            mine[message.topic, message.priority].append(int(message.headers["n"]))

    def guarded(work: Any, *arguments: Any) -> None:
        try:
            work(*arguments)
        except BaseException as error:
            errors.append(error)

    with (
        sira.connect_sync(node.socket_url) as bus,
        sira.connect_sync(node.socket_url) as other,
        other.subscribe("threads.left") as lefts,
        other.subscribe("threads.right") as rights,
    ):
        threads = [
            threading.Thread(target=guarded, args=arguments, daemon=True)
            for arguments in (
                (read, lefts, got["left"]),
                (read, rights, got["right"]),
                (publish, bus, "left"),
                (publish, bus, "right"),
            )
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert not errors, errors
        assert not any(thread.is_alive() for thread in threads)
    assert got == sent
