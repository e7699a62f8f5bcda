"""Where the replies of a connection come in, and who waits for one."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

from sira import _native
from sira.client.answers import ERROR, FINAL
from sira.client.connection import Connection
from sira.client.incoming import CREDIT_BYTES
from sira.client.local.bells import Waiter
from sira.client.outgoing import Outcome, as_error
from sira.kernel import lanes
from sira.kernel.errors import NoMatch, OutcomeUnknown, SiraError, decode
from sira.v1 import bus_pb2

DIRECT_LANE = lanes.NAMES[lanes.SHM]  # `Message.context` of a reply to what went past the node
# Replies are handed out as they come: the window never fills unless this process stands still.
_WINDOW_MESSAGES = 4096


def _final(message: _native.Message) -> _native.Message | SiraError | None:
    """Return what a reply ends its request with; None: more is to come."""
    if message.reply_kind == ERROR:
        return decode(message.error)
    return message if message.reply_kind == FINAL or message.stream_end else None


class Pending:
    """A request that waits on the loop: the ticket of its publish, and where its reply goes."""

    __slots__ = ("future", "idempotent", "past_node", "refused", "topic")

    def __init__(self, loop: asyncio.AbstractEventLoop, idempotent: bool, topic: str) -> None:
        self.future: asyncio.Future[Any] | None = loop.create_future()
        self.idempotent = idempotent
        self.topic = topic
        self.refused = False  # by the node: nobody was asked
        self.past_node = False  # it lives longer than the connection

    def __call__(self, outcome: Outcome) -> None:
        """Take the refusal of the publish."""
        if not isinstance(outcome, _native.Receipt):
            self.refused = True
            error = as_error(outcome)
            if isinstance(error, NoMatch):  # whoever tells it on says nobody listens somewhere else
                error.details.setdefault("topic", self.topic)
            self.fail(error)

    def fail(self, error: SiraError) -> None:
        """Have the request raise `error`."""
        if self.future is not None and not self.future.done():
            self.future.set_exception(error)

    def reply(self, message: _native.Message) -> None:
        """Take one reply; what is not the final one is passed over."""
        if self.future is None or self.future.done():
            return
        outcome = _final(message)
        if isinstance(outcome, SiraError):
            self.future.set_exception(outcome)
        elif outcome is not None:
            self.future.set_result(outcome)


class PendingThread:
    """A request that was posted past the node, and waits in a thread."""

    __slots__ = ("answer", "error", "idempotent", "past_node", "topic", "waiter")

    def __init__(
        self,
        waiter: Waiter | _native.ShmBells | None,
        topic: str,
        idempotent: bool,
        has_deadline: bool,
    ) -> None:
        """Begin; without a `waiter` nobody waits yet: `answer` and `error` keep what comes."""
        self.answer: Any = None
        self.error: SiraError | None = None
        self.idempotent = idempotent
        self.topic = topic
        self.past_node = has_deadline  # one without would wait for ever where both sides are lost
        self.waiter = waiter

    def __call__(self, outcome: Outcome) -> None:
        """Take a refusal."""
        if not isinstance(outcome, _native.Receipt):
            self.fail(as_error(outcome))

    def fail(self, error: SiraError) -> None:
        """Have the request raise `error`."""
        if self.answer is None and self.error is None:
            self.error = error
        self._wake()

    def _wake(self) -> None:
        waiter = self.waiter
        if waiter is not None:
            waiter.wake()

    def reply(self, message: _native.Message) -> None:
        """Take one reply; what is not the final one is passed over."""
        if self.answer is not None or self.error is not None:
            return
        outcome = _final(message)
        if isinstance(outcome, SiraError):
            self.error = outcome
        else:
            self.answer = outcome
        self._wake()


class ReplyBox(_native.Mailbox):
    """The subscription that all replies of a connection come through."""

    number = 0

    def __init__(
        self,
        connection: Connection,
        message_type: type[_native.Message],
        *,
        hand_out: Callable[[], None],
        opened_again: Callable[[], None],
    ) -> None:
        """Prepare.

        Args:
            hand_out: called where a reply has come by a link, in any thread, while armed.
            opened_again: called when a node brings replies, before anything is sent to it.
        """
        self._connection = connection
        self._hand_out, self._opened_again = hand_out, opened_again
        self.topic = f"_reply.{secrets.token_hex(16)}"
        self.live: asyncio.Future[None] | None = None
        self.configure(
            message_type=message_type,
            context=None,
            credit_every=_WINDOW_MESSAGES // 2,
            credit_bytes=CREDIT_BYTES,
            wake=hand_out,
            on_credit=connection.incoming.credit_due,
        )

    @property
    def takes(self) -> bool:
        """Whether replies come. One that is to be opened again takes those past the node."""
        live = self.live
        return live is not None and (live.done() or not self._connection.is_up)

    @property
    def mailbox(self) -> _native.Mailbox:
        """Where messages are put: itself."""
        return self

    def open_item(self) -> bus_pb2.Open:
        """Return what the node is asked for."""
        return bus_pb2.Open(pattern=self.topic, window_messages=_WINDOW_MESSAGES)

    def opened(self, opened: bus_pb2.Opened) -> None:
        """Take note that replies will come."""
        if self.live is not None and not self.live.done():
            self._opened_again()
            self.live.set_result(None)

    def ended(self, error: SiraError | None) -> None:
        """Take note that no more will."""
        if self.live is not None and not self.live.done():
            self.live.set_exception(error or OutcomeUnknown("the reply topic was closed"))
            self.live.exception()  # seen: nobody may be waiting
        self.live = None

    def interrupted(self) -> None:
        """Take note that the connection was lost."""
        self._hand_out()  # what came past the node is as good as before
        while self.pop() is not None:
            pass
        self.take_credit()
        if self.live is not None and self.live.done():
            # A request sent before the topic is open again would lose its reply.
            self.live = self._connection.loop.create_future()
