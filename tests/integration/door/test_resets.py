"""A connection that takes back more calls than it may is ended, and all others go on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import sira
from sira.kernel.edge.connections import Connections
from sira.kernel.node import Node
from tests.soak import http2
from tests.soak.http2 import Wire, frame

from .keys import Keys, principal, running, until

pytestmark = pytest.mark.integration
HEALTH = "/grpc.health.v1.Health/Check"
BATCH = 50
lanes = pytest.mark.parametrize("lane", ["plain", "tls"])


@asynccontextmanager
async def node_of(lane: str, folder: Path, **flags: object) -> AsyncIterator[tuple[Node, Keys]]:
    keys = Keys.new(folder)
    plain: dict[str, object] = {"listen": "127.0.0.1:0", "data_dir": str(folder)}
    of_lane = keys.flags() if lane == "tls" else plain
    async with running(of_lane | {"resets_per_connection_s_max": 20} | flags) as node:
        yield node, keys


def connect(node: Node, lane: str, keys: Keys, tenant: str = "default") -> sira.Bus:
    if lane == "plain":
        return sira.connect(f"sira://{node.address}")
    security = keys.security(token=keys.token(principal("ada", tenant)))
    return sira.connect(f"siras://{node.address}", security=security)


def wire_to(node: Node, lane: str, keys: Keys) -> Wire:
    tls = http2.trusting(keys.folder / "ca.pem") if lane == "tls" else None
    return Wire(("127.0.0.1", node.port), tls)


def taken_back(first: int, count: int) -> bytes:
    """Calls from stream `first` on, each taken back in the same breath."""
    block = http2.call(HEALTH)
    return b"".join(
        frame(http2.HEADERS, http2.END_HEADERS, stream, block)
        + frame(http2.RST_STREAM, 0, stream, http2.CANCEL)
        for stream in range(first, first + 2 * count, 2)
    )


def seen(node: Node) -> int:
    return node.connections.resets + node.connections.closed_count


def more(node: Node, before: int) -> bool:
    return seen(node) > before or node.connections.closed_count > 0


async def take_back_too_much(node: Node, wire: Wire) -> None:
    """Go on until the node has had enough of it."""
    await asyncio.to_thread(wire.agreed)
    async with asyncio.timeout(60):
        for first in range(1, 1 << 20, 2 * BATCH):
            before = seen(node)
            with contextlib.suppress(OSError):  # the node was quicker
                await asyncio.to_thread(wire.send, taken_back(first, BATCH))
            await until(partial(more, node, before))
            if node.connections.closed_count:
                return


@lanes
def test_a_connection_that_takes_back_too_much_is_closed_and_told_and_others_go_on(
    lane: str, tmp_path: Path
) -> None:
    async def work() -> None:
        async with node_of(lane, tmp_path, reset_hold_s=0) as (node, keys):
            # What strangers do is the operators' business; without TLS nobody is one.
            tenant = "system" if lane == "tls" else "default"
            async with (
                connect(node, lane, keys) as bus,
                connect(node, lane, keys, tenant) as operator,
                bus.subscribe("calm") as calm,
                operator.subscribe("sira.connection.closed") as facts,
            ):
                with wire_to(node, lane, keys) as wire:
                    peer = wire.address
                    await take_back_too_much(node, wire)
                    await until(lambda: wire.ended)
                async with asyncio.timeout(60):
                    said = json.loads((await facts.next()).text)
                assert said["peer"] == f"ipv4:{peer[0]}:{peer[1]}"
                assert said["setting"] == "resets_per_connection_s_max"
                assert said["limit"] == 20
                await bus.publish("calm", "still here")
                assert (await calm.next()).text == "still here"
                assert node.connections.closed_count == 1, "of the one that did it, and no other"
                values = (await bus.stats()).values
                assert values["connections_closed_total"] == 1
                assert values["calls_taken_back_total"] >= 40

    asyncio.run(work())


def test_who_is_told_of_a_closed_connection_and_fails_leaves_no_other_one_open() -> None:
    async def work() -> None:
        failed: list[object] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, about: failed.append(about["exception"])
        )
        connections = Connections(
            resets_per_s_max=1, stray_bytes_per_s_max=0, call_bytes_max=0, hold_s=0, closed=_fail
        )
        with socket.create_server(("127.0.0.1", 0)) as server:
            connections.serve(server.getsockname()[1])
            pairs = [(socket.create_connection(server.getsockname()), server.accept()[0])
                     for _ in range(3)]  # fmt: skip
            for ours, _ in pairs:
                host, port = ours.getsockname()
                connections.end(f"ipv4:{host}:{port}", "resets_per_connection_s_max", None)
            for ours, theirs in pairs:
                with ours, theirs:
                    assert await asyncio.to_thread(ours.recv, 1) == b"", "it was shut down"
        await until(lambda: len(failed) == 3)
        assert connections.closed_count == 3
        await connections.stop()

    asyncio.run(work())


def _fail(peer: str, setting: str, tenant: str | None) -> None:
    raise RuntimeError(f"nobody hears of {peer}, {setting}, {tenant}")


@lanes
def test_such_a_connection_is_held_still_before_it_is_closed(lane: str, tmp_path: Path) -> None:
    async def work() -> None:
        async with node_of(lane, tmp_path, reset_hold_s=3_600) as (node, keys):
            with wire_to(node, lane, keys) as wire:
                await take_back_too_much(node, wire)
                await asyncio.to_thread(wire.send, frame(http2.PING, 0, 0, b"anybody?"))
                async with connect(node, lane, keys) as bus:
                    await bus.publish("calm", "still here")  # the node works, and answers others
                assert wire.unconfirmed_bytes() > 0, "its bytes are not even taken by TCP"
                assert not wire.ended
                await node.stop(0)
                await until(lambda: wire.ended)

    asyncio.run(work())


@lanes
def test_who_takes_back_what_it_may_keeps_its_connection(lane: str, tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            node_of(lane, tmp_path, resets_per_connection_s_max=100) as (node, keys),
            channel_to(node, lane, keys) as channel,
        ):
            stub = health_pb2_grpc.HealthStub(channel)
            calls = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(90)]
            for call in calls:
                await call.read()  # it is under way on the node
            for call in calls:
                call.cancel()
            await until(lambda: node.connections.resets >= 90)
            await stub.Check(health_pb2.HealthCheckRequest())
            assert channel.get_state() is grpc.ChannelConnectivity.READY
            assert node.connections.closed_count == 0

    asyncio.run(work())


@lanes
def test_calls_that_do_not_fit_a_connection_wait_and_all_are_answered(
    lane: str, tmp_path: Path
) -> None:
    async def work() -> None:
        async with (
            node_of(lane, tmp_path) as (node, keys),
            channel_to(node, lane, keys) as channel,
        ):
            check = health_pb2_grpc.HealthStub(channel).Check
            many = 10 * node.settings.streams_per_connection_max
            answers = await asyncio.gather(
                *(check(health_pb2.HealthCheckRequest()) for _ in range(many))
            )
            assert {answer.status for answer in answers} == {1}
            assert node.connections.resets == 0

    asyncio.run(work())


@asynccontextmanager
async def channel_to(node: Node, lane: str, keys: Keys) -> AsyncIterator[grpc.aio.Channel]:
    own = [("grpc.use_local_subchannel_pool", 1)]
    if lane == "plain":
        made = grpc.aio.insecure_channel(node.address, options=own)
    else:
        trusted = grpc.ssl_channel_credentials((keys.folder / "ca.pem").read_bytes())
        made = grpc.aio.secure_channel(node.address, trusted, options=own)
    async with made as channel:
        yield channel


@lanes
def test_headers_far_past_the_limit_end_their_connection(lane: str, tmp_path: Path) -> None:
    async def work() -> None:
        async with node_of(lane, tmp_path, reset_hold_s=0) as (node, keys):
            # Settings that it never confirms do not hold for it: gRPC lets this through.
            more = http2.fields(*[(b"x-more", b"y" * 4_000)] * 20)
            block = http2.call(HEALTH) + more
            call = b"".join(
                frame(kind, http2.END_HEADERS * last, 1, block[at : at + 16_000])
                for at in range(0, len(block), 16_000)
                for kind, last in [
                    (http2.CONTINUATION if at else http2.HEADERS, at + 16_000 >= len(block))
                ]
            )
            with wire_to(node, lane, keys) as wire:
                async with connect(node, lane, keys) as bus:
                    await asyncio.to_thread(wire.send, call)
                    await until(lambda: wire.ended)
                    await bus.publish("calm", "still here")
            assert node.connections.closed_count == 1
            assert node.door.unidentified == 1

    asyncio.run(work())
