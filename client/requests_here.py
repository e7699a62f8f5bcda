"""Asking past the node in the calling thread: what the synchronous SDK does without its loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, cast

from sira import _native
from sira._native import new_id
from sira.client.answers import FINAL
from sira.client.asked import Asked
from sira.client.connection import Connection
from sira.client.deadline import Deadline
from sira.client.lineage import id_text, is_first, lineage
from sira.client.local.bells import Bells, Waiter, keep, waiter_here
from sira.client.message import SyncMessage
from sira.client.replies import DIRECT_LANE, PendingThread, ReplyBox
from sira.client.reply_stream import request_options
from sira.kernel.errors import SiraError, Unreachable


class RequestsHere:
    """The requests of threads over one connection. For any thread but the loop's."""

    def __init__(
        self,
        connection: Connection,
        replies: ReplyBox,
        give: Callable[[_native.Message], None],
    ) -> None:
        """Prepare.

        Args:
            replies: where they come in.
            give: hands a reply to whoever waits for it.
        """
        self._connection, self._replies, self._give = connection, replies, give
        self._waiting, self._outbox = connection.direct.waiting, connection.outgoing.outbox

    def ask(
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
        if bells is None or not self._replies.takes:
            return None
        message_id, pending, waiter = new_id(), None, None
        try:
            if not fields and is_first() and (timeout_s is None or timeout_s > 0):
                pending = PendingThread(bells.native, topic, idempotent, timeout_s is not None)
                found = bells.native.ask(
                    self._outbox,
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
                for each in found or ():
                    self._give(each)
            if pending is None:
                pending = self._post(message_id, topic, body, timeout_s, idempotent, fields)
            if pending is None:
                return None
            pending.waiter = waiter = waiter_here()
            reply = self._wait(bells, pending, message_id, waiter, until_s)
        except Unreachable:
            if idempotent:
                return None
            raise
        finally:
            self.forget(message_id)  # first: the loop has nothing to watch for because of it
            if waiter is not None:
                bells.leave(waiter)
                keep(waiter)
        if reply is None:
            raise self.late(pending, message_id, timeout_s)
        return reply

    def post(
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
        pending = self._post(message_id, topic, body, timeout_s, False, fields, loan)
        return None if pending is None else Asked(self, pending, message_id, timeout_s, until_s)

    def _post(
        self,
        message_id: bytes,
        topic: str,
        body: _native.Body,
        timeout_s: float | None,
        idempotent: bool,
        fields: dict[str, Any],
        loan: _native.ShmChunk | None = None,
    ) -> PendingThread | None:
        """Post a request; it is among those that wait then. None: it did not go past the node."""
        connection, box = self._connection, self._replies
        outbox, is_late = self._outbox, timeout_s is not None and timeout_s <= 0
        if is_late or connection.direct.bells is None or not box.takes:
            return None
        pending = PendingThread(None, topic, idempotent, timeout_s is not None)
        posted, is_plain = False, not fields and is_first()
        try:
            self._waiting[message_id] = pending
            if not is_plain:
                origin = lineage()
                deadline = Deadline(timeout_s, connection.loop)
                options = request_options(message_id, box.topic, deadline, origin, fields)
                wait_s = math.inf if timeout_s is None else timeout_s
                posted = outbox.direct(topic, body, options, loan, wait_s) is not None
            else:
                posted = outbox.ask(topic, body, message_id, box.topic, timeout_s, loan)
        finally:
            if not posted:
                self.forget(message_id)
        return pending if posted else None

    def wait(self, pending: PendingThread, message_id: bytes, until_s: float) -> SyncMessage | None:
        """Wait in this thread for the reply to what `post` posted.

        Returns: None: it did not come until then.
        Raises:
            SiraError: as `request`.
        """
        bells = self._connection.direct.bells
        assert bells is not None, "it was posted past the node"
        pending.waiter = bells.native
        left_s = until_s - time.monotonic()
        if left_s > 0:
            found = bells.native.reply(message_id, self._replies, left_s, pending)
            if isinstance(found, _native.Message):
                found.context = DIRECT_LANE
                return cast(SyncMessage, found)
            for each in found or ():
                self._give(each)
        pending.waiter = waiter = waiter_here()
        try:
            return self._wait(bells, pending, message_id, waiter, until_s)
        finally:
            pending.waiter = None
            if pending.answer is not None or pending.error is not None:
                self.forget(message_id)
            bells.leave(waiter)
            keep(waiter)

    def _wait(
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

    def late(self, pending: PendingThread, message_id: bytes, timeout_s: float | None) -> SiraError:
        """Return what a request raises whose time is over."""
        late = Deadline(timeout_s, self._connection.loop)
        return self._connection.late(late, f"request to {pending.topic}", id=id_text(message_id))

    def forget(self, message_id: bytes) -> None:
        """Hand no reply to that request out any more. From any thread."""
        self._waiting.pop(message_id, None)
