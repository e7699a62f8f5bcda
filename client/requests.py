"""Asking: requests and their replies.

A request is a quiet publish (only its refusal is told) with a private reply topic. All replies of a
connection come through one subscription and are matched by `stream_id`, the id of the request.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

from sira import _native
from sira._native import new_id
from sira.client.answers import Answers
from sira.client.connection import Connection
from sira.client.deadline import Deadline
from sira.client.lineage import id_text, lineage
from sira.client.message import Message
from sira.client.replies import DIRECT_LANE, Pending, PendingThread, ReplyBox
from sira.client.reply_stream import ReplyStream, request_options
from sira.client.requests_here import RequestsHere
from sira.kernel.errors import (
    NodeDraining,
    OutcomeUnknown,
    QueueFull,
    QuotaExceeded,
    RateLimited,
    SiraError,
    Unreachable,
)

REQUEST_S = 10.0
"""How long a request takes at most, where its caller says nothing."""


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
        self._thread = threading.get_ident()
        self._pending: dict[bytes, Pending | PendingThread] = connection.direct.waiting
        self._replies = ReplyBox(
            connection, message_type, hand_out=self._hand_out, opened_again=self._opened_again
        )
        self.here = RequestsHere(connection, self._replies, self._give)
        connection.incoming.after_frame = self._hand_out
        connection.direct.hand_out = self._hand_out
        connection.on_lost.append(self._lost)
        connection.on_refused.append(self._refused)

    def _hand_out(self) -> None:
        """Give the replies that have come to those who wait. In any thread."""
        replies = self._replies
        try:
            while (message := replies.pop()) is not None:
                self._give(message)
        finally:
            if self._connection.direct.bells is not None:
                replies.arm()  # any mailbox that looks at a link may find replies there

    def _give(self, message: _native.Message) -> None:
        pending = self._pending.get(message.stream_id_bytes)
        if pending is None:
            return
        if type(pending) is PendingThread or threading.get_ident() == self._thread:
            pending.reply(message)
        else:
            self._connection.loop.call_soon_threadsafe(pending.reply, message)

    def _refused(self, error: SiraError) -> None:
        for pending in list(self._pending.values()):
            if not pending.past_node:
                pending(error)

    def _lost(self) -> None:
        for pending in list(self._pending.values()):
            if pending.past_node and self._connection.ended is None:
                continue  # who was asked may answer past the node, too
            if pending.idempotent:
                pending.fail(Unreachable("the connection was lost before the reply came"))
            else:
                pending.fail(
                    OutcomeUnknown(
                        "the connection was lost before the reply came",
                        help="say idempotent=True when doing it twice does no harm",
                    )
                )

    def _opened_again(self) -> None:
        """Have asked again what was asked past the node that went, and may be asked twice.

        Its reply may have come by the next node before this client was there to get it. What may
        not be asked twice waits on: whoever was asked may still be at work.
        """
        for pending in list(self._pending.values()):
            if pending.past_node and pending.idempotent:
                pending.fail(Unreachable("the node was lost before the reply came"))

    def abandon(self, begins: str, error: SiraError, *, repeatable_only: bool) -> None:
        """Have the requests fail that wait on topics which begin so: who served them is gone.

        Args:
            repeatable_only: those alone that may be asked twice.
        """
        for pending in list(self._pending.values()):
            if pending.topic.startswith(begins) and (pending.idempotent or not repeatable_only):
                pending.fail(error)

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
            pending = Pending(self._connection.loop, idempotent, topic)
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
        pending: Pending,
        fields: dict[str, Any],
        loan: _native.ShmChunk | None,
    ) -> Message:
        connection, outbox = self._connection, self._connection.outgoing.outbox
        message_id = new_id()
        future = pending.future
        assert future is not None, "nobody else lets it go"
        timer = lane = None
        try:
            while True:
                if outbox.links:
                    if connection.direct.waits(topic):
                        await connection.direct.answered(topic, deadline)
                    if self._post(topic, body, message_id, deadline, pending, fields, loan):
                        lane = DIRECT_LANE
                        break
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
        reply.context = lane
        return reply  # or its synchronous twin, as configure() was told

    def post_on_loop(
        self,
        topic: str,
        body: _native.Body,
        *,
        deadline: Deadline,
        fields: dict[str, Any],
        loan: _native.ShmChunk | None,
    ) -> asyncio.Future[Message] | None:
        """Ask past the node, at once; what is returned is the reply. None: for `request` to do."""
        connection, message_id = self._connection, new_id()
        if not connection.outgoing.outbox.links or connection.direct.waits(topic):
            return None
        pending = Pending(connection.loop, False, topic)
        if not self._post(topic, body, message_id, deadline, pending, fields, loan):
            return None
        future = pending.future
        assert future is not None, "it was made just now"
        timer: asyncio.TimerHandle | None = None
        if deadline.timeout_s is not None:
            timer = connection.loop.call_at(
                deadline.at_s, self._expire, pending, deadline, topic, message_id
            )

        def over(done: asyncio.Future[Message]) -> None:
            self._pending.pop(message_id, None)
            if timer is not None:
                timer.cancel()
            if not done.cancelled() and done.exception() is None:
                done.result().context = DIRECT_LANE

        future.add_done_callback(over)
        return future

    def _post(
        self,
        topic: str,
        body: _native.Body,
        message_id: bytes,
        deadline: Deadline,
        pending: Pending,
        fields: dict[str, Any],
        loan: _native.ShmChunk | None,
    ) -> bool:
        """Ask past the node, if that can be done now."""
        if not self._replies.takes:
            return False
        direct, reply_to = self._connection.direct, self._replies.topic
        options = request_options(message_id, reply_to, deadline, lineage(), fields)
        posted = False
        try:
            self._pending[message_id] = pending
            outbox = self._connection.outgoing.outbox
            posted = outbox.direct(topic, body, options, loan) is not None
        finally:
            if not posted:
                self._pending.pop(message_id, None)
        if not posted:
            return False
        pending.past_node = deadline.timeout_s is not None
        if direct.bells is not None:
            direct.bells.needed()
        return True

    def _expire(self, pending: Pending, deadline: Deadline, topic: str, key: bytes) -> None:
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
