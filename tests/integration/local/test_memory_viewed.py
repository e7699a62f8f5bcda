"""`Kernel.Memory` of what is past the node: a loan, what waits in a link, what a reader keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

import sira
import sira.testing
from sira.v1 import kernel_pb2
from tests.integration.command import sira as command

from .raw import run
from .test_past_node_ends import script

pytestmark = pytest.mark.integration
SIZE = 1 << 20


Segment = kernel_pb2.MemorySegment


async def when(
    bus: sira.Bus, topic: str, condition: Callable[[kernel_pb2.MemoryResponse], bool]
) -> kernel_pb2.MemoryResponse:
    """Ask until the answer is as wanted; the test's watchdog ends it."""
    while True:
        if condition(found := await bus.memory(topic)):
            return found
        await asyncio.sleep(0.01)


async def segment_of(
    bus: sira.Bus, topic: str, condition: Callable[[Segment], bool] = lambda _: True
) -> Segment:
    """Wait for the one segment of a topic to be as wanted."""
    found = await when(bus, topic, lambda f: len(f.segments) == 1 and condition(f.segments[0]))
    return found.segments[0]


def by_link(segment: Segment) -> kernel_pb2.MemoryHolder:
    """Return who has the segment by a link."""
    (found,) = [each for each in segment.holders if each.link]
    return found


async def went_past(bus: sira.Bus, topic: str) -> bool:
    """Whether a message on the topic is or was in a link that is there now."""
    links = (await bus.memory(topic)).links
    return any(cell.delivered or cell.pending for link in links for cell in link.cells)


async def past_the_node(bus: sira.Bus, topic: str, messages: sira.Subscription) -> None:
    """Publish arrays, each taken and let go, until they go past the node."""
    past = False
    while not past:
        await bus.publish(topic, {"x": np.zeros(SIZE, np.uint8)})
        past = await went_past(bus, topic)
        await messages.next(timeout_s=60)


def test_a_loan_that_is_being_written_is_told_with_its_owner(node: sira.testing.Node) -> None:
    async def work() -> None:
        async with sira.connect(node.socket_url) as bus:
            await bus.publish("viewed.loan", b"")  # its streams are there
            async with bus.loan("viewed.loan", {"x": f"u8[{SIZE}]"}):
                segment = await segment_of(bus, "viewed.loan")
                assert (segment.state, segment.leases, list(segment.holders)) == ("open", 0, [])
                assert segment.owner.client in {e.id for e in (await bus.stats()).clients}
                assert segment.bytes >= SIZE and segment.age_ns > 0

    run(work)


def by_links(found: kernel_pb2.MemoryResponse) -> tuple[int, int]:
    """Return how many pieces readers of links have, and how many wait for them."""
    holders = [each for s in found.segments for each in s.holders if each.link]
    return sum(each.leases for each in holders), sum(each.waiting for each in holders)


def test_what_waits_in_a_link_and_what_its_reader_keeps_is_told(node: sira.testing.Node) -> None:
    topic = "viewed.link"

    async def work() -> None:
        async with (
            sira.connect(node.socket_url) as bus,
            sira.connect(node.socket_url) as other,
            other.subscribe(topic) as messages,
        ):
            await past_the_node(bus, topic, messages)
            nothing = await when(bus, topic, lambda f: by_links(f) == (0, 0))
            assert not any(h.held_ns or h.bytes for s in nothing.segments for h in s.holders)
            for _ in range(3):
                assert (await bus.publish(topic, {"x": np.ones(SIZE, np.uint8)})).lanes == ["shm"]
            three = await when(bus, topic, lambda f: by_links(f) == (0, 3))
            assert sum(s.leases for s in three.segments) == 3
            kept = (await messages.next(timeout_s=60))["x"]
            found = await when(bus, topic, lambda f: by_links(f) == (1, 2))
            assert sum(s.leases for s in found.segments) == 3
            ((owner, holder, age_ns),) = [
                (s.owner, h, s.age_ns) for s in found.segments for h in s.holders if h.leases
            ]
            assert holder.bytes >= SIZE and holder.reads and 0 < holder.held_ns <= age_ns
            (link,) = found.links
            assert (owner, holder.party) == (link.writer, link.reader)
            assert owner.client != holder.party.client
            later = await bus.memory(topic)
            assert holder.held_ns < max(h.held_ns for s in later.segments for h in s.holders)
            assert kept.all()
            del kept
            await when(bus, topic, lambda f: by_links(f) == (0, 2))

    run(work)


_PUBLISHER = """
import sira, sys
import numpy as np
bus = sira.connect_sync(sys.argv[1])
while True:
    print(*bus.publish("viewed.dead", {"x": np.full(1 << 20, 7, np.uint8)}).lanes, flush=True)
    sys.stdin.readline()
"""


def test_what_is_viewed_of_a_dead_publisher_is_told_until_it_is_let_go(
    node: sira.testing.Node,
) -> None:
    topic = "viewed.dead"

    async def work() -> None:
        async with (
            sira.connect(node.socket_url) as bus,
            bus.subscribe(topic) as messages,
        ):
            with script(_PUBLISHER, node) as process:
                assert process.stdout is not None and process.stdin is not None
                while True:
                    await asyncio.to_thread(process.stdout.readline)
                    if await went_past(bus, topic):
                        break
                    await messages.next(timeout_s=60)
                    process.stdin.write("\n")
                    process.stdin.flush()
                kept = (await messages.next(timeout_s=60))["x"]
                await segment_of(bus, topic, lambda s: by_link(s).leases == 1)
                process.kill()
            ended = await segment_of(bus, topic, lambda s: s.state == "ended")
            holder = by_link(ended)
            assert (ended.owner.gone, ended.leases, holder.leases) == (True, 1, 1)
            assert (holder.reads, holder.bytes >= SIZE) == (False, True)
            shown = await asyncio.to_thread(command, "mem", topic, url=node.socket_url)
            assert "(gone)" in shown.out and "by link" in shown.out
            found = await when(bus, topic, lambda f: not f.links)  # forgotten; not so the view
            assert by_link(found.segments[0]).leases == 1
            assert kept.min() == kept.max() == 7
            del kept
            await when(bus, topic, lambda f: not f.segments)

    run(work)


def test_what_outlives_its_subscription_is_told_until_it_is_let_go(node: sira.testing.Node) -> None:
    topic = "viewed.closed"

    async def work() -> None:
        async with (
            sira.connect(node.socket_url) as bus,
            sira.connect(node.socket_url) as other,
        ):
            async with other.subscribe(topic) as messages:
                await past_the_node(bus, topic, messages)
                assert (await bus.publish(topic, {"x": np.ones(SIZE, np.uint8)})).lanes == ["shm"]
                kept = (await messages.next(timeout_s=60))["x"]
            segment = await segment_of(bus, topic, lambda s: by_link(s).leases == 1)
            assert by_link(segment).party.client != segment.owner.client
            assert kept.all()
            del kept
            await when(
                bus, topic, lambda f: not [h for s in f.segments for h in s.holders if h.leases]
            )

    run(work)
