"""`sira explain`: which way a publisher's messages go, and why; a row for each reason there is."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import sira
from sira.kernel.admission.limits import Limit
from sira.kernel.node import Node
from tests.integration.command import sira as command

from .raw import run, running, until, url_of
from .test_direct_rights import Rules

pytestmark = pytest.mark.integration
TOPIC = "cam.front"
LARGE = {"x": np.zeros(1 << 20, np.uint8)}
PAST = "past the node while all keep up, by link 1"


def on_node(folder: Path, work: Callable[[Node], Awaitable[None]], **flags: object) -> None:
    """Run a test on a node of its own; afterwards it knows of no link, route or segment."""

    async def with_node() -> None:
        async with running(folder, **flags) as node:
            await work(node)
            await until(lambda: not node.direct.links and not node.direct.routes)
            await until(lambda: not node.lent.held.segments)

    run(with_node)


@asynccontextmanager
async def reading(
    node: Node, pattern: str = TOPIC, *, grpc: bool = False, takes: bool = True, **options: object
) -> AsyncIterator[sira.Bus]:
    """Have a client of its own subscribe, and take what comes unless it is slow."""
    url = f"sira://{node.address}" if grpc else url_of(node)
    async with (
        sira.connect(url) as bus,
        bus.subscribe(pattern, **options) as messages,  # type: ignore[arg-type]
    ):

        async def take() -> None:
            async for _ in messages:
                pass

        taking = asyncio.create_task(take() if takes else asyncio.sleep(0))
        yield bus
        taking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await taking


@asynccontextmanager
async def without(switch: str) -> AsyncIterator[None]:
    """Have clients that connect now go without something."""
    with mock.patch.dict(os.environ, {switch: "off"}):
        yield


async def way(
    bus: sira.Bus, words: str, body: object = b"x", topic: str = TOPIC
) -> sira.ExplainPublisher:
    """Publish until the node says these words of this publisher; the test's watchdog ends it."""
    client = bus.connection.client_id
    while True:
        with contextlib.suppress(sira.QueueFull, sira.Timeout):  # of a slow reader, or machine
            await bus.publish(topic, body, timeout_s=0.05)  # type: ignore[arg-type]
        rows = (await bus.explain(topic, client=client)).publishers
        assert {each.client for each in rows} <= {client}
        for row in rows:
            if words in row.why:
                return row
        await asyncio.sleep(0.01)


Stage = Callable[[Node, contextlib.AsyncExitStack], Awaitable[object]]


async def _plain(node: Node, stack: contextlib.AsyncExitStack) -> None:
    await stack.enter_async_context(reading(node))


async def _wildcard(node: Node, stack: contextlib.AsyncExitStack) -> None:
    await stack.enter_async_context(reading(node, "cam.>"))


async def _latest_window(node: Node, stack: contextlib.AsyncExitStack) -> None:
    await stack.enter_async_context(reading(node, overflow="latest"))


async def _group_of_one(node: Node, stack: contextlib.AsyncExitStack) -> None:
    await stack.enter_async_context(reading(node, group="g"))


async def _group(node: Node, stack: contextlib.AsyncExitStack) -> None:
    await stack.enter_async_context(reading(node, group="g"))
    await stack.enter_async_context(reading(node, group="g"))


async def _grpc(node: Node, stack: contextlib.AsyncExitStack) -> None:
    await stack.enter_async_context(reading(node, grpc=True))


async def _switched_off(node: Node, stack: contextlib.AsyncExitStack) -> None:
    async with without("SIRA_DIRECT"):
        await stack.enter_async_context(reading(node))


async def _slow(node: Node, stack: contextlib.AsyncExitStack) -> None:
    await stack.enter_async_context(reading(node, takes=False, window_messages=2))


async def _kept(node: Node, stack: contextlib.AsyncExitStack) -> None:
    bus = await stack.enter_async_context(reading(node))
    await bus.topics.create(TOPIC, kind="latest")


async def _contract(node: Node, stack: contextlib.AsyncExitStack) -> None:
    bus = await stack.enter_async_context(reading(node))
    await bus.topics.create(TOPIC, contract={"x": "u8[N]"})


async def _owned(node: Node, stack: contextlib.AsyncExitStack) -> None:
    bus = await stack.enter_async_context(reading(node))
    await bus.topics.create(TOPIC, owned=True)


async def _limited(node: Node, stack: contextlib.AsyncExitStack) -> None:
    await stack.enter_async_context(reading(node))
    node.bus.set_limits((Limit("many", "topic", "cam.>", messages_per_s=1e6),))


async def _tapped(node: Node, stack: contextlib.AsyncExitStack) -> None:
    await stack.enter_async_context(reading(node))
    await stack.enter_async_context(reading(node, "audit.cam", overflow="block"))
    node.access.change(policy=Rules(obliged=(("tap", "audit.cam"),)))


async def _obliged(node: Node, stack: contextlib.AsyncExitStack) -> None:
    await stack.enter_async_context(reading(node))
    node.access.change(policy=Rules(obliged=(("path", "node"),)))


async def _many(node: Node, stack: contextlib.AsyncExitStack) -> None:
    bus = await stack.enter_async_context(reading(node))
    for _ in range(16):
        await stack.enter_async_context(bus.subscribe(TOPIC, overflow="drop"))


async def _nobody(node: Node, stack: contextlib.AsyncExitStack) -> None:
    del node, stack


@pytest.mark.parametrize(
    ("stage", "path", "words"),
    [
        (_plain, "direct", PAST),
        (_wildcard, "direct", PAST),
        (_latest_window, "direct", PAST),
        (_group_of_one, "direct", PAST),
        (_group, "node", "a queue group shares the work"),
        (_grpc, "node", "takes no links: it came by gRPC"),
        (_switched_off, "node", "SIRA_DIRECT=off there"),
        (_slow, "node", "a subscriber has not got all that was sent before"),
        (_kept, "node", "keeps the last message"),
        (_contract, "node", "compares each message with the topic's contract"),
        (_owned, "node", "goes with its owner"),
        (_limited, "node", "a limit counts these messages"),
        (_tapped, "node", "a rule asks for the node"),
        (_obliged, "node", "a rule asks for the node"),
        (_many, "node", "17 listen, and at most 16 are reached past the node"),
        (_nobody, "node", "nobody listens"),
    ],
)
def test_the_node_says_which_way_a_publishers_messages_go_and_why(
    tmp_path: Path, stage: Stage, path: str, words: str
) -> None:
    async def work(node: Node) -> None:
        async with contextlib.AsyncExitStack() as stack:
            await stage(node, stack)
            bus = await stack.enter_async_context(sira.connect(url_of(node)))
            row = await way(bus, words, {"x": np.zeros(8, np.uint8)})
            assert (row.path, row.lane) == (path, "socket")
            found = await bus.explain(TOPIC)
            assert row.client in {each.client for each in found.publishers}

    on_node(tmp_path, work)


@pytest.mark.parametrize(
    ("switch", "grpc", "words"),
    [
        (
            "SIRA_DIRECT",
            False,
            "its connection takes no links: SIRA_DIRECT=off or SIRA_SHM=off there",
        ),
        ("SIRA_SHM", False, "its connection takes no links"),
        ("", True, "it came by gRPC, as from another host or by TLS"),
        ("", False, "it has not asked to pass the node"),
    ],
)
def test_who_never_asks_is_told_why_when_asked_about(
    tmp_path: Path, switch: str, grpc: bool, words: str
) -> None:
    async def work(node: Node) -> None:
        url = f"sira://{node.address}" if grpc else url_of(node)
        async with reading(node), without(switch or "SIRA_UNUSED"), sira.connect(url) as bus:
            await bus.publish(TOPIC, b"x")
            client = bus.connection.client_id
            (row,) = (await bus.explain(TOPIC, client=client[:12])).publishers
            assert (row.client, row.path, row.lane) == (
                client, "node", "grpc" if grpc else "socket",
            )  # fmt: skip
            assert words in row.why
            assert not (await bus.explain(TOPIC)).publishers, "it was not asked about"
            assert not (await bus.explain(TOPIC, client="0" * 32)).publishers

    on_node(tmp_path, work)


def test_a_publisher_that_may_lend_no_more_is_told_by_which_limit(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        async with reading(node), sira.connect(url_of(node)) as bus:
            row = await way(bus, "lent_bytes_max = 1048576", LARGE)
            assert "no memory more is taken" in row.why

    on_node(tmp_path, work, lent_bytes_max=1 << 20)


def test_what_changed_since_is_told_until_the_next_message(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        async with reading(node), sira.connect(url_of(node)) as bus:
            await way(bus, PAST)
            async with reading(node, "cam.*"):
                (row,) = (await bus.explain(TOPIC)).publishers
                assert (row.path, "has changed" in row.why) == ("node", True)
                assert (await way(bus, "past the node while all keep up")).path == "direct"

    on_node(tmp_path, work)


@pytest.mark.parametrize(
    ("switch", "grpc", "lane", "words"),
    [
        ("", True, "grpc", "by gRPC, as from another host or by TLS: it shares no memory"),
        ("SIRA_SHM", False, "socket", "it maps no memory of others (SIRA_SHM=off there"),
        ("SIRA_DIRECT", False, "shm", "nothing comes past the node: the subscriber's connection"),
        ("", False, "shm", "large tensors of those go by reference"),
    ],
)
def test_the_lane_of_each_subscription_has_its_reason(
    tmp_path: Path, switch: str, grpc: bool, lane: str, words: str
) -> None:
    async def work(node: Node) -> None:
        async with without(switch or "SIRA_UNUSED"), reading(node, grpc=grpc) as bus:
            (match,) = (await bus.explain(TOPIC)).matches
            assert match.lane == lane and words in match.lane_reason

    on_node(tmp_path, work)


def test_the_command_shows_publishers_and_takes_one(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        async with reading(node), sira.connect(url_of(node)) as bus:
            await way(bus, PAST)
            client = bus.connection.client_id
            words = ("explain", TOPIC, "--client", client[:8])
            ended = await asyncio.to_thread(command, *words, "--json", url=url_of(node))
            (row,) = ended.data["publishers"]
            assert (row["client"], row["path"], row["why"]) == (client, "direct", PAST)
            shown = await asyncio.to_thread(command, *words, url=url_of(node))
            assert "direct" in shown.out and "publisher" in shown.out

    on_node(tmp_path, work)
