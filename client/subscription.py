"""A subscription: an async iterator over the messages of a topic or pattern."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Generator, Mapping
from typing import TYPE_CHECKING, Any, Self

from sira import _native
from sira.client.connection import Connection
from sira.client.deadline import Deadline
from sira.client.incoming import CREDIT_BYTES
from sira.client.message import Message, Responder
from sira.kernel.errors import BadRequest, SiraError
from sira.v1 import bus_pb2

_log = logging.getLogger("sira.client")

# Two frames full of messages of 256 B and more: one is read while the other is taken.
WINDOW_MESSAGES = 2048
OPEN_S = 5.0
_CLOSE_S = 2.0
_OVERFLOWS = {
    "block": bus_pb2.OVERFLOW_BLOCK,
    "drop": bus_pb2.OVERFLOW_DROP,
    "latest": bus_pb2.OVERFLOW_LATEST,
}


class Subscription(_native.Mailbox):
    """Messages that match a pattern, in order per publisher, topic and priority.

    Enter it (`async with`) or await it: when that returns, every publish begun later matches. Then
    iterate, or call `next`. Several tasks may iterate: each message goes to one of them.

    It lives over a lost connection: it is opened again at the node that comes next, `reconnects`
    counts how often, and what was published in between is not there.

    Attributes:
        pattern, group: as asked for.
        cut: parts of the pattern that this principal may not read.
        readable: what of it may be read, where that is less than all; empty: all of it.
        is_open: the node sends what matches; not so before `open`, and while a lost connection is
            made again.
        reconnects: how often messages may have been missed because the connection was lost.
        unconfirmed: messages in hand at each loss, together: the application still gets them, but
            the node that was lost has counted them as not delivered.
    """

    def __new__(cls, *_args: Any, **_settings: Any) -> Self:
        """Make the C part; `__init__` has the arguments."""
        return super().__new__(cls)

    def __init__(
        self,
        connection: Connection,
        pattern: str,
        *,
        responder: Responder,
        group: str = "",
        overflow: str = "block",
        window_messages: int | None = None,
        window_bytes: int = 0,
        contract: Mapping[str, str] | None = None,
        start: str = "",
        ack_wait_s: float = 0.0,
        max_deliver: int = 0,
        message_type: type[_native.Message] = Message,
        open_s: float = OPEN_S,
    ) -> None:
        """Prepare; see `Bus.subscribe` for the arguments."""
        _native.check_pattern(pattern)
        if overflow not in _OVERFLOWS:
            raise BadRequest(f"overflow is {overflow!r}", help="block, drop or latest")
        if window_messages is None:
            # `latest` promises the newest: whatever waits in a window is older.
            window_messages = 1 if overflow == "latest" else WINDOW_MESSAGES
        if window_messages < 1:
            raise BadRequest(f"window_messages is {window_messages}", help="1 or more")
        self.pattern = pattern
        self.group = group
        self.number = 0
        self.cut: list[str] = []
        self.readable: list[str] = []
        self.is_open = False
        self.reconnects = 0
        self.unconfirmed = 0
        self._connection = connection
        self._thread = threading.get_ident()
        self._open_s = open_s
        self._item = bus_pb2.Open(
            pattern=pattern,
            group=group,
            overflow=_OVERFLOWS[overflow],
            window_messages=window_messages,
            window_bytes=window_bytes,
            contract=contract,
            start=start,
            ack_wait_ms=round(ack_wait_s * 1e3),
            max_deliver=max_deliver,
        )
        self._ready: asyncio.Future[None] | None = None
        self._finished: asyncio.Future[None] = connection.loop.create_future()
        self._error: SiraError | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self.configure(
            message_type=message_type,
            context=responder,
            credit_every=max(1, window_messages // 2),
            wake=self._arrived,
            on_credit=connection.incoming.credit_due,
            credit_bytes=max(1, min(window_bytes // 2 or CREDIT_BYTES, CREDIT_BYTES)),
        )

    if TYPE_CHECKING:  # the C methods, with the type that they give here

        def __aiter__(self) -> Self:
            """Return itself."""

        def __anext__(self) -> Awaitable[Message]:
            """Return the next message; see `next`."""

    # ---- for the application ---------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Open it: live when this returns."""
        try:
            await self.open()
        except BaseException:
            self._leave()  # nobody will: the block is not entered
            raise
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Close it."""
        await self.close()

    def __await__(self) -> Generator[Any, None, Self]:
        """Open it; `close` is then the caller's to call."""
        return self.__aenter__().__await__()

    async def open(self) -> None:
        """Ask the node for the messages and wait until it sends them.

        Raises:
            Denied, ContractMismatch, Unsupported, SiraError: the node refused.
            Timeout, Unreachable: it did not answer.
        """
        self._connection.check()
        if self._finished.done():
            raise self._error or BadRequest("this subscription was closed", help="make a new one")
        if self._ready is None:
            self._ready = self._connection.loop.create_future()
            deadline = Deadline(self._open_s, self._connection.loop)
            try:
                await self._connection.up(deadline)
            except BaseException:
                self._ready = None  # not begun: the next one may
                raise
            self._connection.want_subscribe()
            self._connection.incoming.add(self)
            try:
                async with asyncio.timeout(deadline.timer_s()):
                    await asyncio.shield(self._ready)
            except TimeoutError:
                self._connection.incoming.remove(self)
                raise self._connection.late(deadline, f"subscribe to {self.pattern}") from None
        await asyncio.shield(self._ready)

    async def next(self, *, timeout_s: float | None = None) -> Message:
        """Return the next message.

        Raises:
            Timeout: none came in `timeout_s`.
            StopAsyncIteration: the subscription was closed.
            SiraError: the node ended it.
        """
        deadline = Deadline(timeout_s, self._connection.loop)
        try:
            async with asyncio.timeout(deadline.timer_s()):
                return await self.__anext__()
        except TimeoutError as error:
            if isinstance(error, SiraError):
                raise
            raise deadline.error(f"next message of {self.pattern}") from None

    async def close(self) -> None:
        """Confirm what was taken and end the subscription; what waits unread is dropped."""
        self._leave()
        if self.number and not self._finished.done():
            await asyncio.wait([self._finished], timeout=_CLOSE_S)
        self._discard()
        self.ended(None)

    # ---- for the mailbox: what to do when it is empty --------------------------------------------

    async def _wait(self) -> _native.Message:
        if self._ready is None:
            await self.open()
        while True:
            message = self.pop()
            if message is not None:
                return message
            if self._error is not None:
                raise self._error
            if self._finished.done():
                raise StopAsyncIteration
            waiter: asyncio.Future[None] = self._connection.loop.create_future()
            self._waiters.append(waiter)
            bells = self._connection.direct.bells
            if bells is not None:
                bells.needed()
            self.arm()
            try:
                await waiter
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)

    def _arrived(self) -> None:
        if threading.get_ident() != self._thread:  # of one that waits at the bells of links
            self._connection.loop.call_soon_threadsafe(self._arrived)
            return
        waiting, self._waiters = self._waiters, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    # ---- for the Subscribe stream (incoming.Receiver) --------------------------------------------

    @property
    def mailbox(self) -> _native.Mailbox:
        """Where messages are put: itself."""
        return self

    def open_item(self) -> bus_pb2.Open:
        """Return what the node is asked for."""
        return self._item

    def opened(self, opened: bus_pb2.Opened) -> None:
        """Take note that the subscription is live, for the first time or again."""
        self.is_open = True
        before = self.cut, self.readable
        self.cut, self.readable = list(opened.cut), list(opened.readable)
        if before != (self.cut, self.readable) and self.narrowed:
            _log.warning("subscription %s is narrowed: %s", self.pattern, self.narrowed)
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)

    @property
    def narrowed(self) -> str:
        """What of the pattern may be read and what not, for people; "": all may."""
        parts = []
        if self.readable and self.readable != [self.pattern]:
            parts.append(f"only {', '.join(self.readable)} may be read")
        if self.cut:
            parts.append(f"{', '.join(self.cut)} may not")
        return ", ".join(parts)

    def ended(self, error: SiraError | None) -> None:
        """Take note that nothing more comes. What has come is given out first."""
        if self._finished.done():
            return
        self._error = self._error or error
        self._finished.set_result(None)
        self.over = True
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(error or BadRequest("the subscription was closed"))
            self._ready.exception()  # seen: nobody may be waiting
        self._arrived()

    def fail(self, error: SiraError) -> None:
        """Raise `error` to whoever waits, after what has come; `close` is still due."""
        self._error = error
        self.over = True
        self._arrived()

    def interrupted(self) -> None:
        """Take note that the connection was lost; the subscription will be opened again."""
        self.is_open = False
        self.reconnects += 1
        self.unconfirmed += self.depth
        _log.warning("subscription %s interrupted, %d messages in hand", self.pattern, self.depth)

    def _leave(self) -> None:
        """Confirm what was taken and ask for the end; what waits unread is dropped."""
        if self.number and not self._finished.done():
            self._connection.incoming.remove(self)
            self.close_cells()  # the node counts what lies there before it is passed over
            self._discard()

    def _discard(self) -> None:
        while self.pop() is not None:
            pass
        self.take_credit()
