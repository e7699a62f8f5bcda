"""Tensors by reference between raw clients of a node: who sees which memory, and until when."""

from __future__ import annotations

import gc
import mmap
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sira.kernel.node import Node

from .lenders import PIECE, Memory, Peer, lending
from .raw import run, running, until

pytestmark = pytest.mark.integration


def on_node(folder: Path, work: Callable[[Node], Awaitable[None]], **flags: object) -> None:
    """Run a test on a node of its own; afterwards nothing is lent, and no descriptor is left."""

    async def with_node() -> None:
        async with running(folder, **flags) as node:
            gc.collect()
            before = set(os.listdir("/proc/self/fd"))
            await work(node)
            await until(lambda: not len(node.local) and not node.lent.held.segments)
            gc.collect()
            assert not node.lent.leases and not node.lent.lenders
            await until(lambda: len(os.listdir("/proc/self/fd")) <= len(before))

    run(with_node)


async def pair(publisher: Peer, subscriber: Peer, memory: Memory) -> int:
    """Have the one bring segment 1 of `cam.front` and the other listen; return the Publish call."""
    subscriber.subscribe()
    await subscriber.opened()
    publisher.bring(1, [memory.fd], memory.size)
    return publisher.call("Publish")


def test_a_lent_tensor_is_read_where_it_lies_and_its_lease_comes_back(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        memory = Memory()
        memory.data[PIECE : 2 * PIECE] = b"\x07" * PIECE
        async with lending(node) as publisher, lending(node) as subscriber:
            call = await pair(publisher, subscriber, memory)
            publisher.publish(call, 1, 41, offset=PIECE)
            (chunk,) = await subscriber.chunks(1)
            assert not chunk.data and chunk.lent.bytes == PIECE and chunk.lent.offset == PIECE
            fd, size = subscriber.shown[chunk.lent.segment]
            assert size == memory.size
            with mmap.mmap(fd, size, prot=mmap.PROT_READ) as seen:
                assert seen[PIECE : 2 * PIECE] == b"\x07" * PIECE
            (receipt,) = await publisher.receipts(1)
            assert receipt.matched == 1 and not receipt.HasField("error")
            assert not publisher.returned and node.lent.leases == 1
            subscriber.give_back(chunk.lent.lease)
            await until(lambda: publisher.returned == [41])
            assert not node.lent.leases
        memory.close()

    on_node(tmp_path, work)
