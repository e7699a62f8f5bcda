"""What a limit has no room for waits by itself, in order, whoever published it and however."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import sira
import sira.testing
from sira.kernel.admission.limits import Limit
from sira.kernel.errors import RateLimited

RATE = 200.0  # messages/s of one principal; so many may come at once, too
SLOW = Limit("slow", "topic", "lab.slow", messages_per_s=0.01, burst_s=100)


class Limited:
    """A node with limits: on principals by its settings, or those that `set` puts in force."""

    def __init__(self, kind: str, folder: Path | None = None, **settings: object) -> None:
        self._node: sira.testing.Node | None = None
        self._local: sira.testing.LocalNode | None = None
        self._file = folder and folder / "limits.toml"
        if kind == "local":
            self._local = sira.testing.LocalNode(**settings)
            return
        if self._file:
            self._file.write_text('format = "sira-limits 1"\n')
            settings |= {"limits_file": str(self._file), "reload_s": 0.02}
        self._node = sira.testing.Node(settings=settings)

    def set(self, *limits: Limit) -> None:
        """Put other limits in force, soon."""
        if self._local is not None:
            self._local.kernel.set_limits(limits)
            return
        assert self._file is not None
        text = 'format = "sira-limits 1"\n'
        for each in limits:
            text += f'[[limit]]\nname = "{each.name}"\nscope = "{each.scope}"\n'
            text += f'pattern = "{each.pattern}"\nmessages_per_s = {each.messages_per_s}\n'
            text += f"burst_s = {each.burst_s}\n"
        self._file.write_text(text)

    def __enter__(self) -> Limited:
        if self._node is not None:
            self._node.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self._node is not None:
            self._node.__exit__(*error)  # type: ignore[arg-type]

    def bus(self, **settings: object) -> sira.Bus:
        if self._node is not None:
            return sira.connect(self._node.url, **settings)  # type: ignore[arg-type]
        return sira.testing.LocalBus(self._local, **settings)  # type: ignore[arg-type]


@pytest.fixture(params=["local", "node"])
def limited(request: pytest.FixtureRequest) -> Iterator[Limited]:
    with Limited(request.param, principal_messages_per_s_max=RATE) as world:
        yield world


@pytest.fixture(params=["local", "node"])
def patient(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Limited]:
    with Limited(request.param, tmp_path, publish_block_s=600) as world:
        yield world


async def texts(messages: sira.Subscription, count: int) -> list[str]:
    return [(await messages.next(timeout_s=60)).text for _ in range(count)]


async def test_a_publisher_goes_at_the_rate_of_its_limit(limited: Limited) -> None:
    count = 2 * int(RATE)
    async with (
        limited.bus() as bus,
        bus.subscribe("lab.a", window_messages=2 * count) as messages,
    ):
        async with bus.publisher("lab.a") as out:
            for n in range(count):
                await out.send(str(n))
        assert (out.accepted, out.refused) == (count, 0)
        assert await texts(messages, count) == [str(n) for n in range(count)]
        assert not (await bus.ledger("lab.a"))["lab.a"].refused


async def test_publish_many_waits_for_all(limited: Limited) -> None:
    count = 2 * int(RATE)
    async with (
        limited.bus() as bus,
        bus.subscribe("lab.a", window_messages=2 * count) as messages,
    ):
        receipts = await bus.publish_many("lab.a", [str(n) for n in range(count)])
        assert [each.matched for each in receipts] == [1] * count
        assert await texts(messages, count) == [str(n) for n in range(count)]


async def test_answers_of_an_agent_wait_and_none_is_lost(limited: Limited) -> None:
    """Requests and answers are of one principal here: each uses up a token."""
    async with (
        limited.bus() as bus,
        limited.bus() as other,
        sira.Agent("echo", topic="lab.ask", handler=lambda x: x, bus=other, max_in_flight=32),
    ):
        answers = await asyncio.gather(
            *[bus.request("lab.ask", str(n), timeout_s=30) for n in range(int(RATE))]
        )
        assert [each.text for each in answers] == [str(n) for n in range(int(RATE))]


async def test_other_topics_of_a_client_go_through_while_one_waits(patient: Limited) -> None:
    async with (
        patient.bus() as bus,
        patient.bus(retry=sira.Retry(limited=False)) as hearer,
        hearer.subscribe("lab.>", window_messages=100) as messages,
        sira.Agent("echo", topic="ask", handler=lambda x: x, bus=hearer),
    ):
        patient.set(SLOW)
        while True:  # until it is in force, and used up
            try:
                await hearer.publish("lab.slow", "first")
            except RateLimited:
                break
            await asyncio.sleep(0.01)
        slow = [asyncio.ensure_future(bus.publish("lab.slow", str(n))) for n in range(3)]
        out = bus.publisher("lab.other")
        for n in range(20):
            await out.send(str(n))
        answers = [(await bus.request("ask", str(n), timeout_s=30)).text for n in range(5)]
        assert answers == [str(n) for n in range(5)]
        others = []
        while len(others) < 20:
            message = await messages.next(timeout_s=60)
            if message.topic == "lab.other":
                others.append(message.text)
            else:
                assert message.text == "first"
        assert others == [str(n) for n in range(20)]
        assert not any(each.done() for each in slow)
        patient.set()  # lifted
        await out.flush(timeout_s=30)
        await asyncio.gather(*slow)
        assert await texts(messages, 3) == ["0", "1", "2"]
        assert (await bus.ledger("lab.>")).balanced


async def test_who_does_not_want_to_wait_is_refused(limited: Limited) -> None:
    async with limited.bus(retry=sira.Retry(limited=False)) as bus:
        with pytest.raises(RateLimited) as caught:
            await bus.publish_many("lab.a", ["x"] * 2 * int(RATE))
        assert 0 < int(caught.value.details["accepted"]) <= 1.5 * RATE
        assert caught.value.retry_after_ms > 0


async def test_a_time_that_is_over_is_told_for_each_and_nobody_got_those(limited: Limited) -> None:
    timeout_s = 2.0  # on a slow machine, too, what has room at once is sent and answered in it
    count = int((timeout_s + 3) * RATE)
    async with limited.bus() as bus, bus.subscribe("lab.a", window_messages=count) as messages:
        out = bus.publisher("lab.a", timeout_s=timeout_s)
        for n in range(count):
            await out.send(str(n))
        with pytest.raises(RateLimited):
            await out.flush()
        assert out.accepted + out.refused == count
        assert out.refused > 0
        assert out.accepted >= int(RATE)
        got = [int(each) for each in await texts(messages, out.accepted)]
        assert got == sorted(set(got)), "in order, and each once"


@pytest.mark.parametrize("seed", range(4))
async def test_order_holds_for_each_topic_and_priority_of_each_client(
    limited: Limited, seed: int
) -> None:
    """Publishers, batches and single publishes at once; the seed is in the name."""
    rng = random.Random(seed)
    topics = ["lab.a", "lab.b", "lab.c"]
    sent: dict[tuple[str, int, str], int] = defaultdict(int)

    async def speak(bus: sira.Bus, topic: str, priority: int, name: str) -> None:
        def next_text() -> str:
            sent[topic, priority, name] += 1
            return f"{name} {sent[topic, priority, name] - 1}"

        for _ in range(rng.randint(2, 4)):
            way = rng.choice(["publisher", "many", "one"])
            if way == "publisher":
                async with bus.publisher(topic, priority=priority) as out:
                    for _ in range(rng.randint(1, 40)):
                        await out.send(next_text())
            elif way == "many":
                bodies = [next_text() for _ in range(rng.randint(1, 40))]
                await bus.publish_many(topic, bodies, priority=priority)
            else:
                await bus.publish(topic, next_text(), priority=priority, timeout_s=30)
            await asyncio.sleep(0)

    async with (
        limited.bus() as hearer,
        limited.bus() as one,
        limited.bus() as other,
        hearer.subscribe("lab.>", window_messages=4_096) as messages,
    ):
        await asyncio.gather(
            *[
                speak(bus, topic, priority, name)
                for name, bus in (("one", one), ("other", other))
                for topic, priority in zip(topics, rng.sample(range(8), 3), strict=True)
            ]
        )
        seen: dict[tuple[str, int, str], list[int]] = defaultdict(list)
        for _ in range(sum(sent.values())):
            message = await messages.next(timeout_s=60)
            name, number = message.text.split()
            seen[message.topic, message.priority, name].append(int(number))
        assert seen == {key: list(range(count)) for key, count in sent.items()}
