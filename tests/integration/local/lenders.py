"""Clients that lend and borrow memory, honest or not: records over a channel, and nothing else."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import mmap
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sira import _native
from sira.kernel.errors import SiraError
from sira.kernel.identity import Principal
from sira.kernel.local import record
from sira.kernel.local.channel import Channel, Record
from sira.kernel.node import Node
from sira.kernel.trust.credential import Credential
from sira.v1 import bus_pb2, message_pb2, tensor_pb2

from .raw import Raw, code_of, run, running, said, until

SEAL_FUTURE_WRITE = 0x10  # linux/fcntl.h; the module has no name for it
SIZES = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
ALL_SEALS = SIZES | SEAL_FUTURE_WRITE
PIECE = 64 << 10  # bytes of a message of these tests
WINDOW_BYTES = 1 << 30


class Memory:
    """A memfd as a publisher makes one; `data` is its own mapping."""

    def __init__(self, size: int = 1 << 20, seals: int = ALL_SEALS) -> None:
        self.size = size
        self.fd = os.memfd_create("lent", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        self.data = mmap.mmap(self.fd, size)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, seals)

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.data.close()
        os.close(self.fd)


class Peer:
    """One connection. What the node says is kept by kind; what it passes is kept open."""

    def __init__(self, channel_of: Callable[[Peer], Channel]) -> None:
        self.channel = channel_of(self)
        self.shown: dict[int, tuple[int, int]] = {}  # segment -> descriptor, bytes
        self.gone: list[int] = []
        self.returned: list[int] = []
        self.stopped: list[int] = []
        self.items: list[bus_pb2.Item] = []
        self.statuses: dict[int, str] = {}
        self.over = False
        self.error: SiraError | None = None
        self.reads = True  # it opens its windows again
        self._calls = 0
        self._unary: dict[int, bytes] = {}  # answers

    # ---- what it says ----------------------------------------------------------------------------

    def call(self, method: str) -> int:
        self._calls += 1
        self.channel.send(record.CALL, self._calls, record.call(f"/sira.v1.Bus/{method}", [], None))
        return self._calls

    def say(self, call: int, *items: bus_pb2.Item) -> None:
        body = bus_pb2.Frame(items=items).SerializeToString()
        self.channel.send(record.MESSAGE, call, body)

    def bring(
        self, number: int, fds: Sequence[int], size: int, audience: str = "cam.front"
    ) -> None:
        body = record.segment(number, size, audience)
        if fds:
            self.channel.send_descriptors(record.SEGMENT, 0, body, fds)
        else:
            self.channel.send(record.SEGMENT, 0, body)

    def publish(
        self, call: int, segment: int, lease: int, *, topic: str = "cam.front", offset: int = 0,
        size: int = PIECE,
    ) -> bytes:  # fmt: skip
        """Send a message of one tensor that lies in a segment; return its id."""
        tensor = tensor_pb2.Tensor(
            dtype=tensor_pb2.DTYPE_U8, shape=[PIECE], data_bytes=PIECE, name="x"
        )
        made = message_pb2.Message(id=_native.new_id(), topic=topic, tensors=[tensor])
        lent = bus_pb2.Lent(segment=segment, offset=offset, bytes=size, lease=lease)
        chunk = bus_pb2.Chunk(message_id=made.id, lent=lent)
        self.say(call, bus_pb2.Item(head=made), bus_pb2.Item(chunk=chunk))
        return made.id

    def subscribe(self, pattern: str = "cam.>", number: int = 1, **fields: Any) -> int:
        call = self.call("Subscribe")
        asked = bus_pb2.Open(subscription=number, pattern=pattern, **fields)
        self.say(call, bus_pb2.Item(open=asked))
        return call

    def unsubscribe(self, call: int, number: int = 1) -> None:
        self.say(call, bus_pb2.Item(close=bus_pb2.Close(subscription=number)))

    def give_back(self, *leases: int) -> None:
        self.channel.send(record.RETURNED, 0, record.leases(leases))

    async def unary(self, method: str, request: bytes) -> bytes | str:
        """Make a unary call; return its answer, or the code of its refusal."""
        self._calls += 1
        call = self._calls
        self.channel.send(record.CALL, call, record.call(method, [], None))
        self._unary[call] = b""
        self.channel.send(record.MESSAGE, call, request)
        self.channel.send(record.HALF_CLOSE, call, b"")
        await until(lambda: self.over or call in self.statuses)
        return self.statuses[call] or self._unary[call]

    # ---- what it hears ---------------------------------------------------------------------------

    async def opened(self, count: int = 1) -> None:
        await until(lambda: sum(each.HasField("opened") for each in self.items) >= count)

    async def chunks(self, count: int) -> list[bus_pb2.Chunk]:
        """Wait for so many tensors."""
        await until(lambda: self.over or len(self._chunks()) >= count)
        assert not self.over, self.statuses
        return self._chunks()

    async def receipts(self, count: int) -> list[bus_pb2.Receipt]:
        """Wait for so many receipts."""
        await until(lambda: self.over or len(self._receipts()) >= count)
        assert not self.over, self.statuses
        return self._receipts()

    async def refused(self) -> str:
        """Wait for the end of the connection; return the code that it ended with."""
        await until(lambda: self.over)
        return self.statuses.get(0, "closed")

    def close(self) -> None:
        self.channel.close()
        for fd, _ in self.shown.values():
            os.close(fd)
        self.shown.clear()

    def _chunks(self) -> list[bus_pb2.Chunk]:
        """Whole tensors; what was copied may have come in pieces."""
        found: dict[tuple[bytes, int], bus_pb2.Chunk] = {}
        for index, each in enumerate(self.items):
            if each.HasField("chunk"):
                alone = index if each.chunk.HasField("lent") else -1
                whole = found.setdefault((each.chunk.message_id, alone), bus_pb2.Chunk())
                data = whole.data + each.chunk.data
                whole.CopyFrom(each.chunk)
                whole.data = data
        return [e for e in found.values() if e.HasField("lent") or len(e.data) >= PIECE]

    def _receipts(self) -> list[bus_pb2.Receipt]:
        return [each.receipt for each in self.items if each.HasField("receipt")]

    def taken(self, records: list[Record]) -> None:
        for kind, call, descriptors, body in records:
            if kind == record.MESSAGE and call in self._unary:
                self._unary[call] = body
            elif kind == record.MESSAGE:
                self.items.extend(bus_pb2.Frame.FromString(body).items)
                if self.reads:
                    self.channel.send(record.WINDOW, call, record.grant(max(1, len(body))))
            elif kind == record.SEGMENT:
                found = record.read_segment(body, descriptors)
                (fd,) = self.channel.take_descriptors(descriptors)
                self.shown[found.segment] = (fd, found.bytes)
            elif kind == record.GONE:
                self.gone.extend(record.read_segments(body))
            elif kind == record.RETURNED:
                self.returned.extend(record.read_leases(body))
            elif kind == record.STOP:
                self.stopped.extend(record.read_segments(body))
            elif kind == record.STATUS:
                self.statuses[call] = code_of(body)

    def lost(self, error: SiraError | None) -> None:
        self.error = error  # its own: what it could not take
        self.over = True


@asynccontextmanager
async def connected(
    node: Node, kind: type[Peer], *, who: str, window_bytes: int = WINDOW_BYTES, **fields: Any
) -> AsyncIterator[Peer]:
    """Connect a client; `who`: TENANT/KIND/NAME, handed its connection; `fields`: of its hello."""
    if who:
        ours, sock = socket.socketpair()
        node.local.adopt(ours, Credential(Principal("local", *who.split("/")), "uid"))
    else:
        sock = (await Raw(node).open(hello=False)).sock
    loop = asyncio.get_running_loop()
    peer = kind(lambda peer: Channel(sock, loop, taken=peer.taken, lost=peer.lost))
    hello = said(window_bytes=window_bytes, **fields)
    peer.channel.send(record.HELLO, 0, hello)
    peer.channel.begin()
    try:
        yield peer
    finally:
        peer.close()


@asynccontextmanager
async def lending(
    node: Node, *, lends: bool = True, who: str = "", window_bytes: int = WINDOW_BYTES
) -> AsyncIterator[Peer]:
    """Connect a client that says that it lends. See `connected`."""
    async with connected(node, Peer, who=who, window_bytes=window_bytes, lends=lends) as peer:
        yield peer


def on_node(folder: Path, work: Callable[[Node], Awaitable[None]], **flags: object) -> None:
    """Run a test on a node of its own; afterwards nothing is lent, and no descriptor is left."""

    async def with_node() -> None:
        async with running(folder, **flags) as node:
            gc.collect()
            before = len(os.listdir("/proc/self/fd"))
            await work(node)
            lent = node.lent
            await until(lambda: not len(node.local) and not lent.held.segments)
            gc.collect()
            await until(lambda: not lent.leases and not lent.lenders and not lent.held.bytes)
            await until(lambda: len(os.listdir("/proc/self/fd")) <= before)

    run(with_node)


async def pair(publisher: Peer, subscriber: Peer, memory: Memory) -> int:
    """Have the one bring segment 1 of `cam.front` and the other listen; return the Publish call."""
    subscriber.subscribe()
    await subscriber.opened()
    publisher.bring(1, [memory.fd], memory.size)
    return publisher.call("Publish")


def read(subscriber: Peer, chunk: bus_pb2.Chunk) -> bytes:
    """Return what a chunk means to a subscriber: where it lies, or in itself."""
    if not chunk.HasField("lent"):
        return chunk.data
    lent = chunk.lent
    fd, size = subscriber.shown[lent.segment]
    with mmap.mmap(fd, size, prot=mmap.PROT_READ) as seen:
        return seen[lent.offset : lent.offset + lent.bytes]
