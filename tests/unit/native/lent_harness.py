"""A publisher's segment and what the node knows of it, for chunks that name their bytes."""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator

from sira import _native
from sira.v1 import bus_pb2, message_pb2

from .hub_harness import Publisher, frame, payload_of

SEGMENT = 7
_SEAL_FUTURE_WRITE = 0x10  # linux/fcntl.h; the module has no name for it


class Memory:
    """One sealed segment of equal places, mapped as a node maps it.

    What comes back is overwritten at once: whoever still reads it reads rubbish.
    """

    def __init__(self, place_bytes: int = 8 << 20, places: int = 8) -> None:
        size = place_bytes * places
        fd = os.memfd_create("segment", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size)
        self._memory = mmap.mmap(fd, size)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL | _SEAL_FUTURE_WRITE
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        self.maps = _native.ShmMaps()
        self.maps.map(SEGMENT, fd, size)
        self._free = [place_bytes * i for i in range(places)]
        self._out: dict[int, tuple[int, int]] = {}
        self._last_lease = 0

    def put(self, data: bytes) -> bus_pb2.Lent:
        """Write data to a free place; say where it is."""
        offset = self._free.pop()
        self._memory[offset : offset + len(data)] = data
        self._last_lease += 1
        self._out[self._last_lease] = (offset, len(data))
        return bus_pb2.Lent(segment=SEGMENT, offset=offset, bytes=len(data), lease=self._last_lease)

    @property
    def has_room(self) -> bool:
        """Whether `put` finds a place."""
        return bool(self._free)

    @property
    def leases(self) -> set[int]:
        """Those that have not come back."""
        return set(self._out)

    def lender(
        self, segment: int, offset: int, size: int, lease: int, topic: str | None
    ) -> _native.ShmSpan:
        """What a node's edge gives the hub."""
        del topic
        return self.maps.span(segment, offset, size, lease)

    def take_back(self) -> list[int]:
        """Spoil and free what nobody looks at any more; return its leases."""
        ended = self.maps.ended()
        for lease in ended:
            offset, size = self._out.pop(lease)
            self._memory[offset : offset + size] = b"\xaa" * size
            self._free.append(offset)
        return ended


class Borrower:
    """A subscriber's side of the node: leases given, until they come back."""

    def __init__(self) -> None:
        self.spans: dict[int, _native.ShmSpan] = {}
        self._last = 1000

    def lend(self, span: _native.ShmSpan) -> int:
        """What a node's edge tells the hub."""
        self._last += 1
        self.spans[self._last] = span
        return self._last


def lent_chunk(memory: Memory, made: message_pb2.Message, tensor: int) -> bytes:
    """One frame with all bytes of a tensor by name."""
    lent = memory.put(payload_of(tensor, 0, made.tensors[tensor].data_bytes))
    chunk = bus_pb2.Chunk(message_id=made.id, tensor=tensor, lent=lent)
    return frame(bus_pb2.Item(chunk=chunk))


def lent_chunks(memory: Memory, made: message_pb2.Message) -> Iterator[bytes]:
    """Frames of one lent chunk for each tensor that has bytes."""
    for index, tensor in enumerate(made.tensors):
        if tensor.data_bytes:
            yield lent_chunk(memory, made, index)


def send_lent(publisher: Publisher, memory: Memory, made: message_pb2.Message) -> None:
    """Announce a message and lend its bytes."""
    publisher.stream.lender = memory.lender
    publisher.send(bus_pb2.Item(head=made))
    for chunk in lent_chunks(memory, made):
        publisher.stream.feed(chunk, publisher.bench.now_ns)
