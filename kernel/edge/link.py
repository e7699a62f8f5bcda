"""What the reader and the writer of one stream tell each other, and how a node ends all streams."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

import grpc

from sira.kernel.errors import SiraError


class Wake:
    """An event of one waiter: half of what `asyncio.Event` costs, once for each message."""

    __slots__ = ("_is_set", "_loop", "_waiter")

    def __init__(self) -> None:
        self._is_set = False
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Wake the waiter, or let the next wait end at once."""
        if self._is_set:
            return
        self._is_set = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def clear(self) -> None:
        """Forget that it was set."""
        self._is_set = False

    async def wait(self) -> None:
        """Return when it is set."""
        if self._is_set:
            return
        assert self._waiter is None, "one waiter at a time"
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class StreamLink:
    """Between the two halves of one stream. The writer waits on `wake`."""

    __slots__ = ("error", "finished", "on_end", "wake")

    def __init__(self) -> None:
        self.wake = Wake()
        self.finished = False  # the peer sends no more
        self.error: BaseException | None = None  # to be raised when all is written
        self.on_end: Callable[[SiraError], None] | None = None

    def finish(self) -> None:
        """Note that the peer sends no more."""
        self.finished = True
        self.wake.set()

    def end(self, error: SiraError) -> None:
        """End the stream with an error, after what waits has been written."""
        if self.error is None:
            if self.on_end is not None:
                self.on_end(error)
            self.error = error
        self.wake.set()

    @contextlib.contextmanager
    def telling_errors(self) -> Iterator[None]:
        """Hand what the reader raises to the writer, which ends the call."""
        try:
            yield
        except grpc.aio.BaseError:
            self.finish()  # the peer is gone
        except Exception as error:
            self.error = self.error or error
            self.wake.set()


class Links:
    """All streams of a node, so that a node that goes down can end them in order."""

    def __init__(self) -> None:
        self._links: dict[StreamLink, None] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        """Return how many streams are open."""
        return len(self._links)

    @contextlib.contextmanager
    def holding(self, link: StreamLink) -> Iterator[None]:
        """Count a stream while it is open."""
        self._links[link] = None
        self._empty.clear()
        try:
            yield
        finally:
            del self._links[link]
            if not self._links:
                self._empty.set()

    async def all_ended(self, wait_s: float) -> bool:
        """Wait until no stream is open, at most `wait_s`; whether that came true."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._empty.wait()
        return not self._links

    def end_all(self, error: SiraError) -> None:
        """End every stream with an error, after what waits has been written."""
        for link in list(self._links):
            link.end(error)
