"""A connection that sends much that is part of no call is ended; who sends much in calls is not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import struct
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from sira.kernel.edge import open_sockets, strangers
from sira.kernel.edge.open_sockets import Peer
from sira.kernel.node import Node
from tests.soak import http2
from tests.soak.http2 import Wire, frame

from .keys import until
from .test_resets import HEALTH, connect, lanes, node_of, wire_to

pytestmark = pytest.mark.integration
BATCH = 64
SETTINGS = frame(http2.SETTINGS, 0, 0, struct.pack("!HI", 4, 65_535)) * BATCH
LIMIT = 64 << 10  # a second: far below what the slowest machine sends


def flood(wire: Wire, stop: threading.Event, first: bytes = b"") -> None:
    """Send settings until the node hangs up, or until told to stop."""
    with contextlib.suppress(OSError):
        wire.send(first)
        while not (wire.ended or stop.is_set()):
            wire.send(SETTINGS)


@lanes
@pytest.mark.parametrize("has_call", [False, True])
def test_a_flood_of_settings_ends_its_connection_and_is_told_and_others_go_on(
    lane: str, has_call: bool, tmp_path: Path
) -> None:
    async def work() -> None:
        async with node_of(
            lane, tmp_path, stray_bytes_per_connection_s_max=LIMIT, reset_hold_s=0,
            grpc_message_bytes_max=LIMIT, stream_window_bytes=LIMIT,
        ) as (node, keys):  # fmt: skip
            tenant = "system" if lane == "tls" else "default"
            stop = threading.Event()
            async with (
                connect(node, lane, keys) as bus,
                bus.subscribe("calm") as calm,
                connect(node, lane, keys, tenant) as operator,
                operator.subscribe("sira.connection.closed") as facts,
            ):
                with wire_to(node, lane, keys) as wire:
                    peer = wire.address
                    # A call that is never sent to its end stays open beside the flood.
                    block = http2.call(HEALTH)
                    call = frame(http2.HEADERS, http2.END_HEADERS, 1, block) if has_call else b""
                    task = asyncio.create_task(asyncio.to_thread(flood, wire, stop, call))
                    try:
                        await until(lambda: node.connections.closed_count > 0)
                        await until(lambda: wire.ended)
                    finally:
                        stop.set()
                        await task
                if lane == "tls":  # what strangers do is told to operators, else to the log
                    async with asyncio.timeout(60):
                        said = json.loads((await facts.next()).text)
                    assert said["peer"] == f"ipv4:{peer[0]}:{peer[1]}"
                    assert said["setting"] == "stray_bytes_per_connection_s_max"
                    assert said["limit"] == LIMIT
                await bus.publish("calm", "still here")
                assert (await calm.next()).text == "still here"
                assert node.connections.closed_count == 1, "of the one that did it, and no other"

    asyncio.run(work())


async def look(node: Node) -> None:
    """Judge all connections now, as a busy node does by itself."""
    received: dict[Peer, int | None] = {}
    for descriptor in open_sockets.listed():
        copy = open_sockets.copy_at(descriptor, frozenset({node.port}))
        if copy is None:
            continue
        with copy:
            peer = open_sockets.peer_of(copy)
            if peer is not None:
                inode = os.fstat(descriptor).st_ino
                received[peer] = open_sockets.received_bytes(descriptor, inode)
    assert any(received.values()), "TCP tells how much has come"
    await node.connections.looked(received, partial(asyncio.sleep, 0))


@lanes
def test_who_sends_far_more_than_that_in_calls_keeps_its_connection(
    lane: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The node's own walks count no bytes here: of two that count at once one has older numbers.
    monkeypatch.setattr(strangers._Busy, "look", lambda *_: False)

    async def work() -> None:
        async with node_of(
            lane, tmp_path, stray_bytes_per_connection_s_max=LIMIT,
            grpc_message_bytes_max=2 << 20, stream_window_bytes=LIMIT,
        ) as (node, keys):  # fmt: skip
            large, small = np.zeros(1 << 20, np.float32), np.zeros(4, np.float32)
            async with (
                connect(node, lane, keys) as bus,
                bus.subscribe("much.>") as messages,
            ):
                for _ in range(12):  # 48 MiB in all
                    await bus.publish("much.large", {"x": large})
                    assert (await messages.next())["x"].nbytes == large.nbytes
                    for _ in range(50):
                        await bus.publish("much.small", {"x": small})
                        await messages.next()
                        await look(node)
                    await look(node)
                assert node.connections.closed_count == 0
            await until(lambda: node.strangers.count == 0)

    asyncio.run(work())
