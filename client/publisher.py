"""A publisher: many messages on one topic, sent without waiting for each receipt."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Self

from sira import _native
from sira.client.connection import Connection
from sira.client.deadline import Deadline
from sira.client.lineage import handling, lineage
from sira.client.message import Body
from sira.client.outgoing import NEXT_TURN, Outcome, as_error
from sira.kernel.errors import SiraError

# Refusals kept for whoever asks; a publisher that never does must not fill memory.
REFUSALS_MAX = 16_384


class Publisher(_native.Sender):
    """Pipelined publishing on one topic. Belongs to the connection's event loop.

    `await send(...)` suspends only while there is no room. A message that the node refuses raises
    at the next `send`, `flush` or at the end of the `async with`, whichever comes first.

    Attributes:
        sent: messages given to `send`.
        accepted, refused: messages that the node has answered.
        receipts_dropped: receipts beyond 16,384 that nobody had asked for.
    """

    def __init__(
        self, connection: Connection, topic: str, *, fields: dict[str, Any], timeout_s: float | None
    ) -> None:
        """Prepare; see `Bus.publisher` for the arguments."""
        self.topic = topic
        self._connection = connection
        self._outgoing = connection.outgoing
        self._outbox = connection.outgoing.outbox
        self._timeout_s = timeout_s
        self._fields = fields
        self._options = _native.Options(**fields) if fields else None
        self._refusals: deque[SiraError] = deque(maxlen=REFUSALS_MAX)
        self._waiters: list[asyncio.Future[None]] = []
        self.configure(
            outbox=self._outbox,
            topic=topic,
            options=self._options,
            connection=connection,
            handling=handling,
            next_turn=NEXT_TURN,
        )
        connection.check()

    async def __aenter__(self) -> Self:
        """Open the way at once, so that the first message finds it open."""
        await self._connection.up(Deadline(self._connection.publish_block_s, self._connection.loop))
        self._connection.want_publish()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        """Wait for all receipts; after an exception of the body, refusals are not raised."""
        if kind is None:
            await self.flush()

    # ---- sending ---------------------------------------------------------------------------------

    # `send` is the Sender's: in C, for every message passes it.

    def _send_later(self, body: Body) -> Coroutine[Any, Any, None]:
        """Send what `send` could not: there is no room, or something is to be raised first."""
        if self._refusals:
            raise self._next_refusal()
        self._connection.check()
        return self._send_in_room(body)

    async def _send_in_room(self, body: Body) -> None:
        self._connection.check()
        deadline = Deadline(self._timeout_s, self._connection.loop)
        options = self._options if handling.get() is None else self._caused()
        if self._outbox.links:
            if self._connection.direct.waits(self.topic):
                await self._connection.direct.answered(self.topic, deadline)
            if self.direct(body, options):
                return
        await self._outgoing.push(self.topic, body, options, self, deadline)
        self.sent += 1

    def _caused(self) -> _native.Options:
        """Return the envelope of a message that a handler sends."""
        return _native.Options(**{**self._fields, **lineage()})

    def __call__(self, outcome: Outcome | None) -> None:
        """Take the outcome of a message that was not accepted; None: others were."""
        if outcome is not None:
            assert not isinstance(outcome, _native.Receipt), "the Sender takes these"
            self.refused += 1
            error = as_error(outcome)
            error.details.setdefault("topic", self.topic)
            self._refusals.append(error)
            self.held = True
        if self._waiters:
            self._wake_waiters()

    def _next_refusal(self) -> SiraError:
        error = self._refusals.popleft()
        self.held = bool(self._refusals)
        return error

    def _wake_waiters(self) -> None:
        waiting, self._waiters = self._waiters, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    @property
    def unanswered(self) -> int:
        """Messages whose receipt has not come."""
        return self.sent - self.accepted - self.refused

    async def _settled(self, deadline: Deadline) -> None:
        """Wait for the next outcome."""
        waiter: asyncio.Future[None] = self._connection.loop.create_future()
        self._waiters.append(waiter)
        self.awaited = True
        try:
            async with asyncio.timeout(deadline.timer_s()):
                await waiter
        except TimeoutError:
            raise self._connection.late(
                deadline, f"flush of {self.topic}", unanswered=str(self.unanswered)
            ) from None

    async def flush(self, *, timeout_s: float | None = None) -> None:
        """Wait until each message sent so far has its answer.

        Raises:
            SiraError: the first refusal that was not raised yet.
            Timeout: not all were answered in time; they may still be.
        """
        deadline = Deadline(timeout_s, self._connection.loop)
        goal = self.sent
        while self.accepted + self.refused < goal:
            await self._settled(deadline)
        if self._refusals:
            first = self._next_refusal()
            first.details["refused"] = str(self.refused)
            raise first

    def receipts(self) -> Receipts:
        """Return the receipts nobody has asked for yet, in the order of sending.

        `for` over it gives those that have come, `async for` also waits for those that are due.
        """
        return Receipts(self)


class Receipts:
    """Receipts of a publisher; each is given out once."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    def __len__(self) -> int:
        """Return how many have come."""
        return self._publisher.receipts_here

    def __iter__(self) -> Iterator[_native.Receipt]:
        """Yield those that have come."""
        while (receipt := self._publisher.take_receipt()) is not None:
            yield receipt

    async def __aiter__(self) -> AsyncIterator[_native.Receipt]:
        """Yield those that have come and those that are due. Raises each refusal in its place."""
        publisher = self._publisher
        forever = Deadline(None, publisher._connection.loop)
        while True:
            while (receipt := publisher.take_receipt()) is not None:
                yield receipt
            if publisher._refusals:
                raise publisher._next_refusal()
            if publisher.unanswered <= 0:
                return
            await publisher._settled(forever)


class Batch:
    """The ticket of several messages published together: outcomes in order."""

    __slots__ = ("_done", "_loop", "count", "error", "expected", "receipts", "refused")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._done: asyncio.Future[None] | None = None
        self.count = 0
        self.expected = 0
        self.refused = 0
        self.receipts: list[_native.Receipt] = []
        self.error: SiraError | None = None

    def __call__(self, outcome: Outcome) -> None:
        """Take one outcome."""
        if type(outcome) is _native.Receipt:
            self.receipts.append(outcome)
        else:
            self.refused += 1
            if self.error is None:
                self.error = as_error(outcome)
        self.count += 1
        if self._done is not None and self.count >= self.expected and not self._done.done():
            self._done.set_result(None)

    async def wait(
        self, expected: int, deadline: Deadline, *, renew: Callable[[], Deadline] | None = None
    ) -> None:
        """Wait for `expected` outcomes.

        Args:
            expected: how many were sent.
            deadline: when to give up.
            renew: gives the next deadline, as long as outcomes come; None: there is one only.
        Raises:
            TimeoutError: no outcome came before the deadline.
        """
        self.expected = expected
        while self.count < expected:
            before, self._done = self.count, self._loop.create_future()
            try:
                async with asyncio.timeout(deadline.timer_s()):
                    await self._done
            except TimeoutError:
                if renew is None or self.count == before:
                    raise
                deadline = renew()
