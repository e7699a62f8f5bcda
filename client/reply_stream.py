"""Streams of replies, and the envelope that a request has.

A stream of replies has a subscription of its own, so that a slow reader holds up nobody else.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable
from typing import Any, Self

from sira import _native
from sira.client.answers import ERROR, FINAL, TYPE_STREAM_END, Answers
from sira.client.connection import Connection
from sira.client.deadline import Deadline
from sira.client.lineage import Lineage, id_text, lineage
from sira.client.message import Message
from sira.client.outgoing import Outcome, as_error
from sira.client.subscription import OPEN_S, Subscription
from sira.kernel.errors import SiraError, StreamTruncated, decode

_STREAM_WINDOW_MESSAGES = 256
_WAIT_MS_MAX = (1 << 32) - 1


def request_options(
    message_id: bytes, reply_to: str, deadline: Deadline, origin: Lineage, fields: dict[str, Any]
) -> _native.Options:
    """Return the envelope of a request: it expires when nobody waits for its answer any more."""
    if "correlation_id" not in origin:
        origin["correlation_id"] = message_id
    if deadline.timeout_s is None:
        return _native.Options(id=message_id, reply_to=reply_to, quiet=True, **origin, **fields)
    left_s = deadline.left_s()
    limits: dict[str, Any] = {
        "ttl_ns": int(left_s * 1e9) or 1,
        "wait_ms": min(int(left_s * 1e3), _WAIT_MS_MAX),
    }
    if fields:
        limits.update(fields)
    return _native.Options(id=message_id, reply_to=reply_to, quiet=True, **origin, **limits)


class ReplyStream:
    """The replies to one request, in order, then the end. Iterate it, once.

    A reply that is missing in between raises `StreamTruncated`, as does a connection lost midway;
    an exception of the handler is raised where it happened, after the replies before it.
    """

    def __init__(
        self,
        connection: Connection,
        answers: Answers,
        topic: str,
        body: _native.Body,
        timeout_s: float | None,
        fields: dict[str, Any],
        *,
        message_type: type[_native.Message] = Message,
    ) -> None:
        self._connection = connection
        self._topic = topic
        self._body = body
        self._fields = fields
        self._deadline = Deadline(timeout_s, connection.loop)
        self._origin = lineage()
        self._id = _native.new_id()
        self._started = False
        self._over = False
        self._seq = 0
        self._ticket = self._settle  # one object: the outbox knows it by identity
        self._subscription = Subscription(
            connection,
            f"_reply.{secrets.token_hex(16)}",
            responder=answers,
            window_messages=_STREAM_WINDOW_MESSAGES,
            message_type=message_type,
            open_s=OPEN_S if timeout_s is None else min(OPEN_S, timeout_s),
        )

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __aenter__(self) -> Self:
        """Nothing is sent before the first reply is asked for."""
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Leave the stream; a handler that is still at it is told that nobody listens."""
        await self.aclose()

    async def aclose(self) -> None:
        """Leave the stream."""
        if self._over:
            return
        self._over = True
        if self._started:
            self._connection.on_lost.remove(self._lost)
            self._connection.outgoing.outbox.cancel(self._ticket)
        await self._subscription.close()

    def _settle(self, outcome: Outcome) -> None:
        if not isinstance(outcome, _native.Receipt):
            self._subscription.fail(as_error(outcome))

    def _lost(self) -> None:
        self._subscription.fail(self._truncated("the connection was lost"))

    async def _start(self) -> None:
        self._started = True
        self._connection.on_lost.append(self._lost)
        await self._subscription.open()
        options = request_options(
            self._id, self._subscription.pattern, self._deadline, self._origin, self._fields
        )
        outgoing, direct = self._connection.outgoing, self._connection.direct
        if outgoing.outbox.links and direct.waits(self._topic):
            await direct.answered(self._topic, self._deadline)
        await outgoing.push(self._topic, self._body, options, self._ticket, self._deadline)
        self._body = None

    async def __anext__(self) -> Message:
        """Return the next reply.

        Raises:
            StopAsyncIteration: the stream has ended as it should.
            StreamTruncated: a reply is missing; the details say which came.
            Timeout, NoMatch, HandlerFailed, SiraError
        """
        if self._over:
            raise StopAsyncIteration
        try:
            message = await self._next()
        except BaseException:
            await self.aclose()
            raise
        self._seq += 1
        if message.stream_end or message.reply_kind == FINAL:
            await self.aclose()
            if message.type == TYPE_STREAM_END:
                raise StopAsyncIteration
        return message

    async def _next(self) -> Message:
        if not self._started:
            await self._start()
        while True:
            message = await self._take()
            if message.stream_id == id_text(self._id):
                break  # what is not for us is a stranger's mistake
        if message.reply_kind == ERROR:
            raise decode(message.error)
        if message.stream_seq != self._seq:
            raise self._truncated(
                f"reply {message.stream_seq} came where {self._seq} was due",
                came=str(message.stream_seq),
            )
        return message

    async def _take(self) -> Message:
        waiting: Awaitable[Message] = self._subscription.next()
        try:
            async with asyncio.timeout(self._deadline.timer_s()):
                return await waiting
        except TimeoutError as error:
            if isinstance(error, SiraError):
                raise
            what = f"replies of {self._topic}"
            raise self._connection.late(self._deadline, what, kept=str(self._seq)) from None
        except StopAsyncIteration:
            raise self._truncated("the subscription was closed") from None

    def _truncated(self, why: str, **details: str) -> SiraError:
        return StreamTruncated(
            f"replies of {self._topic} are cut after {self._seq}: {why}",
            details={"kept": str(self._seq), "id": id_text(self._id), **details},
        )
