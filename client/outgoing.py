"""What a client publishes, on its way: the Outbox and the Publish stream that it drives.

Refuses to know what a message says. The writer takes frames from the outbox as the stream takes
them, so what is pending while one is on its way leaves together in the next; a message that is
alone leaves at once, before the push returns where the pusher knows that it is (`push_alone`). The
reader feeds receipts and chunk credits back.

Tickets are callables: `ticket(outcome)` with a Receipt, an encoded Error, or a SiraError.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Generator
from typing import Any, Protocol

from sira import _native
from sira.client.deadline import Deadline
from sira.client.local.arenas import shm_bytes_min
from sira.client.transport import Stream
from sira.kernel.errors import Internal, OutcomeUnknown, QueueFull, SiraError, decode

_log = logging.getLogger("sira.client")

# Beside a larger frame nothing rides: it would have to be copied.
_BESIDE_BYTES_MAX = 128 << 10

Outcome = _native.Receipt | bytes | SiraError
Ticket = Callable[[Outcome], None]


class Owner(Protocol):
    """The connection, as far as this file needs it."""

    loop: asyncio.AbstractEventLoop

    def check(self) -> None:
        """Raise when nothing will be sent any more."""

    def want_publish(self) -> None:
        """Open a Publish stream when there is none."""

    def stream_lost(self, stream: Stream, error: SiraError | None) -> None:
        """Take note that a stream is over."""

    def is_renewed(self, error: SiraError) -> bool:
        """Whether `error` refuses what was shown, and there is something newer to show."""


class Answer:
    """A ticket that somebody waits for."""

    __slots__ = ("future",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[_native.Receipt] = loop.create_future()

    def __call__(self, outcome: Outcome) -> None:
        """Settle; an answer nobody waits for any more is let go."""
        if self.future.done():
            return
        if isinstance(outcome, _native.Receipt):
            self.future.set_result(outcome)
        else:
            self.future.set_exception(as_error(outcome))


def as_error(outcome: bytes | SiraError) -> SiraError:
    """Return the error of an outcome that is no receipt."""
    return outcome if isinstance(outcome, SiraError) else decode(outcome)


def fault_of(step: Callable[[Stream], Any], fault: Exception) -> SiraError:
    """Log a fault of the SDK itself, and return what ends the stream that it happened on."""
    _log.error("fault in %s", step.__qualname__, exc_info=fault)
    return Internal(f"{type(fault).__name__} in the SDK: {fault}")


class _NextTurn:
    """Awaiting it lets the event loop run once."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        yield


NEXT_TURN = _NextTurn()
# A message past the node waits for nothing: after so many the loop has a turn all the same.
IN_A_ROW_MAX = 64


class Outgoing:
    """The outbox of one connection and the stream under it. Belongs to the connection's loop.

    `outbox.push` alone may be called from another thread, which `wake` provides for.
    """

    def __init__(self, owner: Owner, *, source: str) -> None:
        self._owner = owner
        self._thread = threading.get_ident()
        self.outbox = _native.Outbox(source=source, wake=self._wake, lend_bytes_min=shm_bytes_min())
        self._wants_room: list[asyncio.Future[None]] = []
        self._pushing_alone = False
        self._writer: _native.Stepper | None = None
        self._reader: asyncio.Task[None] | None = None
        self.stream: Stream | None = None
        # Gives what rides beside a frame, b"": nothing.
        self.riding: Callable[[], bytes] | None = None

    def _wake(self) -> None:
        """Called by the outbox when it was idle and has something now."""
        if threading.get_ident() != self._thread:
            self._owner.loop.call_soon_threadsafe(self._rouse)
        elif not self._pushing_alone:
            self._rouse()

    def _rouse(self) -> None:
        if self._writer is not None:
            self._writer.wake()
        elif self.stream is None:
            self._owner.want_publish()

    def push_alone(
        self,
        topic: str,
        body: _native.Body,
        options: _native.Options | None,
        ticket: Any,
        *,
        loan: _native.ShmChunk | None = None,
    ) -> bytes:
        """Queue one message that no other follows at once; return its id.

        Its writing begins before this returns, where nothing else is being written. On the loop's
        thread only. Raises as `outbox.push`.
        """
        self._pushing_alone = True
        try:
            message_id = self.outbox.push(topic, body, options, ticket, loan=loan)
        finally:
            self._pushing_alone = False
        if self._writer is not None:
            if not self.outbox.links or self.outbox.ready:  # else it went past the node
                self._writer.go()
        else:
            self._rouse()
        return message_id

    async def room(self, deadline: Deadline) -> None:
        """Return when the outbox takes another message.

        Raises:
            Timeout: no room before the deadline. Unreachable: closed meanwhile.
        """
        self._rouse()
        while not self.outbox.room:
            await self._room_changed(deadline)

    async def transfer_room(self, deadline: Deadline) -> None:
        """Return when the outbox takes another message of any size.

        Only a push can tell that a body is large: where one raised QueueFull, this is what to wait
        for. Raises Timeout.
        """
        self._rouse()
        while not (self.outbox.room and self.outbox.transfer_room):
            await self._room_changed(deadline)

    async def push(
        self,
        topic: str,
        body: _native.Body,
        options: _native.Options | None,
        ticket: Any,
        deadline: Deadline,
        loan: _native.ShmChunk | None = None,
    ) -> bytes:
        """Queue one message when there is room for its size; returns its id. Raises Timeout."""
        while True:
            if not self.outbox.room:
                await self.room(deadline)
            try:
                return self.outbox.push(topic, body, options, ticket, loan=loan)
            except QueueFull:
                await self.transfer_room(deadline)

    async def _room_changed(self, deadline: Deadline) -> None:
        waiter: asyncio.Future[None] = self._owner.loop.create_future()
        self._wants_room.append(waiter)
        try:
            async with asyncio.timeout(deadline.timer_s()):
                await waiter
        except TimeoutError:
            raise deadline.error("no room to publish") from None
        self._owner.check()  # room is made at the end as well, for nothing

    def _made_room(self) -> None:
        waiting, self._wants_room = self._wants_room, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    # ---- the stream ------------------------------------------------------------------------------

    def start(self, stream: Stream) -> None:
        """Drive `stream` until it is lost or stopped."""
        assert self.stream is None, "one Publish stream at a time"
        self.stream = stream
        loop = self._owner.loop
        self._writer = _native.Stepper("sira-publish-write", loop)
        self._writer.begin(self._run(self._write, stream))
        self._reader = loop.create_task(self._run(self._read, stream), name="sira-publish-read")

    def stop(self) -> None:
        """Give the stream up; what is unanswered stays in the outbox."""
        stream, self.stream = self.stream, None
        if self._writer is not None:
            self._writer.cancel()
        if self._reader is not None:
            self._reader.cancel()
        self._writer = self._reader = None
        if stream is not None:
            stream.cancel()

    async def _run(self, step: Callable[[Stream], Any], stream: Stream) -> None:
        error: SiraError | None = None
        try:
            await step(stream)
        except SiraError as caught:
            if step == self._write:
                return  # the reader hears the node's last words, and then why it ended
            error = caught
        except Exception as fault:  # ours: a client that hears nothing more would not be told
            error = fault_of(step, fault)
        if self.stream is stream:
            self._owner.stream_lost(stream, error)

    async def _write(self, stream: Stream) -> None:
        outbox, now_ns, write = self.outbox, _native.now_ns, stream.write
        resting = self._writer
        assert resting is not None, "started"
        while True:
            frame = outbox.take(now_ns())
            if self._wants_room and outbox.room:
                self._made_room()
            if frame is not None:
                if len(frame) <= _BESIDE_BYTES_MAX and self.riding is not None:
                    frame = self.riding() + frame  # first: it may make the room that this needs
                await write(frame)
                continue
            await resting

    async def _read(self, stream: Stream) -> None:
        while (frame := await stream.read()) is not None:
            self.take_answers(frame)

    def take_answers(self, frame: bytes) -> None:
        """Take receipts and chunk credits, whichever stream brought them."""
        outbox = self.outbox
        for ticket, outcome in outbox.feed(frame):
            try:
                ticket(outcome)
            except Exception as fault:  # the others of this frame are told all the same
                fault_of(self._read, fault)
        if self._wants_room and outbox.room:
            self._made_room()
        if outbox.ready and self._writer is not None:
            self._writer.wake()

    @property
    def answered(self) -> int:
        """Messages that a node has answered so far."""
        return self.outbox.accepted + self.outbox.refused

    # ---- losing the connection, and the end ------------------------------------------------------

    def rewind(self) -> int:
        """Queue what is unanswered again; what cannot be sent twice is told so.

        Returns:
            How many messages the next stream repeats first.
        """
        repeats, unrepeatable = self.outbox.rewind()
        for ticket in unrepeatable:
            if ticket is not None:
                ticket(OutcomeUnknown("the connection was lost while the message was on its way"))
        return repeats

    def give_up(self, error: SiraError) -> None:
        """Drop all that waits; each ticket is told `error`."""
        for ticket in self.outbox.clear():
            if ticket is not None:
                ticket(error)
        self._made_room()

    async def finish(self, deadline: Deadline) -> None:
        """Send what is queued, wait for its receipts, end the stream in order."""
        outbox = self.outbox
        # A writer that does not rest holds a frame that the stream has not taken yet.
        while self.stream is not None and (
            outbox.unanswered or outbox.ready or self._writer is None or not self._writer.resting
        ):
            if deadline.left_s() <= 0:
                return
            await asyncio.sleep(0.001)
        stream, self.stream = self.stream, None
        writer, reader = self._writer, self._reader
        if stream is None or writer is None or reader is None:
            return
        await stream.done_writing()
        await asyncio.wait([reader], timeout=deadline.left_s())
        writer.cancel()
