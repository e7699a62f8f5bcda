"""The C core of the shared-memory lane from Python: one link each way between two processes.

What the node will do (make the links, hand descriptors over) is done here by a fork and a socket
pair. A waiting reader sleeps at once, spins for a while first, or never sleeps; a writer that waits
for room always spins for a while first.
"""

from __future__ import annotations

import json
import math
import os
import socket
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benches.pairs import check_stamp, stamp
from benches.payload import HEAD, Lost, Tensors, tail
from sira import _native

TOPIC = "bench.link"
GENERATION = 1
CELL, WINDOW, HELD_BYTES_MAX = 0, 1_000, 1 << 40
LARGE_BYTES = 4_096
"""A message from here on is a loan in shared memory, stamped and posted where it lies."""
LOOK_S = 1.0
"""A wait ends after this and begins anew: the peer may have died."""
WANTED_BACK = 48
"""A writer without room is woken for this many slots at once: half of a link's."""


class _Way:
    """One direction: the memory of its link and a bell for each end."""

    def __init__(self) -> None:
        self.memory = _native.ShmLink(GENERATION)
        self._to_reader, self._to_writer = _native.shm_bell(), _native.shm_bell()

    def _mapped(self) -> _native.ShmLink:
        return _native.ShmLink(GENERATION, fd=os.dup(self.memory.fileno()))

    def writer(self) -> _native.ShmWriter:
        """The publisher's end, over a mapping of its own."""
        bells = os.dup(self._to_reader), os.dup(self._to_writer)
        writer = _native.ShmWriter(self._mapped(), *bells)
        writer.open_cell(CELL, WINDOW, HELD_BYTES_MAX)
        return writer

    def reader(self) -> _native.ShmReader:
        """The subscriber's end, over a mapping of its own."""
        bells = os.dup(self._to_writer), os.dup(self._to_reader)
        return _native.ShmReader(self._mapped(), *bells)

    def check(self) -> None:
        """Hold the counts of the link against each other once both ends are done.

        Raises:
            Lost: something was posted and not taken.
        """
        counts, sane = self.memory.counts()
        for posted, taken, pending, withdrawn in counts.values():
            if not sane or posted != taken or pending or any(withdrawn):
                raise Lost(f"{posted} posted, {taken} taken, {pending} left, {withdrawn} withdrawn")

    def close(self) -> None:
        os.close(self._to_reader)
        os.close(self._to_writer)


class LinkJoin:
    """Two links; `spin_us_max` is how long a reader spins before it sleeps."""

    def __init__(self, params: dict[str, Any], *, spin_us_max: float) -> None:
        self.params, self.spin_us_max = params, spin_us_max
        self.there, self.back = _Way(), _Way()

    def open(self, *, asks: bool, line: socket.socket) -> LinkEnd:
        """Write there and read back, or the other way round."""
        out, into = (self.there, self.back) if asks else (self.back, self.there)
        return LinkEnd(self, out, into, line)

    def close(self) -> None:
        """Check that what was posted was taken, both ways."""
        for way in (self.there, self.back):
            way.check()
            way.close()


class LinkEnd:
    """One process's writer, reader and arena."""

    def __init__(self, join: LinkJoin, out: _Way, into: _Way, line: socket.socket) -> None:
        self._message_bytes = join.params["message_bytes"]
        self._tensor_bytes = join.params.get("tensor_bytes", 0)
        self._writer, self._reader = out.writer(), into.reader()
        self._bells = _native.ShmBells(spin_us_max=join.spin_us_max)
        self._bells.add(self._reader)
        self._take = self._reader.take
        self._tail = tail(min(self._message_bytes, LARGE_BYTES))
        largest = max(self._message_bytes, self._tensor_bytes)
        self._arena = _native.ShmArena(max(64 << 20, 4 * largest))
        self._loan: _native.ShmChunk | None = None
        if self._message_bytes >= LARGE_BYTES:
            self._loan = self._arena.take(self._message_bytes)
            self._lent: NDArray[np.uint8] = np.frombuffer(self._loan, np.uint8)
            self._lent.fill(1)  # its pages are there before the clock starts
        if self._tensor_bytes:
            self._arena.warm(self._tensor_bytes)
        self._introduce(line)

    def _introduce(self, line: socket.socket) -> None:
        """Hand our segments to the other process, and map its."""
        segments = self._arena.segments()
        told = json.dumps([(number, size) for number, _fd, size in segments]).encode()
        socket.send_fds(line, [told], [fd for _number, fd, _size in segments])
        heard, fds, _flags, _from = socket.recv_fds(line, 65_536, 64)
        for (number, size), fd in zip(json.loads(heard), fds, strict=True):
            self._reader.map(number, fd, size)

    def _post(self, post: _native.ShmPost) -> None:
        while self._writer.post(post, CELL) < 0:
            self._writer.wait(LOOK_S, WANTED_BACK)

    def _next(self) -> _native.Message:
        while (message := self._take(CELL)) is None:
            self._bells.wait(LOOK_S)
        return message

    def send(self, number: int, total: int) -> None:
        """Post a small message inside its slot, a large one where it lies."""
        if self._loan is None:
            self._post(_native.ShmPost(TOPIC, HEAD.pack(number, total) + self._tail))
        else:
            stamp(self._lent, number, total)
            self._post(_native.ShmPost(TOPIC, {"x": self._lent}, None, self._arena, self._loan))

    def receive(self) -> Any:
        """Bytes of a small message; the array of a large one, in the other's memory."""
        message = self._next()
        if self._loan is None:
            return message.bytes
        check_stamp(array := message["x"])
        return array

    def send_tensor(self, index: int) -> None:
        """Fill a loan and post it where it lies; what has come back is warm, and used first."""
        self._writer.collect()
        loan = self._arena.take(self._tensor_bytes)
        array = np.frombuffer(loan, np.float32)
        Tensors.fill(array, index)
        self._post(_native.ShmPost(TOPIC, {"x": array}, None, self._arena, loan))

    def receive_tensor(self) -> Any:
        """The array in the other's memory."""
        return self._next()["x"]


def blocking(params: dict[str, Any]) -> LinkJoin:
    """A reader that sleeps at once."""
    return LinkJoin(params, spin_us_max=0)


def adaptive(params: dict[str, Any]) -> LinkJoin:
    """A reader that spins for at most 50 µs, while that pays: the default."""
    return LinkJoin(params, spin_us_max=50)


def spinning(params: dict[str, Any]) -> LinkJoin:
    """A reader that never sleeps."""
    return LinkJoin(params, spin_us_max=math.inf)
