"""One Attach stream, seen from the service: calls in, handlers at work, replies out."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtoMessage

from sira.client.transport import Stream
from sira.kernel.errors import (
    FrameCorrupt,
    HandlerFailed,
    NodeDraining,
    ProtocolError,
    SiraError,
    Timeout,
    Unsupported,
)
from sira.v1 import kernel_pb2

_log = logging.getLogger("sira.service")
_ERROR_CHARS_MAX = 300
# Replies that wait for the stream; more handlers than that wait with theirs.
_OUT_MAX = 64


@dataclass(frozen=True, slots=True)
class Served:
    """One method: its path, and the function that answers it."""

    name: str
    function: Callable[..., Any]
    request: type[ProtoMessage]
    response: type[ProtoMessage]
    takes_call: bool


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler may know of a call.

    Attributes:
        method: `/package.Service/Method`.
        principal, tenant: who calls, as the node knows it.
        metadata: traceparent, tracestate, sira-intent, where the caller sent them.
        end_s: when the caller stops waiting, `time.monotonic()`; None: it does not say.
    """

    method: str
    principal: str
    tenant: str
    metadata: Mapping[str, str]
    end_s: float | None

    def time_remaining_s(self) -> float | None:
        """Return how long the caller still waits; None: it does not say."""
        return None if self.end_s is None else max(0.0, self.end_s - time.monotonic())


class Attached:
    """A stream and the calls on it."""

    def __init__(self, stream: Stream, served: Mapping[str, Served], service: str) -> None:
        """Take a stream that has just been opened."""
        self._stream, self._served, self._service = stream, served, service
        self._out: asyncio.Queue[kernel_pb2.AttachRequest | None] = asyncio.Queue(_OUT_MAX)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._credits: dict[int, asyncio.Semaphore] = {}
        self._over = asyncio.Event()

    async def begin(self, offer: kernel_pb2.AttachOffer) -> None:
        """Make the offer and wait until it is taken.

        Raises:
            SiraError: the node refused it, or is gone.
        """
        await self._stream.write(kernel_pb2.AttachRequest(offer=offer).SerializeToString())
        response = await self._read()
        if response is None or not response.HasField("accepted"):
            raise ProtocolError("the node did not answer the offer")

    async def serve(self) -> None:
        """Answer calls until the stream ends; handlers at work are cancelled then.

        Raises:
            SiraError: why it ended.
        """
        writer = asyncio.ensure_future(self._write())
        try:
            while (response := await self._read()) is not None:
                match response.WhichOneof("kind"):
                    case "call":
                        self._take(response.call)
                    case "credit":
                        self._credit(response.credit)
                    case "cancel":
                        task = self._tasks.get(response.cancel.call)
                        if task is not None:
                            task.cancel()
        finally:
            writer.cancel()
            waiting = list(self._tasks.values())
            for task in waiting:
                task.cancel()
            await asyncio.gather(writer, *waiting, return_exceptions=True)
            self._over.set()
        raise NodeDraining("the node ended the stream")

    async def leave(self, drain_s: float) -> None:
        """Take no more calls, let those under way finish, and end the stream."""
        leaving = asyncio.ensure_future(self._leave())
        over = asyncio.ensure_future(self._over.wait())
        await asyncio.wait({leaving, over}, timeout=drain_s, return_when=asyncio.FIRST_COMPLETED)
        if not (leaving.done() or over.done()):
            left = len(self._tasks)
            _log.error("service %s: %d calls not finished in %g s", self._service, left, drain_s)
        for task in (leaving, over):
            task.cancel()

    async def _leave(self) -> None:
        await self._out.put(kernel_pb2.AttachRequest(leave=kernel_pb2.AttachLeave()))
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))
        await self._out.put(None)
        await self._out.join()

    # ---- in --------------------------------------------------------------------------------------

    async def _read(self) -> kernel_pb2.AttachResponse | None:
        data = await self._stream.read()
        return None if data is None else kernel_pb2.AttachResponse.FromString(data)

    def _take(self, asked: kernel_pb2.AttachCall) -> None:
        self._credits[asked.call] = asyncio.Semaphore(asked.window)
        task = asyncio.ensure_future(self._answer(asked))
        self._tasks[asked.call] = task
        task.add_done_callback(lambda _: self._forget(asked.call))

    def _forget(self, number: int) -> None:
        del self._tasks[number], self._credits[number]

    def _credit(self, credit: kernel_pb2.AttachCredit) -> None:
        window = self._credits.get(credit.call)
        for _ in range(credit.replies if window is not None else 0):
            window.release()  # type: ignore[union-attr]  # the range is empty without it

    # ---- one call --------------------------------------------------------------------------------

    async def _answer(self, asked: kernel_pb2.AttachCall) -> None:
        try:
            async with asyncio.timeout(asked.timeout_ms / 1e3 if asked.timeout_ms else None):
                await self._run(asked)
            await self._reply(asked.call, end=True)
        except SiraError as error:
            await self._reply(asked.call, end=True, error=error.to_proto())
        except TimeoutError:
            late = Timeout(f"{asked.method} took longer than its caller waits")
            await self._reply(asked.call, end=True, error=late.to_proto())
        except Exception as error:
            _log.exception("service %s: %s failed", self._service, asked.method)
            told = f"{type(error).__name__}: {error}"[:_ERROR_CHARS_MAX]
            failed = HandlerFailed(
                f"{asked.method} of service {self._service} failed: {told}",
                details={"service": self._service, "exception": type(error).__name__},
            )
            await self._reply(asked.call, end=True, error=failed.to_proto())

    async def _run(self, asked: kernel_pb2.AttachCall) -> None:
        served = self._served.get(asked.method)
        if served is None:
            raise Unsupported(f"service {self._service} has no {asked.method}")
        try:
            request = served.request.FromString(asked.request)
        except DecodeError:
            name = served.request.DESCRIPTOR.full_name
            raise FrameCorrupt(f"the request is no {name}") from None
        end_s = time.monotonic() + asked.timeout_ms / 1e3 if asked.timeout_ms else None
        call = Call(
            asked.method, asked.principal, asked.tenant, dict(asked.metadata), end_s
        )  # fmt: skip
        arguments = (request, call) if served.takes_call else (request,)
        if inspect.isasyncgenfunction(served.function):
            values = served.function(*arguments)
            try:
                async for value in values:
                    await self._send(asked.call, served, value)
            finally:
                await values.aclose()
        elif inspect.iscoroutinefunction(served.function):
            await self._send(asked.call, served, await served.function(*arguments))
        else:
            value = await asyncio.to_thread(served.function, *arguments)
            await self._send(asked.call, served, value)

    async def _send(self, number: int, served: Served, value: Any) -> None:
        """Send one reply as soon as the caller may be sent one more."""
        if not isinstance(value, served.response):
            expected = served.response.DESCRIPTOR.full_name
            raise TypeError(f"{type(value).__name__} instead of {expected}")
        await self._credits[number].acquire()
        await self._reply(number, response=value.SerializeToString())

    async def _reply(self, number: int, **fields: Any) -> None:
        reply = kernel_pb2.AttachReply(call=number, **fields)
        await self._out.put(kernel_pb2.AttachRequest(reply=reply))

    # ---- out -------------------------------------------------------------------------------------

    async def _write(self) -> None:
        broken = False
        while True:
            request = await self._out.get()
            try:
                if request is None:
                    await self._stream.done_writing()
                elif not broken:
                    await self._stream.write(request.SerializeToString())
            except SiraError:
                broken = True  # reading says why; nobody shall wait for room here
            finally:
                self._out.task_done()
