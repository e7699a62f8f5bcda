"""What two processes of one host can do without us: the ends that `benches.pairs` drives.

`pipe`: multiprocessing.shared_memory, and a byte through a pipe for each message. `eventfd`: the
bare round trip, no payload. `zmq_ipc`: pyzmq over a Unix socket, blocking, a DEALER each.
"""

from __future__ import annotations

import os
import socket
import uuid
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np

from benches.pairs import check_stamp, stamp
from benches.payload import HEAD, Tensors, tail

SLOTS = 1_024
"""Messages under way in each direction of `pipe`; half of them are given back at a time."""
LARGE_BYTES = 4_096
"""From here on there is one slot: its owner may write again when it was answered."""


class PipeJoin:
    """Slots for both directions and one tensor in one shared memory, and a pipe for each word."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.message_bytes: int = params["message_bytes"]
        self.tensor_bytes: int = params.get("tensor_bytes", 0)
        self.slots = SLOTS if self.message_bytes < LARGE_BYTES else 1
        size = 2 * self.slots * self.message_bytes + self.tensor_bytes
        self.memory = SharedMemory(create=True, size=size)
        self.memory.unlink()  # the mapping stays, and a fork has it
        np.frombuffer(self.memory.buf, np.uint8).fill(1)  # pages are there before the clock starts
        self.there, self.back = os.pipe(), os.pipe()
        self.there_freed, self.back_freed = os.pipe(), os.pipe()

    def open(self, *, asks: bool, line: socket.socket) -> PipeEnd:
        """Write there and read back, or the other way round; `line` is not needed."""
        return PipeEnd(self, asks=asks)

    def close(self) -> None:
        """Unmap the memory, close the pipes."""
        self.memory.close()
        for pair in (self.there, self.back, self.there_freed, self.back_freed):
            os.close(pair[0])
            os.close(pair[1])


class PipeEnd:
    """One process's slots to write and slots to read."""

    def __init__(self, join: PipeJoin, *, asks: bool) -> None:
        self._bytes, self._slots = join.message_bytes, join.slots
        area = self._slots * self._bytes
        everything = np.frombuffer(join.memory.buf, np.uint8)
        areas = everything[:area], everything[area : 2 * area]
        self._ours, self._theirs = areas if asks else areas[::-1]
        self._tensor = everything[2 * area :].view(np.float32)
        out, into = (join.there, join.back) if asks else (join.back, join.there)
        freed = (join.there_freed, join.back_freed)
        out_freed, into_freed = freed if asks else freed[::-1]
        self._tell, self._told = out[1], into[0]
        self._freed, self._free = out_freed[0], into_freed[1]
        self._tail = tail(min(self._bytes, LARGE_BYTES))
        self._sent = self._taken = self._ready = 0
        self._room = self._slots

    def send(self, number: int, total: int) -> None:
        """Write the next free slot, then a byte into the pipe."""
        if self._slots == 1:
            stamp(self._ours, number, total)
        else:
            if not self._room:
                self._room = len(os.read(self._freed, 2)) * (self._slots // 2)
            self._room -= 1
            at = self._sent % self._slots * self._bytes
            self._sent += 1
            message = HEAD.pack(number, total) + self._tail
            self._ours.data[at : at + self._bytes] = message
        os.write(self._tell, b"x")

    def receive(self) -> Any:
        """The next slot, once its byte has come; half of all are given back at a time."""
        if self._slots == 1:
            os.read(self._told, 1)
            check_stamp(self._theirs)
            return self._theirs
        if self._taken and self._taken % (self._slots // 2) == 0:
            os.write(self._free, b"x")
        if not self._ready:
            self._ready = len(os.read(self._told, self._slots))
        self._ready -= 1
        at = self._taken % self._slots * self._bytes
        self._taken += 1
        return self._theirs.data[at : at + self._bytes]

    def send_tensor(self, index: int) -> None:
        """Fill the tensor in the shared memory, then a byte into the pipe."""
        Tensors.fill(self._tensor, index)
        os.write(self._tell, b"x")

    def receive_tensor(self) -> Any:
        """The tensor in the shared memory."""
        os.read(self._told, 1)
        return self._tensor


class EventfdJoin:
    """Two eventfds."""

    def __init__(self, _params: dict[str, Any]) -> None:
        self.there, self.back = os.eventfd(0), os.eventfd(0)

    def open(self, *, asks: bool, line: socket.socket) -> EventfdEnd:
        """Write one, read the other; `line` is not needed."""
        pair = self.there, self.back
        return EventfdEnd(*(pair if asks else pair[::-1]))

    def close(self) -> None:
        """Close both."""
        os.close(self.there)
        os.close(self.back)


class EventfdEnd:
    """Request and reply only: no payload. The last is told by the value 2; heads are made here."""

    def __init__(self, out: int, into: int) -> None:
        self._out, self._into, self._taken = out, into, 0

    def send(self, _number: int, total: int) -> None:
        """Write 1, or 2 for the last."""
        os.eventfd_write(self._out, 2 if total else 1)

    def receive(self) -> Any:
        """Count what came."""
        value = os.eventfd_read(self._into)
        self._taken += 1
        return HEAD.pack(self._taken - 1, self._taken if value == 2 else 0)


class ZmqJoin:
    """The address of a Unix socket."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params
        self.path = Path(params["folder"]) / uuid.uuid4().hex[:8]

    def open(self, *, asks: bool, line: socket.socket) -> ZmqEnd:
        """Connect, or bind first; a context of its own on either side of the fork."""
        return ZmqEnd(self, asks=asks)

    def close(self) -> None:
        """Remove what may be left of the address."""
        self.path.unlink(missing_ok=True)


class ZmqEnd:
    """A DEALER; small messages are copied, which is the faster way for them."""

    def __init__(self, join: ZmqJoin, *, asks: bool) -> None:
        import zmq

        size: int = join.params["message_bytes"]
        self._socket = zmq.Context().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, -1)
        (self._socket.connect if asks else self._socket.bind)(f"ipc://{join.path}")
        self._large = np.ones(size, np.uint8) if size >= LARGE_BYTES else None
        self._tail = tail(min(size, LARGE_BYTES))
        self._tensor = np.ones(join.params.get("tensor_bytes", 0) // 4, np.float32)

    def send(self, number: int, total: int) -> None:
        """Send bytes, or the array where it lies."""
        if self._large is None:
            self._socket.send(HEAD.pack(number, total) + self._tail)
        else:
            stamp(self._large, number, total)
            self._socket.send(self._large, copy=False)

    def receive(self) -> Any:
        """Bytes, or the buffer where it arrived."""
        if self._large is None:
            return self._socket.recv()
        check_stamp(message := self._socket.recv(copy=False).buffer)
        return message

    def send_tensor(self, index: int) -> None:
        """Fill a private array and send it where it lies; it was answered since the last time."""
        Tensors.fill(self._tensor, index)
        self._socket.send(self._tensor, copy=False)

    def receive_tensor(self) -> Any:
        """The buffer where it arrived."""
        return np.frombuffer(self._socket.recv(copy=False).buffer, np.float32)


def pipe(params: dict[str, Any]) -> PipeJoin:
    """Shared memory and pipes."""
    return PipeJoin(params)


def eventfd(params: dict[str, Any]) -> EventfdJoin:
    """Two eventfds."""
    return EventfdJoin(params)


def zmq_ipc(params: dict[str, Any]) -> ZmqJoin:
    """pyzmq over a Unix socket."""
    return ZmqJoin(params)
