"""One end of a connection: a socket on an event loop, records in and out.

Owns the socket. Refuses to know what a record says; both the node and the SDK drive theirs by it.
What is there is read in one callback; what is written leaves at once, in one system call with its
head, unless something is before it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import NoReturn

from sira import _native
from sira.kernel.errors import Internal, ProtocolError, SiraError
from sira.kernel.local import descriptors
from sira.kernel.local.record import BODY_BYTES_MAX, STATUS, head
from sira.kernel.rpc import rich_status

Record = tuple[int, int, int, bytes]  # kind, call, descriptors, body

# Past so much that the peer has not taken, writers wait: a frame on its way, and one behind it.
FULL_BYTES = 1 << 20
# Asked of the kernel, which doubles it, up to its wmem_max; held there for a peer that reads not.
_SOCKET_BYTES = 1 << 20
_TOGETHER_BYTES = 4_096  # a body so short is copied behind its head: one buffer is cheaper than two
_READ_BYTES_A_TURN = 8 << 20  # then others have the loop
_BUFFERS_A_CALL = 64


class Channel:
    """Records over one socket. Belongs to its loop."""

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        *,
        taken: Callable[[list[Record]], None],
        lost: Callable[[SiraError | None], None],
    ) -> None:
        """Take a connected socket over; nothing is read before `begin`.

        Args:
            taken: given the records that are whole, in order. What it raises ends the connection.
            lost: called once, when the connection is over; None: the other side closed it.
        """
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
        self._sock, self._loop = sock, loop
        self._fd = sock.fileno()
        self._taken, self._lost = taken, lost
        self._reader = _native.RecordReader(BODY_BYTES_MAX)
        self._received = descriptors.Received()
        # What could not leave at once; descriptors beside it are this queue's own copies.
        self._queue: deque[tuple[bytes | memoryview, list[int]]] = deque()
        self.queued_bytes = self.waiting_descriptors = 0
        self._drained: list[asyncio.Future[None]] = []
        self._sent: list[Callable[[], None]] = []
        self._reading = False
        self._deaf = False  # the other side takes nothing more; what it has said is still read
        self.closed = False

    def begin(self) -> None:
        """Read from now on."""
        self._reading = True
        self._loop.add_reader(self._fd, self._readable)

    # ---- in --------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Read no more until `resume`."""
        if self._reading and not self.closed:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        """Read on."""
        if not self._reading and not self.closed:
            self.begin()

    def read_out(self) -> None:
        """Read what is left of a peer that has gone, and close."""
        while not self.closed and self._readable():
            pass
        self.close()

    def take_descriptors(self, count: int) -> list[int]:
        """Return what came beside the record being taken. See `Received.take`."""
        return self._received.take(count)

    def refuse_descriptors(self, count: int) -> NoReturn:
        """Close what came beside the record being taken.

        Raises:
            ProtocolError: always; QuotaExceeded: some never came. See `Received.take`.
        """
        for each in self.take_descriptors(count):
            os.close(each)
        raise ProtocolError(f"{count} descriptors that nothing here takes")

    def _readable(self) -> bool:
        """Take what is there; whether there may be more.

        Reads until there is nothing, or others should have the loop: libuv tells once of a peer
        that closed with something of ours unread, and then watches the descriptor no more.
        """
        sock, reader, received = self._sock, self._reader, self._received
        left = _READ_BYTES_A_TURN
        try:
            while left > 0:
                count = received.receive(sock, reader)
                if not count:
                    self.close()
                    return False
                records = reader.feed(count)
                if records:
                    self._taken(records)
                if self.closed or not self._reading:
                    return False
                left -= count
        except BlockingIOError:
            return False
        except OSError:  # reset: the other side closed with something of ours unread
            self.close()
            return False
        except SiraError as error:
            self.close(error)
            return False
        except Exception as fault:  # ours: the peer must not wait for what never comes
            self.close(Internal(f"{type(fault).__name__} where records are taken"))
            raise
        self._loop.call_soon(self._read_on)
        return True

    def _read_on(self) -> None:
        if self._reading and not self.closed:
            self._readable()

    # ---- out -------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether writers should wait for `drained`."""
        return self.queued_bytes > FULL_BYTES

    async def drained(self) -> None:
        """Return when the channel is no longer full, or closed."""
        while self.full and not self.closed:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._drained.append(waiter)
            await waiter

    def when_sent(self, tell: Callable[[], None]) -> None:
        """Call `tell` when all that was sent is the kernel's, or will never be.

        From then on the peer can read it, whatever becomes of this process.
        """
        if self._queue:
            self._sent.append(tell)
        else:
            tell()

    def send(self, kind: int, call: int, body: bytes = b"") -> None:
        """Send one record, at once or behind what waits. Never raises: `lost` tells."""
        if self._deaf or self.closed:
            return
        top = head(kind, call, len(body))
        pieces: Sequence[bytes] = (top + body,) if len(body) <= _TOGETHER_BYTES else (top, body)
        sent = 0
        if not self._queue:
            try:
                one = len(pieces) == 1  # the usual one, and `send` is cheaper
                sent = self._sock.send(pieces[0]) if one else self._sock.sendmsg(pieces)
            except BlockingIOError:
                pass
            except OSError:
                self._hears_nothing()
                return
            if sent == len(top) + len(body):
                return
        self._wait_with(pieces, [])
        self._went(sent)

    def send_descriptors(self, kind: int, call: int, body: bytes, passed: Sequence[int]) -> None:
        """Send one record with descriptors beside it, which stay open here.

        Raises:
            BadRequest: too many. OSError: one of them is not open.
        """
        if self._deaf or self.closed:
            return
        whole = head(kind, call, len(body), len(passed)) + body
        sent = 0
        if not self._queue:
            try:
                sent = descriptors.send(self._sock, [whole], passed)
            except BlockingIOError:
                pass
            except (BrokenPipeError, ConnectionError):
                self._hears_nothing()
                return
            if sent == len(whole):
                return
        copies: list[int] = []
        try:
            for each in () if sent else passed:  # they leave with the first byte
                copies.append(os.dup(each))
        except OSError:
            for each in copies:
                os.close(each)
            raise
        self._wait_with((whole,), copies)
        self._went(sent)

    def _wait_with(self, pieces: Sequence[bytes], copies: list[int]) -> None:
        """Queue what could not leave; `copies` are descriptors that leave with the first piece."""
        if not self._queue:
            self._loop.add_writer(self._fd, self._writable)
        self.waiting_descriptors += len(copies)
        for each in pieces:
            self._queue.append((each, copies))
            self.queued_bytes += len(each)
            copies = []

    def _writable(self) -> None:
        queue = self._queue
        try:
            while queue:
                data, passed = queue[0]
                if passed:
                    sent = descriptors.send(self._sock, [data], passed)
                else:
                    sent = self._sock.sendmsg(self._next_buffers())
                self._went(sent)
        except BlockingIOError:
            pass
        except OSError:
            self._hears_nothing()
            return
        if not queue:
            self._loop.remove_writer(self._fd)
            self._tell_sent()
        if self._drained and not self.full:
            self._tell_drained()

    def _next_buffers(self) -> list[bytes | memoryview]:
        """Return what may leave in one call: up to the next that has descriptors."""
        buffers: list[bytes | memoryview] = []
        for data, passed in self._queue:
            if passed or len(buffers) == _BUFFERS_A_CALL:
                break
            buffers.append(data)
        return buffers

    def _went(self, sent: int) -> None:
        """Take `sent` bytes off the queue."""
        queue = self._queue
        self.queued_bytes -= sent
        while sent or (queue and not queue[0][0]):
            data, passed = queue.popleft()
            self.waiting_descriptors -= len(passed)
            for each in passed:
                os.close(each)
            if sent < len(data):
                queue.appendleft((memoryview(data)[sent:], []))
                return
            sent -= len(data)

    def _tell_sent(self) -> None:
        waiting, self._sent = self._sent, []
        for tell in waiting:
            tell()

    def _tell_drained(self) -> None:
        waiting, self._drained = self._drained, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    def _hears_nothing(self) -> None:
        """Take note that the peer takes nothing more; its end comes by reading."""
        self._deaf = True
        self._drop_queue()
        self.resume()  # or a reader that is paused would never hear of it

    def _drop_queue(self) -> None:
        if self._queue:
            self._loop.remove_writer(self._fd)
        for _, passed in self._queue:
            for each in passed:
                os.close(each)
        self._queue.clear()
        self.queued_bytes = self.waiting_descriptors = 0
        self._tell_sent()
        self._tell_drained()

    # ---- the end ---------------------------------------------------------------------------------

    def close(self, error: SiraError | None = None) -> None:
        """Close the socket, what waits unsent; `lost` and the peer are told `error`.

        A second call does nothing.
        """
        if self.closed:
            return
        if error is not None and not self._queue:
            self.send(STATUS, 0, rich_status(error).SerializeToString())
        self.closed = True
        if self._reading:
            self._loop.remove_reader(self._fd)
        self._drop_queue()
        self._received.close()
        self._sock.close()
        self._lost(error)
