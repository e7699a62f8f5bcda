"""Taking messages for a handler, running it, and sending what it answers."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sira import _native
from sira.client.answers import ERROR, FINAL, PARTIAL, TYPE_STREAM_END, Answers, refusal
from sira.client.binding import ASYNC, ASYNC_GENERATOR, GENERATOR, PLAIN, Handler
from sira.client.bus import Bus
from sira.client.lineage import handling
from sira.client.message import Message, SyncMessage
from sira.client.outgoing import Outcome
from sira.client.registering import Load
from sira.client.subscription import Subscription
from sira.kernel.errors import HandlerFailed, SiraError

_log = logging.getLogger("sira.agent")

# Parts of a stream of replies on their way; more would only wait in the node.
_PARTS_MAX = 64
_ERROR_CHARS_MAX = 300
_END: Any = object()


class Serving:
    """A handler at work. Belongs to the event loop of its bus."""

    def __init__(
        self,
        bus: Bus,
        topic: str,
        handler: Handler,
        *,
        agent: str,
        group: str,
        max_in_flight: int,
        load: Load,
        turns: asyncio.Semaphore | None = None,
    ) -> None:
        """Prepare.

        Args:
            load: where it is noted what is in hand.
            turns: shared with the other servings of the agent, which together handle no more than
                `max_in_flight` at a time; None: there are no others.
        """
        self._bus = bus
        self._handler = handler
        self._agent = agent
        connection = bus.connection
        self._loop = connection.loop
        self._connection = connection
        self._answers = Answers(connection)
        in_thread = handler.kind in (PLAIN, GENERATOR)
        self._subscription = Subscription(
            connection,
            topic,
            responder=self._answers,
            group=group,
            # One message waits for each that is handled; more would wait here while a twin is idle.
            window_messages=2 * max_in_flight,
            message_type=SyncMessage if in_thread else Message,
        )
        self._threads = (
            ThreadPoolExecutor(max_in_flight, thread_name_prefix=f"sira-{agent}")
            if in_thread
            else None
        )
        self._max_in_flight = max_in_flight
        self._turns = turns
        self._load = load
        self._held = 0  # taken, and waiting for a turn
        load.depths.append(lambda: self._subscription.depth + self._held)
        self._takers: list[asyncio.Task[None]] = []
        self._stopping = False
        self.handled = 0
        self.failed = 0

    async def start(self) -> None:
        """Subscribe and begin."""
        await self._subscription.open()
        self._takers = [
            self._loop.create_task(self._take(), name=f"sira-agent-{self._agent}-{number}")
            for number in range(self._max_in_flight)
        ]

    @property
    def listens(self) -> bool:
        """Whether the node sends it messages; not so for a while after a lost connection."""
        return self._subscription.is_open

    async def wait(self) -> None:
        """Return when all is over; raise what ended it."""
        done, _ = await asyncio.wait(self._takers)
        for task in done:
            if not task.cancelled():
                task.result()

    async def stop(self, *, drain_s: float) -> None:
        """Take no more; finish what was taken, for `drain_s` at most."""
        self._stopping = True
        await self._subscription.close()
        if self._takers:
            _, late = await asyncio.wait(self._takers, timeout=drain_s)
            for task in late:
                _log.error("agent %s: a handler did not finish in %g s", self._agent, drain_s)
                task.cancel()
            if late:
                await asyncio.wait(late)
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _take(self) -> None:
        async for message in self._subscription:
            token = handling.set(message)
            try:
                if self._turns is None:
                    await self._handle(message)
                else:
                    self._held += 1
                    async with self._turns:
                        self._held -= 1
                        await self._handle(message)
            finally:
                handling.reset(token)
            if self._stopping:
                return

    # ---- one message -----------------------------------------------------------------------------

    async def _handle(self, message: _native.Message) -> None:
        self._load.busy += 1
        try:
            arguments = self._handler.bind(message)
            await self._run(message, arguments)
            self.handled += 1
        except SiraError as error:
            self.failed += 1
            _log.info("agent %s refused %s: %r", self._agent, message.id, error)
            self._answer_error(message, error)
        except Exception as error:
            self.failed += 1
            _log.exception("agent %s: handler failed on %s", self._agent, message.id)
            told = f"{type(error).__name__}: {error}"[:_ERROR_CHARS_MAX]
            failure = HandlerFailed(
                f"{self._handler.name} of agent {self._agent} failed: {told}",
                details={"agent": self._agent, "exception": type(error).__name__},
            )
            self._answer_error(message, failure)
        finally:
            self._load.busy -= 1

    async def _run(self, message: _native.Message, arguments: dict[str, Any]) -> None:
        call, kind = self._handler.call, self._handler.kind
        if kind == ASYNC:
            await self._answer(message, await call(**arguments))
        elif kind == PLAIN:
            await self._answer(message, await self._in_thread(call, **arguments))
        elif kind == ASYNC_GENERATOR:
            await self._stream(message, call(**arguments))
        else:
            await self._stream(message, self._iterate(call(**arguments)))

    def _in_thread(self, call: Callable[..., Any], **arguments: Any) -> Awaitable[Any]:
        context = contextvars.copy_context()

        def run() -> Any:
            try:
                return context.run(call, **arguments)
            except StopIteration as error:  # no future can carry it: who waits would wait for ever
                raise RuntimeError("the handler raised StopIteration") from error

        return self._loop.run_in_executor(self._threads, run)

    async def _iterate(self, values: Iterator[Any]) -> AsyncIterator[Any]:
        """Run a plain generator, each step in the worker thread."""

        def step() -> Any:
            return next(values, _END)

        def close() -> None:
            values.close()  # type: ignore[attr-defined]  # generator functions make generators

        try:
            while (value := await self._in_thread(step)) is not _END:
                yield value
        finally:
            await self._in_thread(close)

    async def _answer(self, message: _native.Message, body: Any) -> None:
        if message.reply_to:
            await self._answers.send(message, body, kind=FINAL)

    async def _stream(self, message: _native.Message, values: AsyncIterator[Any]) -> None:
        """Answer with each value; stop the handler when nobody listens any more."""
        parts = _Parts(self._loop)
        seq = 0
        try:
            async for value in values:
                if not message.reply_to:
                    continue
                await parts.room()
                if parts.refused is not None:
                    _log.info(
                        "agent %s: %s is answered no more: %s",
                        self._agent,
                        message.id,
                        parts.refused,
                    )
                    return
                await self._answers.send(
                    message, value, kind=PARTIAL, seq=seq, end=False, ticket=parts
                )
                parts.sent += 1
                seq += 1
        finally:
            await values.aclose()  # type: ignore[attr-defined]  # both kinds are generators
        if message.reply_to:
            await self._answers.send(message, None, kind=FINAL, seq=seq, type=TYPE_STREAM_END)

    def _answer_error(self, message: _native.Message, error: SiraError) -> None:
        if not message.reply_to:
            return
        try:
            self._answers.push(message, None, kind=ERROR, error=error.encode())
        except SiraError:
            _log.exception("agent %s: the failure of %s could not be sent", self._agent, message.id)


class _Parts:
    """The ticket of the parts of one stream: how many are on their way, whether one was refused."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None
        self.sent = 0
        self.settled = 0
        self.refused: SiraError | None = None

    def __call__(self, outcome: Outcome) -> None:
        self.settled += 1
        self.refused = self.refused or refusal(outcome)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def room(self) -> None:
        """Wait while too many are on their way."""
        while self.sent - self.settled >= _PARTS_MAX and self.refused is None:
            self._waiter = self._loop.create_future()
            await self._waiter
