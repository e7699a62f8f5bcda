"""Connections that prove nothing are bounded by address; who comes from elsewhere is let in."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import psutil
import pytest

import sira
from sira.kernel.node import Node
from tests.soak import attacks
from tests.soak.sides import OUR_PATH, fresh, ours

from .keys import Keys, principal, until
from .test_resets import connect, lanes, node_of

pytestmark = pytest.mark.integration
STRANGER = "127.0.0.2"
WATCHDOG_S = 60.0


def from_address(node: Node, address: str, timeout_s: float = 10.0) -> socket.socket:
    """Connect from `address`, and say one byte. Raises TimeoutError: not let in."""
    made = socket.create_connection(
        ("127.0.0.1", node.port), timeout=timeout_s, source_address=(address, 0)
    )
    made.sendall(b"P")
    return made


@lanes
def test_an_address_with_too_many_strangers_is_let_in_no_more_and_all_others_are(
    lane: str, tmp_path: Path
) -> None:
    async def work() -> None:
        async with node_of(lane, tmp_path, strangers_per_address_max=20) as (node, keys):
            tenant = "system" if lane == "tls" else "default"
            async with (
                connect(node, lane, keys, tenant) as operator,
                operator.subscribe("sira.address.held") as facts,
            ):
                with ExitStack() as stack:
                    for _ in range(21):
                        stack.enter_context(await asyncio.to_thread(from_address, node, STRANGER))
                    await until(lambda: node.strangers.held == {STRANGER})
                    with pytest.raises(TimeoutError):
                        await asyncio.to_thread(from_address, node, STRANGER, 0.5)
                    async with connect(node, lane, keys) as bus:  # from another address
                        await bus.publish("calm", "let in")
                        values = (await bus.stats()).values
                        assert values["strangers"] == 21
                        assert values["addresses_held"] == values["addresses_held_total"] == 1
                    if lane == "tls":  # what strangers do is told to operators, else to the log
                        async with asyncio.timeout(60):
                            said = json.loads((await facts.next()).text)
                        assert said["address"] == STRANGER
                        assert said["setting"] == "strangers_per_address_max"
                        assert (said["limit"], said["count"]) == (20, 21)
                await until(lambda: not node.strangers.held)
                (await asyncio.to_thread(from_address, node, STRANGER)).close()
                await until(lambda: node.strangers.count == 0)

    asyncio.run(work())


@lanes
def test_who_has_shown_who_he_is_is_no_stranger(lane: str, tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            node_of(lane, tmp_path, strangers_per_address_max=3) as (node, keys),
            AsyncExitStack() as stack,
        ):
            for _ in range(8):
                bus = await stack.enter_async_context(connect(node, lane, keys))
                await bus.publish("calm", "it is me")
            with await asyncio.to_thread(from_address, node, "127.0.0.1"):
                await until(lambda: node.strangers.count == 1)
            await until(lambda: node.strangers.count == 0)
            assert node.strangers.held_count == 0

    asyncio.run(work())


@lanes
def test_beside_ten_thousand_connections_of_one_byte_newcomers_are_served(
    lane: str, tmp_path: Path
) -> None:
    keys = Keys.new(tmp_path) if lane == "tls" else None
    with ours(keys, {}) as node:
        process = psutil.Process(node.pid)
        files = process.num_fds()
        with attacks.under("one_byte_each", node.target):
            for _ in range(5):
                fresh(node.target.address, keys, OUR_PATH, b"")
                assert sum(act() for act in node.acts.values()) == 0
            under_attack = process.num_fds()
        assert files + 256 < under_attack < files + 8_000, "some of them, and not all"
        _wait_until(lambda: process.num_fds() < files + 16)


def test_memory_of_strangers_who_have_left_goes_back_to_the_system(tmp_path: Path) -> None:
    no_limits = {"strangers_per_address_max": 0, "strangers_max": 0}
    keys = Keys.new(tmp_path)
    shown = keys.security(token=keys.token(principal("operator")))
    with (
        ours(keys, no_limits) as node,
        sira.connect_sync("siras://{}:{}".format(*node.target.address), security=shown) as bus,
        ExitStack() as stack,
    ):
        memory = psutil.Process(node.pid).memory_info
        before = memory().rss
        for _ in range(800):
            stack.enter_context(socket.create_connection(node.target.address, timeout=10))
        # A connection is made before the node has taken it: those that it has count.
        _wait_until(lambda: bus.stats().values["strangers"] >= 800)
        assert memory().rss > before + (8 << 20)
        stack.close()
        _wait_until(lambda: memory().rss < before + (8 << 20))


def _wait_until(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + WATCHDOG_S
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.05)
