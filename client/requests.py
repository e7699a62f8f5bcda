"""Asking: requests, their replies, and streams of replies.

A request is a quiet publish (only its refusal is told) with a private reply topic. All replies of a
connection come through one subscription and are matched by `stream_id`, the id of the request. A
stream of replies has a subscription of its own, so that a slow reader holds up nobody else.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Iterator
from typing import Any, Self

from sira import _native
from sira.client.answers import ERROR, FINAL, TYPE_STREAM_END, Answers
from sira.client.connection import Connection
from sira.client.deadline import Deadline
from sira.client.incoming import CREDIT_BYTES
from sira.client.lineage import Lineage, id_text, lineage
from sira.client.message import Message
from sira.client.outgoing import Outcome, as_error
from sira.client.subscription import OPEN_S, Subscription
from sira.kernel.errors import (
    NodeDraining,
    OutcomeUnknown,
    QueueFull,
    QuotaExceeded,
    RateLimited,
    SiraError,
    StreamTruncated,
    Unreachable,
    decode,
)
from sira.v1 import bus_pb2

# Replies are handed out as they come: the window never fills unless this process stands still.
_WINDOW_MESSAGES = 4096
_STREAM_WINDOW_MESSAGES = 256
_WAIT_MS_MAX = (1 << 32) - 1


class _Pending:
    """A request that waits: the ticket of its publish, and where its reply goes."""

    __slots__ = ("future", "idempotent", "refused")

    def __init__(self, loop: asyncio.AbstractEventLoop, idempotent: bool) -> None:
        self.future: asyncio.Future[Any] | None = loop.create_future()
        self.idempotent = idempotent
        self.refused = False  # by the node: nobody was asked

    def __call__(self, outcome: Outcome) -> None:
        """Take the refusal of the publish."""
        if not isinstance(outcome, _native.Receipt):
            self.refused = True
            self.fail(as_error(outcome))

    def fail(self, error: SiraError) -> None:
        if self.future is not None and not self.future.done():
            self.future.set_exception(error)

    def reply(self, message: _native.Message) -> None:
        if self.future is None or self.future.done():
            return
        if message.reply_kind == ERROR:
            self.future.set_exception(decode(message.error))
        elif message.reply_kind == FINAL or message.stream_end:
            self.future.set_result(message)


class _ReplyBox(_native.Mailbox):
    """The subscription that all replies come through."""

    number = 0

    def __init__(self, connection: Connection, message_type: type[_native.Message]) -> None:
        self._connection = connection
        self.topic = f"_reply.{secrets.token_hex(16)}"
        self.live: asyncio.Future[None] | None = None
        self.configure(
            message_type=message_type,
            context=None,
            credit_every=_WINDOW_MESSAGES // 2,
            wake=None,
            on_credit=connection.incoming.credit_due,
            credit_bytes=CREDIT_BYTES,
        )

    @property
    def mailbox(self) -> _native.Mailbox:
        return self

    def open_item(self) -> bus_pb2.Open:
        return bus_pb2.Open(pattern=self.topic, window_messages=_WINDOW_MESSAGES)

    def opened(self, opened: bus_pb2.Opened) -> None:
        if self.live is not None and not self.live.done():
            self.live.set_result(None)

    def ended(self, error: SiraError | None) -> None:
        if self.live is not None and not self.live.done():
            self.live.set_exception(error or OutcomeUnknown("the reply topic was closed"))
            self.live.exception()  # seen: nobody may be waiting
        self.live = None

    def interrupted(self) -> None:
        while self.pop() is not None:
            pass
        self.take_credit()
        if self.live is not None and self.live.done():
            # A request sent before the topic is open again would lose its reply.
            self.live = self._connection.loop.create_future()


class Requests:
    """The requests of one connection. Belongs to its loop."""

    def __init__(
        self,
        connection: Connection,
        answers: Answers,
        message_type: type[_native.Message] = Message,
    ) -> None:
        self._connection = connection
        self._answers = answers
        self._message_type = message_type
        self._pending: dict[bytes, _Pending] = {}  # by the id of the request
        self._replies = _ReplyBox(connection, message_type)
        connection.incoming.after_frame = self._hand_out
        connection.on_lost.append(self._lost)
        connection.on_refused.append(self._refused)

    def _hand_out(self) -> None:
        while (message := self._replies.pop()) is not None:
            pending = self._pending.get(message.stream_id_bytes)
            if pending is not None:
                pending.reply(message)

    def _refused(self, error: SiraError) -> None:
        for pending in list(self._pending.values()):
            pending(error)

    def _lost(self) -> None:
        for pending in list(self._pending.values()):
            if pending.idempotent:
                pending.fail(Unreachable("the connection was lost before the reply came"))
            else:
                pending.fail(
                    OutcomeUnknown(
                        "the connection was lost before the reply came",
                        help="say idempotent=True when doing it twice does no harm",
                    )
                )

    async def ready(self, deadline: Deadline) -> str:
        """Open the subscription that replies come through; return its topic."""
        box = self._replies
        if box.live is None:
            await self._connection.up(deadline)
        if box.live is None:  # nobody else began meanwhile
            box.live = self._connection.loop.create_future()
            self._connection.want_subscribe()
            self._connection.incoming.add(box)
        if not box.live.done():
            try:
                async with asyncio.timeout(deadline.timer_s()):
                    await asyncio.shield(box.live)
            except TimeoutError:
                raise self._connection.late(deadline, "opening the reply topic") from None
        return box.topic

    async def request(
        self,
        topic: str,
        body: _native.Body,
        *,
        deadline: Deadline,
        idempotent: bool,
        fields: dict[str, Any],
        loan: _native.ShmChunk | None = None,
    ) -> Message:
        """Publish a request and return its final reply.

        Args:
            loan: where the body lies already.
        Raises:
            NoMatch: nobody listens to the topic. HandlerFailed: the handler raised.
            Timeout: no reply in time. OutcomeUnknown: the connection was lost on the way.
            SiraError: what the handler refused with, or the node.
        """
        delays_s: Iterator[float] | None = None
        while True:
            pending = _Pending(self._connection.loop, idempotent)
            try:
                return await self._once(topic, body, deadline, pending, fields, loan)
            except (RateLimited, QuotaExceeded) as error:
                wait_s = self._connection.retry.limit_delay_s(error, self._connection.rng)
                harmless = pending.refused or idempotent  # else a handler has begun
                if not harmless or wait_s is None or deadline.left_s() <= wait_s:
                    raise
                await asyncio.sleep(wait_s)
            except (Unreachable, NodeDraining) as error:
                # Refused by a node that goes down: nobody got it.
                harmless = idempotent or isinstance(error, NodeDraining)
                again = harmless and self._connection.retry.requests
                if delays_s is None:
                    delays_s = self._connection.retry.delays_s(self._connection.rng)
                if not again or deadline.left_s() <= (delay_s := next(delays_s)):
                    raise
                self._connection.check()
                await asyncio.sleep(delay_s)

    async def _once(
        self,
        topic: str,
        body: _native.Body,
        deadline: Deadline,
        pending: _Pending,
        fields: dict[str, Any],
        loan: _native.ShmChunk | None,
    ) -> Message:
        connection, outbox = self._connection, self._connection.outgoing.outbox
        message_id = _native.new_id()
        future = pending.future
        assert future is not None, "nobody else lets it go"
        timer = None
        try:
            while True:
                if not outbox.room:
                    await connection.outgoing.room(deadline)
                # Asked each time: who waited for room may have lost the connection meanwhile.
                box = self._replies
                if box.live is None or not box.live.done():
                    await self.ready(deadline)
                options = request_options(message_id, box.topic, deadline, lineage(), fields)
                # Known before it is sent: the connection may be lost on that very occasion.
                self._pending[message_id] = pending
                push = outbox.push if len(self._pending) > 1 else connection.outgoing.push_alone
                try:
                    push(topic, body, options, pending, loan=loan)
                    break
                except QueueFull:  # a large body, and those before it are not on their way yet
                    del self._pending[message_id]
                    await connection.outgoing.transfer_room(deadline)
            if deadline.timeout_s is not None:
                timer = connection.loop.call_at(
                    deadline.at_s, self._expire, pending, deadline, topic, message_id
                )
            reply: Message = await future
        except BaseException:
            outbox.cancel(pending)
            raise
        finally:
            self._pending.pop(message_id, None)
            # The outbox remembers the ticket for a while; it must not keep the reply alive.
            pending.future = None
            if timer is not None:
                timer.cancel()
        return reply  # or its synchronous twin, as configure() was told

    def _expire(self, pending: _Pending, deadline: Deadline, topic: str, key: bytes) -> None:
        pending.fail(self._connection.late(deadline, f"request to {topic}", id=id_text(key)))

    def stream(
        self, topic: str, body: _native.Body, *, timeout_s: float | None, fields: dict[str, Any]
    ) -> ReplyStream:
        """Return the replies of a request, as they will come."""
        return ReplyStream(
            self._connection,
            self._answers,
            topic,
            body,
            timeout_s,
            fields,
            message_type=self._message_type,
        )


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
        await self._connection.outgoing.push(
            self._topic, self._body, options, self._ticket, self._deadline
        )
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
