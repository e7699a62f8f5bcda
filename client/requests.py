"""Asking: requests and their replies.

A request is a quiet publish (only its refusal is told) with a private reply topic. All replies of a
connection come through one subscription and are matched by `stream_id`, the id of the request.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Iterator
from typing import Any, cast

from sira import _native
from sira._native import new_id
from sira.client.answers import FINAL, Answers
from sira.client.asked import Asked
from sira.client.connection import Connection
from sira.client.deadline import Deadline
from sira.client.lineage import id_text, is_first, lineage
from sira.client.local.bells import Bells, Waiter, keep, waiter_here
from sira.client.message import Message, SyncMessage
from sira.client.replies import Pending, PendingThread, ReplyBox
from sira.client.reply_stream import ReplyStream, request_options
from sira.kernel import lanes
from sira.kernel.errors import (
    NodeDraining,
    OutcomeUnknown,
    QueueFull,
    QuotaExceeded,
    RateLimited,
    SiraError,
    Unreachable,
)

DIRECT_LANE = lanes.NAMES[lanes.SHM]  # `Message.context` of a reply to what went past the node


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
        connection.incoming.after_frame = self._hand_out
        connection.direct.hand_out = self._hand_out
        connection.on_lost.append(self._lost)
        connection.on_refused.append(self._refused)

    def _hand_out(self) -> None:
        """Give the replies that have come to those who wait. In any thread."""
        replies = self._replies
        while (message := replies.pop()) is not None:
            self._give(message)
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

    @property
    def _takes_replies(self) -> bool:
        """Whether replies come. A box that is to be opened again takes those past the node."""
        live = self._replies.live
        return live is not None and (live.done() or not self._connection.is_up)

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
        if not self._takes_replies:
            return False
        direct, reply_to = self._connection.direct, self._replies.topic
        options = request_options(message_id, reply_to, deadline, lineage(), fields)
        self._pending[message_id] = pending
        if self._connection.outgoing.outbox.direct(topic, body, options, loan) is None:
            del self._pending[message_id]
            return False
        pending.past_node = deadline.timeout_s is not None
        if direct.bells is not None:
            direct.bells.needed()
        return True

    def ask_here(
        self,
        topic: str,
        body: _native.Body,
        *,
        timeout_s: float | None,
        until_s: float,
        idempotent: bool,
        fields: dict[str, Any],
    ) -> SyncMessage | None:
        """Ask past the node, and wait for the reply in this thread; None: ask by the loop.

        Args:
            until_s: of `time.monotonic`, when `timeout_s` is over.
        Raises: as `request`, but for what is harmless to ask again: that is for the loop.
        """
        bells = self._connection.direct.bells
        if bells is None or not self._takes_replies:
            return None
        message_id, pending = new_id(), None
        if not fields and is_first() and (timeout_s is None or timeout_s > 0):
            pending = PendingThread(bells.native, topic, idempotent, timeout_s is not None)
            found = bells.native.ask(
                self._connection.outgoing.outbox,
                topic,
                body,
                message_id,
                self._replies,
                self._replies.topic,
                timeout_s,
                pending,
            )
            if isinstance(found, _native.Message):
                found.context = DIRECT_LANE
                return cast(SyncMessage, found)
            if found is None:
                pending = None
            else:
                for each in found:
                    self._give(each)
        waiter = waiter_here()
        if pending is None:
            pending = self._post_here(
                message_id, waiter, topic, body, timeout_s, idempotent, fields
            )
        if pending is None:
            keep(waiter)
            return None
        pending.waiter = waiter
        try:
            reply = self._wait_here(bells, pending, message_id, waiter, until_s)
        except Unreachable:
            if idempotent:
                return None
            raise
        finally:
            del self._pending[message_id]  # first: the loop has nothing to watch for because of it
            bells.leave(waiter)
            keep(waiter)
        if reply is None:
            raise self.late_here(pending, message_id, timeout_s)
        return reply

    def post_here(
        self,
        topic: str,
        body: _native.Body,
        *,
        timeout_s: float | None,
        fields: dict[str, Any],
        loan: _native.ShmChunk | None,
    ) -> Asked | None:
        """Ask past the node, in this thread; the reply is waited for later. None: by the loop."""
        until_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
        message_id = new_id()
        pending = self._post_here(message_id, None, topic, body, timeout_s, False, fields, loan)
        if pending is None:
            return None
        return Asked(self, pending, message_id, timeout_s=timeout_s, until_s=until_s)

    def _post_here(
        self,
        message_id: bytes,
        waiter: Waiter | None,
        topic: str,
        body: _native.Body,
        timeout_s: float | None,
        idempotent: bool,
        fields: dict[str, Any],
        loan: _native.ShmChunk | None = None,
    ) -> PendingThread | None:
        """Post a request; it is among those that wait then. None: it did not go past the node."""
        connection, box = self._connection, self._replies
        outbox, left_s = connection.outgoing.outbox, math.inf if timeout_s is None else timeout_s
        if connection.direct.bells is None or not self._takes_replies or not left_s > 0:
            return None
        pending = PendingThread(waiter, topic, idempotent, timeout_s is not None)
        self._pending[message_id] = pending
        posted, origin = False, lineage()
        try:
            if fields or origin:
                deadline = Deadline(timeout_s, connection.loop)
                options = request_options(message_id, box.topic, deadline, origin, fields)
                posted = outbox.direct(topic, body, options, loan, left_s) is not None
            else:
                posted = outbox.ask(topic, body, message_id, box.topic, timeout_s, loan)
        finally:
            if not posted:
                del self._pending[message_id]
        return pending if posted else None

    def wait_here(
        self, pending: PendingThread, message_id: bytes, until_s: float
    ) -> SyncMessage | None:
        """Wait in this thread for the reply to what `post_here` posted.

        Returns: None: it did not come until then.
        Raises:
            SiraError: as `request`.
        """
        bells, waiter = self._connection.direct.bells, waiter_here()
        assert bells is not None, "it was posted past the node"
        pending.waiter = waiter
        try:
            return self._wait_here(bells, pending, message_id, waiter, until_s)
        finally:
            pending.waiter = None
            if pending.answer is not None or pending.error is not None:
                self.forget(message_id)
            bells.leave(waiter)
            keep(waiter)

    def _wait_here(
        self,
        bells: Bells,
        pending: PendingThread,
        message_id: bytes,
        waiter: Waiter,
        until_s: float,
    ) -> SyncMessage | None:
        box = self._replies
        while True:
            waiter.woken = False
            if pending.answer is not None:
                reply: SyncMessage = pending.answer
                reply.context = DIRECT_LANE
                return reply
            if pending.error is not None:
                raise pending.error
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return None
            message = bells.take(waiter, box, left_s)
            if message is not None:
                if message.stream_id_bytes == message_id and message.reply_kind == FINAL:
                    message.context = DIRECT_LANE
                    pending.answer = message
                    return cast(SyncMessage, message)  # `message_type` said so
                self._give(message)

    def late_here(
        self, pending: PendingThread, message_id: bytes, timeout_s: float | None
    ) -> SiraError:
        """Return what a request raises whose time is over."""
        late = Deadline(timeout_s, self._connection.loop)
        return self._connection.late(late, f"request to {pending.topic}", id=id_text(message_id))

    def forget(self, message_id: bytes) -> None:
        """Hand no reply to that request out any more. From any thread."""
        self._pending.pop(message_id, None)

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
