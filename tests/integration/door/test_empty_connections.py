"""Who opens connection after connection and never asks anything is let in no more for a while."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sira.kernel.node import Node
from tests.soak import attacks, http2
from tests.soak.attacks import Target
from tests.soak.http2 import frame

from .keys import Keys, until
from .test_resets import HEALTH, channel_to, connect, lanes, node_of
from .test_strangers import from_address

pytestmark = pytest.mark.integration
ATTACKER, OTHER = "127.0.0.2", "127.0.0.3"
LIMIT = 2  # a second: far fewer than the slowest machine opens


def target(node: Node, lane: str, keys: Keys, source: str = ATTACKER) -> Target:
    ca = keys.folder / "ca.pem" if lane == "tls" else None
    return Target(("127.0.0.1", node.port), HEALTH, ca, source=source)


class Enough(Exception):
    """The attack is over."""


async def attack_until_held(node: Node, aim: Target) -> None:
    """Open connections that gRPC ends at their empty frames, until none is let in."""
    stop = threading.Event()

    def say() -> None:
        if stop.is_set():
            raise Enough

    task = asyncio.create_task(asyncio.to_thread(attacks.empty_continuations, aim, say))
    try:
        await until(lambda: aim.source in node.strangers.held)
    finally:
        stop.set()
        with contextlib.suppress(Enough):
            await task


@lanes
def test_who_opens_many_connections_without_a_request_is_held_and_told_and_others_are_let_in(
    lane: str, tmp_path: Path
) -> None:
    async def work() -> None:
        async with node_of(
            lane, tmp_path, empty_per_address_s_max=LIMIT, reset_hold_s=3_600
        ) as (node, keys):  # fmt: skip
            tenant = "system" if lane == "tls" else "default"
            aim = target(node, lane, keys)
            async with (
                connect(node, lane, keys) as bus,
                bus.subscribe("calm") as calm,
                connect(node, lane, keys, tenant) as operator,
                operator.subscribe("sira.address.held") as facts,
            ):
                with await asyncio.to_thread(aim.wire) as standing:
                    await attack_until_held(node, aim)
                    assert node.strangers.held == {ATTACKER}
                    with pytest.raises(TimeoutError):
                        await asyncio.to_thread(from_address, node, ATTACKER, 0.5)
                    await asyncio.to_thread(standing.pinged)
                    assert not standing.ended, "what stands, stays"
                (await asyncio.to_thread(from_address, node, OTHER)).close()
                async with connect(node, lane, keys) as newcomer:
                    await newcomer.publish("calm", "let in")
                assert (await calm.next()).text == "let in"
                values = (await bus.stats()).values
                assert values["addresses_held"] == values["addresses_held_total"] == 1
                if lane == "tls":  # what strangers do is told to operators, else to the log
                    async with asyncio.timeout(60):
                        said = json.loads((await facts.next()).text)
                    assert said["address"] == ATTACKER
                    assert said["setting"] == "empty_per_address_s_max"
                    assert said["limit"] == LIMIT
                    assert said["count"] > 2 * LIMIT, "so many at once are allowed"

    asyncio.run(work())


@lanes
def test_after_a_while_such_an_address_is_let_in_again(lane: str, tmp_path: Path) -> None:
    async def work() -> None:
        async with node_of(
            lane, tmp_path, empty_per_address_s_max=LIMIT, reset_hold_s=0.2
        ) as (node, keys):  # fmt: skip
            aim = target(node, lane, keys)
            await attack_until_held(node, aim)
            await until(lambda: not node.strangers.held)
            (await asyncio.to_thread(from_address, node, ATTACKER)).close()
            await attack_until_held(node, aim)
            assert node.strangers.held_count >= 2

    asyncio.run(work())


@lanes
def test_who_asks_something_on_each_new_connection_is_never_held_however_that_ends(
    lane: str, tmp_path: Path
) -> None:
    async def work() -> None:
        async with node_of(
            lane, tmp_path, empty_per_address_s_max=0.001, reset_hold_s=3_600
        ) as (node, keys):  # fmt: skip
            for count in range(1, 21):  # a command that is killed while it watches
                async with channel_to(node, lane, keys) as channel:
                    call = health_pb2_grpc.HealthStub(channel).Watch(
                        health_pb2.HealthCheckRequest()
                    )
                    await call.read()
                    call.cancel()
                    await until(lambda count=count: node.connections.resets == count)  # type: ignore[misc]
            for _ in range(5):
                async with connect(node, lane, keys) as bus:
                    await bus.publish("calm", "and gone")
            assert node.strangers.held_count == 0
            aim = target(node, lane, keys, "127.0.0.1")
            await leave_without_a_request(node, aim)  # one of these is too many here
            await until(lambda: node.strangers.held == {"127.0.0.1"})

    asyncio.run(work())


async def leave_without_a_request(node: Node, aim: Target) -> None:
    """Begin a call, take it back, and hang up."""
    calls = node.door.calls
    with await asyncio.to_thread(aim.wire) as wire:
        wire.send(frame(http2.HEADERS, http2.END_HEADERS, 1, aim.block))
        await until(lambda: node.door.calls > calls)
        wire.send(frame(http2.RST_STREAM, 0, 1, http2.CANCEL))
        await until(lambda: node.door.calls_now == 0)


@lanes
def test_without_the_limit_nobody_is_held_for_that(lane: str, tmp_path: Path) -> None:
    async def work() -> None:
        async with node_of(lane, tmp_path, empty_per_address_s_max=0) as (node, keys):
            aim = target(node, lane, keys)
            for _ in range(30):
                await leave_without_a_request(node, aim)
            assert node.strangers.held_count == 0

    asyncio.run(work())
