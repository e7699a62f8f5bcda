"""How the way past the node ends: clients that close or are killed, a node that is killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import sira
import sira.testing

from .raw import run, until
from .test_past_node import BODY, past_node, past_total, settled

pytestmark = pytest.mark.integration


_PUBLISHER = """
import sira, sys
bus = sira.connect_sync(sys.argv[1])
count = past = 0
while True:
    lanes = bus.publish("direct.killed", count.to_bytes(4, "little")).lanes
    count += 1
    past = past + 1 if lanes == ["shm"] else 0
    print(count, past, flush=True)
    if past == 200:
        sys.stdin.readline()
"""

_SUBSCRIBER = """
import sira, sys
bus = sira.connect_sync(sys.argv[1])
with bus.subscribe("direct.dies") as messages:
    print("open", flush=True)
    for message in messages:
        pass
"""


@contextlib.contextmanager
def script(text: str, node: sira.testing.Node) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", text, node.socket_url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_what_a_killed_publisher_had_posted_is_delivered(node: sira.testing.Node) -> None:
    async def work() -> None:
        async with (
            sira.connect(node.socket_url) as bus,
            bus.subscribe("direct.killed") as messages,
        ):
            taken = 0
            with script(_PUBLISHER, node) as process:
                assert process.stdout is not None
                told = past = 0
                while past < 200:
                    line = await asyncio.to_thread(process.stdout.readline)
                    told, past = map(int, line.split())
                    while taken < told and past < 50:  # what is posted then waits
                        await messages.next(timeout_s=60)
                        taken += 1
                process.send_signal(signal.SIGKILL)
            assert told - taken >= 150
            for number in range(taken, told):
                message = await messages.next(timeout_s=60)
                assert int.from_bytes(message.bytes, "little") == number
            row = await settled(bus, "direct.killed")
            assert row.delivered >= told and row.owed == row.delivered

    run(work)


def test_a_publisher_goes_on_when_its_reader_is_killed(node: sira.testing.Node) -> None:
    async def work() -> None:
        async with sira.connect(node.socket_url) as bus:
            with script(_SUBSCRIBER, node) as process:
                assert process.stdout is not None
                assert await asyncio.to_thread(process.stdout.readline) == "open\n"
                await past_node(bus, "direct.dies")
                process.send_signal(signal.SIGKILL)

                while (await bus.publish("direct.dies", BODY)).matched:
                    pass
            row = await settled(bus, "direct.dies")
            assert row.owed == row.delivered + sum(row.dropped.values())

    run(work)


SIZES = (200, 20_000, 1_000_000)


async def flows_on(
    bus: sira.Bus, messages: sira.Subscription, topic: str, numbers: range, size: int
) -> None:
    """Publish and take, one after the other."""
    for number in numbers:
        body = {"x": np.full(size, number % 251, np.uint8)}
        receipt = await bus.publish(topic, body)
        assert receipt.lanes == ["shm"] and receipt.matched == 1
        message = await messages.next(timeout_s=60)
        assert (message["x"] == number % 251).all() and message["x"].size == size


async def flows_past(
    node: sira.testing.Node, bus: sira.Bus, messages: sira.Subscription, topic: str, size: int
) -> None:
    """Publish and take until that goes past the node, by its own account.

    One message is looked at while the next is written, as in `flows_on`: memory for both is there.
    """
    body, kept = {"x": np.zeros(size, np.uint8)}, None
    async with sira.connect(node.url) as asked:
        while await past_total(asked) < 20:
            receipt = await bus.publish(topic, body)
            for _ in range(receipt.matched):
                kept = await messages.next(timeout_s=60)
    del kept


@pytest.mark.parametrize("size", SIZES)
def test_a_flow_goes_on_while_its_node_is_gone_and_both_ends_find_the_next(size: int) -> None:
    async def work() -> None:
        with sira.testing.node() as node:
            async with (
                sira.connect(node.socket_url) as bus,
                sira.connect(node.socket_url) as other,
                other.subscribe("direct.nodeless") as messages,
            ):
                await flows_past(node, bus, messages, "direct.nodeless", size)
                for _ in range(2):
                    await asyncio.to_thread(node.kill)
                    await until(lambda: not bus.connection.is_up and not other.connection.is_up)
                    await flows_on(bus, messages, "direct.nodeless", range(100), size)
                    with pytest.raises(sira.SiraError):  # what needs a node
                        await bus.publish("direct.other", b"", timeout_s=0.1)
                    await flows_on(bus, messages, "direct.nodeless", range(100), size)
                    await asyncio.to_thread(node.start)
                    await flows_past(node, bus, messages, "direct.nodeless", size)
                    await flows_on(bus, messages, "direct.nodeless", range(20), size)
                row = await settled(bus, "direct.nodeless")
                unheard = row.dropped.get("NO_MATCH", 0)  # the publisher was back first
                assert row.owed == row.delivered + unheard and set(row.dropped) <= {"NO_MATCH"}

    run(work)


@pytest.mark.parametrize("size", SIZES)
def test_a_flow_goes_on_while_its_node_stands_still(size: int) -> None:
    async def work() -> None:
        with sira.testing.node() as node:
            async with (
                sira.connect(node.socket_url) as bus,
                sira.connect(node.socket_url) as other,
                other.subscribe("direct.still") as messages,
            ):
                await flows_past(node, bus, messages, "direct.still", size)
                os.kill(node.pid, signal.SIGSTOP)
                try:
                    await flows_on(bus, messages, "direct.still", range(200), size)
                finally:
                    os.kill(node.pid, signal.SIGCONT)
                assert (await bus.publish("direct.other", b"")).matched == 0
                await flows_on(bus, messages, "direct.still", range(100), size)
                row = await settled(bus, "direct.still")
                assert row.owed == row.delivered and row.published >= 300 and not row.dropped

    run(work)


def test_a_client_leaves_nothing_behind(
    node: sira.testing.Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sira.client.local.direct._OVER_S", 0.1)

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async def work() -> None:
        async with sira.connect(node.socket_url) as other, other.subscribe("direct.left") as ends:
            before = descriptors()
            for _ in range(5):
                async with (
                    sira.connect(node.socket_url) as bus,
                    bus.subscribe("direct.back") as back,
                ):
                    await past_node(bus, "direct.left")
                    await past_node(other, "direct.back")
                    while back.depth:
                        await back.next()
                while ends.depth:
                    await ends.next()
            # `other` has bells from its first link on, and perhaps the last link; each has three.
            await until(lambda: descriptors() < before + 12)

    run(work)


def test_the_environment_can_say_that_nothing_passes_the_node_by(
    node: sira.testing.Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with (
            sira.connect(node.socket_url) as other,
            other.subscribe("direct.off") as messages,
        ):
            monkeypatch.setenv("SIRA_DIRECT", "off")
            async with sira.connect(node.socket_url) as bus:
                for _ in range(50):
                    assert (await bus.publish("direct.off", BODY)).lanes == ["socket"]
                    await messages.next(timeout_s=60)
            monkeypatch.setenv("SIRA_DIRECT", "perhaps")
            with pytest.raises(sira.BadRequest, match="neither on nor off"):
                async with sira.connect(node.socket_url):
                    pass

    run(work)
