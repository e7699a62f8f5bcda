"""What the reader and the writer of one stream tell each other, and how a node ends all streams."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterator

import grpc

from sira.kernel.access import Access
from sira.kernel.authorize import Deny
from sira.kernel.errors import Revoked, SiraError, Unauthenticated
from sira.kernel.trust.credential import Credential

_LINKS_A_STEP = 200  # looked at in one go when rules change: about a millisecond
_TIMER_S_MAX = 30 * 86_400.0  # no loop counts farther; no stream lives so long


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

    __slots__ = ("credential", "error", "finished", "method", "on_end", "wake")

    def __init__(self, credential: Credential, method: str) -> None:
        """Belong to a call of `method` made with `credential`."""
        self.credential, self.method = credential, method
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
        expiry = self._end_at_expiry(link)
        try:
            yield
        finally:
            if expiry is not None:
                expiry.cancel()
            del self._links[link]
            if not self._links:
                self._empty.set()

    async def all_ended(self, wait_s: float) -> bool:
        """Wait until no stream is open, at most `wait_s`; whether that came true."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._empty.wait()
        return not self._links

    def recheck(self, access: Access) -> Iterator[None]:
        """End the streams that the rules of now do not allow; yields after each small step."""
        for index, link in enumerate(list(self._links), 1):
            error = access.over(link.credential)
            if error is None:
                decision = access.decide(link.credential, "call", link.method)
                if isinstance(decision, Deny):
                    error = Revoked(
                        f"{link.credential.principal} may no longer call {link.method}: "
                        f"{decision.reason}",
                        details={"action": "call", "resource": link.method,
                                 "rule": decision.reason},
                    )  # fmt: skip
            if error is not None and link in self._links:
                link.end(error)
            if index % _LINKS_A_STEP == 0:
                yield

    @staticmethod
    def _end_at_expiry(link: StreamLink) -> asyncio.TimerHandle | None:
        """See to it that a stream ends when its credential does.

        The wall clock is asked once, now; from then on the loop's own clock counts, which no jump
        of the wall clock moves.
        """
        left_s = link.credential.expires_s - time.time()
        if left_s == math.inf:
            return None
        error = Unauthenticated("the credential has expired", details={"reason": "expired"})
        left_s = min(max(0.0, left_s), _TIMER_S_MAX)
        return asyncio.get_running_loop().call_later(left_s, link.end, error)

    def end_all(self, error: SiraError) -> None:
        """End every stream with an error, after what waits has been written."""
        for link in list(self._links):
            link.end(error)
