"""A message in the hands of an application: the C view, and what one answers with.

`Message` is what async subscriptions and `async def` handlers get, `SyncMessage` what the sync twin
and plain handlers get; they differ in nothing but `await`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import sira.kernel.binding  # noqa: F401  ties the C core to its errors and dtypes
from sira import _native
from sira.client.call_receipt import CallReceipt, SyncCallReceipt, receipt_of

if TYPE_CHECKING:
    from sira._native import Body as Body
else:
    Body = Any  # the alias exists for type checkers only


class Responder(Protocol):
    """Whoever gave a message to the application and carries its answer back (`message.context`)."""

    async def reply(
        self, message: _native.Message, body: Body, *, end: bool, priority: int | None
    ) -> None:
        """Publish `body` as an answer to `message`."""

    def reply_blocking(
        self, message: _native.Message, body: Body, *, end: bool, priority: int | None
    ) -> None:
        """As `reply`, from a thread that is not the loop's."""

    async def acknowledge(
        self, message: _native.Message, *, negative: bool, delay_s: float
    ) -> None:
        """Confirm, or give back, a message of a durable topic."""

    def acknowledge_blocking(
        self, message: _native.Message, *, negative: bool, delay_s: float
    ) -> None:
        """As `acknowledge`, from a thread that is not the loop's."""


class Message(_native.Message):
    """A message received by an async subscription.

    `message["x"]` is a read-only NumPy view of the received memory, shape and dtype as sent; it
    keeps that memory alive. `.keys()`, `.items()`, `.specs()` name the tensors; `.bytes` and
    `.text` are the body of a message that is not tensors.
    """

    __slots__ = ()

    @property
    def receipt(self) -> CallReceipt | None:
        """Who answered a call, and why; None: this is not the answer of `bus.call`."""
        receipt: CallReceipt | None = receipt_of(self)
        return receipt

    async def reply(
        self, body: Body = None, *, end: bool = True, priority: int | None = None
    ) -> None:
        """Answer a request.

        Args:
            body: tensors by name, bytes or text.
            end: False: one of several answers to `request_stream`; the last one has True.
            priority: 0 to 7; None: as the request.
        Raises:
            BadRequest: the message did not ask for an answer, or the body cannot be sent.
            NoMatch: with `end=False`: whoever asked is gone.
        """
        await self.context.reply(self, body, end=end, priority=priority)

    async def ack(self) -> None:
        """Confirm a message of a durable topic. Raises Unsupported on other topics."""
        await self.context.acknowledge(self, negative=False, delay_s=0.0)

    async def nack(self, *, delay_s: float = 0.0) -> None:
        """Give a message of a durable topic back, to be delivered again after `delay_s`."""
        await self.context.acknowledge(self, negative=True, delay_s=delay_s)


class SyncMessage(_native.Message):
    """A message received by the sync twin or by a plain handler; as `Message`, without `await`."""

    __slots__ = ()

    @property
    def receipt(self) -> SyncCallReceipt | None:
        """Who answered a call, and why; None: this is not the answer of `bus.call`."""
        receipt: SyncCallReceipt | None = receipt_of(self)
        return receipt

    def reply(self, body: Body = None, *, end: bool = True, priority: int | None = None) -> None:
        """Answer a request; see `Message.reply`. Blocks only while there is no room to publish."""
        self.context.reply_blocking(self, body, end=end, priority=priority)

    def ack(self) -> None:
        """Confirm a message of a durable topic. Raises Unsupported on other topics."""
        self.context.acknowledge_blocking(self, negative=False, delay_s=0.0)

    def nack(self, *, delay_s: float = 0.0) -> None:
        """Give a message of a durable topic back, to be delivered again after `delay_s`."""
        self.context.acknowledge_blocking(self, negative=True, delay_s=delay_s)
