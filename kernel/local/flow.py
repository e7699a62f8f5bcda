"""The messages of one call at one end: windows both ways, and what waits to be read.

A writer may send while its window is open, so one message may be longer than the window; the
reader gives back what it has taken. So a stream that nobody reads holds its own messages up and
nobody else's.
"""

from __future__ import annotations

import asyncio
from collections import deque

from sira.kernel.errors import ProtocolError
from sira.kernel.local.channel import Channel
from sira.kernel.local.record import HALF_CLOSE, MESSAGE, WINDOW, grant


class FlowOver(Exception):
    """The call is over: nothing more goes out."""


class Flow:
    """One call on one channel. One reader and one writer at a time. Belongs to the loop."""

    __slots__ = (
        "_channel",
        "_due_bytes",
        "_inbox",
        "_loop",
        "_open_bytes",
        "_over",
        "_reader",
        "_window_bytes",
        "_writer",
        "finished",
        "number",
        "receivable_bytes",
        "unread_bytes",
    )

    def __init__(
        self,
        channel: Channel,
        loop: asyncio.AbstractEventLoop,
        number: int,
        *,
        out_bytes: int,
        in_bytes: int,
    ) -> None:
        """Begin with the windows that both sides have said.

        Args:
            number: of the call.
            out_bytes, in_bytes: what the other side takes unread, and what we do.
        """
        self.number = number
        self._channel, self._loop = channel, loop
        self._open_bytes = out_bytes
        self._window_bytes = self.receivable_bytes = in_bytes
        self._due_bytes = 0  # taken, and not given back yet
        self.unread_bytes = 0
        self._inbox: deque[bytes] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self.finished = False  # the other side sends no more
        self._over = False

    # ---- in --------------------------------------------------------------------------------------

    def arrived(self, body: bytes) -> None:
        """Take one message in.

        Raises:
            ProtocolError: nothing may come now.
        """
        if self.finished:
            raise ProtocolError("a message after the last one of its call")
        if self.receivable_bytes <= 0:
            raise ProtocolError("a message that no window is open for")
        self.receivable_bytes -= len(body)
        self.unread_bytes += len(body)
        self._inbox.append(body)
        self._wake_reader()

    def finish(self) -> None:
        """Take note that no more messages come."""
        self.finished = True
        self._wake_reader()

    async def read(self) -> bytes | None:
        """Return the next message; None: there are no more."""
        while not self._inbox:
            if self.finished:
                return None
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        body = self._inbox.popleft()
        size = len(body)
        self.unread_bytes -= size
        self._due_bytes += size
        if self._due_bytes * 2 >= self._window_bytes and not (self.finished or self._over):
            self._channel.send(WINDOW, self.number, grant(self._due_bytes))
            self.receivable_bytes += self._due_bytes
            self._due_bytes = 0
        return body

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    # ---- out -------------------------------------------------------------------------------------

    def granted(self, body_bytes: int) -> None:
        """Take note that the other side takes so many bytes more."""
        self._open_bytes += body_bytes
        if self._open_bytes > 0:
            self._wake_writer()

    async def write(self, body: bytes) -> None:
        """Send one message when its window is open and the channel not full.

        Raises:
            FlowOver: the call is over.
        """
        while self._open_bytes <= 0 or self._channel.full:
            if self._over:
                raise FlowOver
            if self._open_bytes > 0:
                await self._channel.drained()
                continue
            self._writer = self._loop.create_future()
            try:
                await self._writer
            finally:
                self._writer = None
        if self._over or self._channel.closed:
            raise FlowOver
        self._open_bytes -= len(body)
        self._channel.send(MESSAGE, self.number, body)

    def half_close(self) -> None:
        """Say that no more messages go out."""
        if not self._over:
            self._channel.send(HALF_CLOSE, self.number)

    def end(self) -> None:
        """Take note that the call is over: nothing goes out, nothing more comes."""
        self._over = True
        self.finish()
        self._wake_writer()

    def _wake_writer(self) -> None:
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)
