"""Clients that lend and borrow memory, honest or not: records over a channel, and nothing else."""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sira import _native
from sira.kernel.errors import SiraError
from sira.kernel.local import record
from sira.kernel.local.channel import Channel, Record
from sira.kernel.node import Node
from sira.v1 import bus_pb2, message_pb2, tensor_pb2

from .raw import Raw, code_of, said, until

SEAL_FUTURE_WRITE = 0x10  # linux/fcntl.h; the module has no name for it
SIZES = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
ALL_SEALS = SIZES | SEAL_FUTURE_WRITE
PIECE = 64 << 10  # bytes of a message of these tests
_WINDOW_BYTES = 1 << 30


class Memory:
    """A memfd as a publisher makes one; `data` is its own mapping."""

    def __init__(self, size: int = 1 << 20, seals: int = ALL_SEALS) -> None:
        self.size = size
        self.fd = os.memfd_create("lent", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        self.data = mmap.mmap(self.fd, size)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, seals)

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
        self._calls = 0

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

    def give_back(self, *leases: int) -> None:
        self.channel.send(record.RETURNED, 0, record.leases(leases))

    # ---- what it hears ---------------------------------------------------------------------------

    async def opened(self) -> None:
        await until(lambda: any(each.HasField("opened") for each in self.items))

    async def chunks(self, count: int) -> list[bus_pb2.Chunk]:
        """Wait for so many chunks."""
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
        return [each.chunk for each in self.items if each.HasField("chunk")]

    def _receipts(self) -> list[bus_pb2.Receipt]:
        return [each.receipt for each in self.items if each.HasField("receipt")]

    def taken(self, records: list[Record]) -> None:
        for kind, call, descriptors, body in records:
            if kind == record.MESSAGE:
                self.items.extend(bus_pb2.Frame.FromString(body).items)
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
        del error
        self.over = True


@asynccontextmanager
async def lending(node: Node, *, lends: bool = True) -> AsyncIterator[Peer]:
    """Connect a client that says that it lends."""
    raw = await Raw(node).open(hello=False)
    loop = asyncio.get_running_loop()
    peer = Peer(lambda peer: Channel(raw.sock, loop, taken=peer.taken, lost=peer.lost))
    hello = said(window_bytes=_WINDOW_BYTES, lends=lends)
    peer.channel.send(record.HELLO, 0, hello)
    peer.channel.begin()
    try:
        yield peer
    finally:
        peer.close()
