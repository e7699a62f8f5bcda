"""The two streams of a client as function calls into the kernel."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from sira.kernel.bus import Bus as Kernel
from sira.kernel.clients import Client, Hello
from sira.kernel.edge.door import EOF
from sira.kernel.errors import SiraError, Unreachable
from sira.kernel.trust.credential import Credential


class LocalStream:
    """A `Stream`; the base alone is one that was refused."""

    def __init__(self) -> None:
        self.on_over: Callable[[Any], None] | None = None
        self._news = asyncio.Event()
        self._error: SiraError | None = None
        self._finished = False  # the client sends no more
        self._over = False

    async def read(self) -> bytes | None:
        """Return the next frame of the node; see `Stream`."""
        while True:
            self._news.clear()
            frame = None if self._over else self._next_frame()
            if frame is not None:
                await asyncio.sleep(0)  # as a socket would: others run between two frames
                return frame
            if self._error is not None:
                raise self._error
            if self._over or (self._finished and self._nothing_due()):
                self._end()
                return None
            await self._news.wait()

    async def write(self, frame: bytes) -> None:
        """Hand one frame to the node; see `Stream`."""
        if self._over or self._finished:
            raise self._error or Unreachable("the stream is closed")
        try:
            await self._feed(frame)
        except SiraError as error:
            self.lose(error)
        await asyncio.sleep(0)

    async def done_writing(self) -> None:
        """Say that no more frames come."""
        self._finished = True
        self._news.set()

    def cancel(self) -> None:
        """Give it up at once."""
        self.lose(Unreachable("the stream was cancelled"))

    def lose(self, error: SiraError) -> None:
        """End it with an error, as a lost connection would."""
        self._error = self._error or error
        self._end()
        self._news.set()

    def _end(self) -> None:
        if self._over:
            return
        self._over = True
        self._close()
        if self.on_over is not None:
            self.on_over(self)

    # ---- what the kinds of streams have of their own ---------------------------------------------

    def _next_frame(self) -> bytes | None:
        return None

    def _nothing_due(self) -> bool:
        return True

    async def _feed(self, frame: bytes) -> None:
        del frame

    def _close(self) -> None:
        return


class LocalPublish(LocalStream):
    """A Publish stream."""

    def __init__(
        self,
        kernel: Kernel,
        client: Client,
        who: Credential,
        hello: Hello,
        now_ns: Callable[[], int],
    ) -> None:
        super().__init__()
        self._now_ns = now_ns
        self._stream = kernel.open_publish(
            client, who, wake=self._news.set, hello=hello, now_ns=now_ns()
        )
        self._stream.lend()
        self._stream.on_lost = self.lose
        self._room = asyncio.Event()
        self._stream.ingress.drained = self._room.set

    def _next_frame(self) -> bytes | None:
        if self._stream.carrier is not None:
            return None
        return self._stream.ingress.next_frame(self._now_ns())

    def _nothing_due(self) -> bool:
        self._stream.end_soon()
        return self._stream.all_carried and not self._stream.ingress.unanswered

    async def _feed(self, frame: bytes) -> None:
        ingress = self._stream.ingress
        ingress.feed(frame, self._now_ns())
        while ingress.full and not self._over:
            self._room.clear()
            await self._room.wait()

    def _close(self) -> None:
        self._stream.close(self._now_ns())
        self._room.set()


class LocalSubscribe(LocalStream):
    """A Subscribe stream."""

    def __init__(
        self,
        kernel: Kernel,
        client: Client,
        who: Credential,
        hello: Hello,
        now_ns: Callable[[], int],
    ) -> None:
        super().__init__()
        self._now_ns = now_ns
        self._stream = kernel.open_subscribe(client, who, wake=self._news.set, link=hello.link)

    def _next_frame(self) -> bytes | None:
        return self._stream.next_frame(self._now_ns())

    def _nothing_due(self) -> bool:
        self._stream.written_out = not self._stream.subscriptions
        return self._stream.written_out

    async def _feed(self, frame: bytes) -> None:
        self._stream.feed(frame, self._now_ns())

    def _close(self) -> None:
        self._stream.close(self._now_ns())


class LocalCall(LocalStream):
    """A stream of any other method: its handler runs in a task, and this is its context too."""

    def __init__(self, serve: Callable[[Context], Awaitable[None]]) -> None:
        """Begin; `serve` is given what the handler reads from and writes to."""
        super().__init__()
        self._up: asyncio.Queue[Any] = asyncio.Queue()
        self._down: deque[bytes] = deque()
        self._served = False
        self._task = asyncio.get_running_loop().create_task(
            self._run(serve), name="sira-local-call"
        )

    async def _run(self, serve: Callable[[Context], Awaitable[None]]) -> None:
        try:
            await serve(Context(self._up, self._tell))
        except SiraError as error:
            self.lose(error)
        finally:
            self._finished = self._served = True
            self._news.set()

    def _tell(self, frame: bytes) -> None:
        self._down.append(frame)
        self._news.set()

    async def done_writing(self) -> None:
        """Say that no more frames come."""
        await super().done_writing()
        self._up.put_nowait(EOF)

    def _next_frame(self) -> bytes | None:
        return self._down.popleft() if self._down else None

    def _nothing_due(self) -> bool:
        return self._served and not self._down

    async def _feed(self, frame: bytes) -> None:
        self._up.put_nowait(frame)

    def _close(self) -> None:
        if self._task is not asyncio.current_task():
            self._task.cancel()


class Context:
    """What the handler of a stream asks of gRPC."""

    def __init__(self, up: asyncio.Queue[Any], tell: Callable[[bytes], None]) -> None:
        self._up, self._tell = up, tell

    async def read(self) -> Any:
        """Return the next frame of the client, or EOF."""
        return await self._up.get()

    async def write(self, frame: bytes) -> None:
        """Send a frame to the client."""
        self._tell(frame)

    def time_remaining(self) -> Any:
        """Return None: the caller counts its time itself."""
        return None
