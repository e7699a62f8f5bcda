"""Answering: what `message.reply` does.

An answer is a publish to the private topic of whoever asked. It names the request twice: as the
stream it answers (`stream_id`) and as its cause.
"""

from __future__ import annotations

import asyncio
import sys
from collections import OrderedDict
from collections.abc import Coroutine
from typing import Any

from sira import _native
from sira.client.connection import Connection
from sira.client.deadline import Deadline
from sira.client.lineage import TRACING, lineage
from sira.client.outgoing import NEXT_TURN, Ticket, as_error
from sira.kernel.errors import BadRequest, QueueFull, SiraError, Unsupported
from sira.v1 import message_pb2

FINAL = message_pb2.REPLY_KIND_FINAL
PARTIAL = message_pb2.REPLY_KIND_PARTIAL
PROGRESS = message_pb2.REPLY_KIND_PROGRESS
ERROR = message_pb2.REPLY_KIND_ERROR
# The end of a stream that is no answer itself: a generator that has finished.
TYPE_STREAM_END = "sira.stream.end"
# Requests that are being answered in parts at the same time; of older ones the count is forgotten.
_STREAMS_MAX = 10_000


class Answers:
    """The way back of one connection (`message.context`)."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._outbox = connection.outgoing.outbox
        self._next_seq: OrderedDict[bytes, int] = OrderedDict()

    def push(
        self,
        message: _native.Message,
        body: _native.Body,
        *,
        kind: int,
        seq: int = 0,
        end: bool = True,
        priority: int | None = None,
        error: bytes = b"",
        type: str = "",  # noqa: A002  the envelope's own name
        ticket: Ticket | None = None,
        alone: bool = False,
    ) -> bytes:
        """Queue one answer; with a ticket its receipt is wanted. From any thread.

        Args:
            alone: nothing follows it at once, so that it is being sent on return; on the loop's
                thread only.

        Raises:
            BadRequest: the message did not ask for an answer, or the body cannot be sent.
        """
        reply_to = message.reply_to
        if not reply_to:
            raise BadRequest(
                f"message {message.id} on {message.topic} asks for no answer",
                help="only messages sent by request() have a reply_to",
            )
        options = _native.Options(
            reply_kind=kind,
            stream_id=message.id_bytes,
            stream_seq=seq,
            stream_end=end,
            priority=message.priority if priority is None else priority,
            error=error,
            type=type,
            quiet=ticket is None,
            **lineage(message),
        )
        outgoing = self._connection.outgoing
        push = outgoing.push_alone if alone else outgoing.outbox.push
        return push(reply_to, body, options, ticket)

    async def reply(
        self, message: _native.Message, body: _native.Body, *, end: bool, priority: int | None
    ) -> None:
        """Publish one answer; a part of a stream waits for its receipt, and cannot run ahead."""
        is_plain = end and priority is None and not self._next_seq and TRACING not in sys.modules
        if is_plain and self._outbox.answer(message, body, 0.0):  # as most are, past the node
            if self._connection.due():
                await NEXT_TURN
            return
        self._connection.check()
        if not self._connection.outgoing.outbox.room:
            block_s = self._connection.publish_block_s
            await self._connection.outgoing.room(Deadline(block_s, self._connection.loop))
        seq = self._take_seq(message.id_bytes, end)
        if end:
            try:
                await self.send(message, body, kind=FINAL, seq=seq, priority=priority)
            except BaseException:
                self._give_seq_back(message.id_bytes, seq)
                raise
            return
        settled: asyncio.Future[SiraError | None] = self._connection.loop.create_future()

        def ticket(outcome: _native.Receipt | bytes | SiraError) -> None:
            if not settled.done():
                settled.set_result(refusal(outcome))

        try:
            await self.send(
                message,
                body,
                kind=PARTIAL,
                seq=seq,
                end=False,
                priority=priority,
                ticket=ticket,
            )
        except BaseException:
            self._give_seq_back(message.id_bytes, seq)
            raise
        error = await settled
        if error is not None:
            raise error

    async def send(self, message: _native.Message, body: _native.Body, **fields: Any) -> None:
        """Queue one answer in its turn, as soon as there is room for its size. Raises Timeout.

        Args:
            fields: as `push` has them, but for `alone`.
        """
        outgoing, direct = self._connection.outgoing, self._connection.direct
        deadline = Deadline(self._connection.publish_block_s, self._connection.loop)
        if outgoing.outbox.links and direct.waits(message.reply_to):
            await direct.answered(message.reply_to, deadline)
        while True:
            if not outgoing.outbox.room:
                await outgoing.room(deadline)
            try:
                self.push(message, body, alone=self._connection.incoming.all_taken, **fields)
                return
            except QueueFull:  # a large body, and those before it are not on their way yet
                await outgoing.transfer_room(deadline)

    def reply_blocking(
        self, message: _native.Message, body: _native.Body, *, end: bool, priority: int | None
    ) -> None:
        """As `reply`, from a thread that is not the loop's."""
        outbox = self._outbox
        is_plain = end and priority is None and not self._next_seq and TRACING not in sys.modules
        if is_plain and outbox.answer(message, body):  # as most are, past the node
            return
        self._connection.check()
        waits = outbox.links and self._connection.direct.waits(message.reply_to)
        if end and outbox.room and not waits:
            seq = self._take_seq(message.id_bytes, end)
            try:
                try:
                    self.push(message, body, kind=FINAL, seq=seq, priority=priority)
                except QueueFull:
                    blocking(
                        self._connection,
                        self.send(message, body, kind=FINAL, seq=seq, priority=priority),
                    )
            except BaseException:
                self._give_seq_back(message.id_bytes, seq)
                raise
            return
        blocking(self._connection, self.reply(message, body, end=end, priority=priority))

    def _take_seq(self, request: bytes, end: bool) -> int:
        if end:
            return self._next_seq.pop(request, 0)
        seq = self._next_seq.get(request, 0)
        self._next_seq[request] = seq + 1
        if len(self._next_seq) > _STREAMS_MAX:
            self._next_seq.popitem(last=False)
        return seq

    def _give_seq_back(self, request: bytes, seq: int) -> None:
        """Let the next answer have the number of one that was not sent."""
        if seq or request in self._next_seq:
            self._next_seq[request] = seq

    async def acknowledge(
        self, message: _native.Message, *, negative: bool, delay_s: float
    ) -> None:
        """Refuse: without a log there is nothing to confirm."""
        self.acknowledge_blocking(message, negative=negative, delay_s=delay_s)

    def acknowledge_blocking(
        self, message: _native.Message, *, negative: bool, delay_s: float
    ) -> None:
        """Refuse: without a log there is nothing to confirm."""
        verb = "nack" if negative else "ack"
        raise Unsupported(
            f"{verb}: {message.topic} is not a durable topic",
            details={"feature": "durable topics", "topic": message.topic},
            help="messages of volatile topics are confirmed by being taken",
        )


def refusal(outcome: _native.Receipt | bytes | SiraError) -> SiraError | None:
    """Return the error of an outcome; None for a receipt."""
    return None if isinstance(outcome, _native.Receipt) else as_error(outcome)


def blocking(connection: Connection, coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on the connection's loop and wait for it in this thread."""
    asyncio.run_coroutine_threadsafe(coroutine, connection.loop).result()
