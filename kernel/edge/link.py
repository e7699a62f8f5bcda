"""What the reader and the writer of one stream tell each other, and how a node ends all streams."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import grpc

from sira import _native
from sira.kernel.access import Access
from sira.kernel.authorize import Deny
from sira.kernel.errors import Revoked, SiraError, Unauthenticated
from sira.kernel.trust.credential import Credential

TURN_NS = 2_000_000  # for the frame of one stream; what is left of it waits until others had a turn
_LINKS_A_STEP = 200  # looked at in one go when rules change: about a millisecond
_TIMER_S_MAX = 30 * 86_400.0  # no loop counts farther; no stream lives so long


class Round:
    """The writers that are woken while a frame is taken in.

    They go on as soon as it is in, whole, and before the next one is asked for: a message that is
    alone leaves in the turn of the loop that it came in, and those of one frame leave together.
    """

    __slots__ = ("taking", "writers")

    def __init__(self) -> None:
        self.taking = False
        self.writers: list[_native.Stepper] = []

    def write(self) -> None:
        """Let the writers go on: each until it waits for its stream."""
        self.taking = False
        writers, self.writers = self.writers, []
        for writer in writers:
            writer.go()


class StreamLink:
    """Between the two halves of one stream. The writer rests until `wake`."""

    __slots__ = (
        "_round",
        "broken",
        "credential",
        "error",
        "finished",
        "on_end",
        "rights",
        "writer",
    )

    def __init__(self, credential: Credential, method: str, round_: Round) -> None:
        """Belong to a call of `method` made with `credential`."""
        self.credential = credential
        # (action, resource) that must go on being allowed for as long as it is open.
        self.rights: tuple[tuple[str, str], ...] = (("call", method),)
        self._round = round_
        self.writer = _native.Stepper(f"writer of {method}", asyncio.get_running_loop())
        self.finished = False  # the peer sends no more
        self.broken = False  # nor does it hear us
        self.error: BaseException | None = None  # to be raised when all is written
        self.on_end: Callable[[SiraError], None] | None = None

    def wake(self) -> None:
        """Tell the writer that there may be something."""
        if self._round.taking:
            self._round.writers.append(self.writer)
        else:
            self.writer.wake()

    async def written(self, write: Callable[..., Coroutine[Any, Any, None]], *parts: Any) -> None:
        """Run `write(*parts, self)` to its end and raise what ended the stream."""
        self.writer.begin(self._run(write, parts))
        try:
            await self.writer.ended
        finally:
            self.writer.cancel()
        if self.error is not None:
            raise self.error

    async def _run(
        self, write: Callable[..., Coroutine[Any, Any, None]], parts: tuple[Any, ...]
    ) -> None:
        try:
            await write(*parts, self)
        except Exception as error:
            self.error = error

    def finish(self) -> None:
        """Note that the peer sends no more."""
        self.finished = True
        self.wake()

    def end(self, error: SiraError) -> None:
        """End the stream with an error, after what waits has been written."""
        if self.error is None:
            if self.on_end is not None:
                self.on_end(error)
            self.error = error
        self.wake()

    @contextlib.contextmanager
    def telling_errors(self) -> Iterator[None]:
        """Hand what the reader raises to the writer, which ends the call."""
        try:
            yield
        except grpc.aio.BaseError:
            self.broken = True  # the peer is gone
            self.finish()
        except Exception as error:
            self.error = self.error or error
            self.wake()


class CallLink:
    """A call that ends with the rights of its caller: at once, whatever it waits for."""

    __slots__ = ("_task", "credential", "error", "rights")

    def __init__(self, credential: Credential, method: str) -> None:
        """Belong to a call of `method`, which the current task serves."""
        self.credential = credential
        self.rights: tuple[tuple[str, str], ...] = (("call", method),)
        self.error: SiraError | None = None
        self._task = asyncio.current_task()

    def end(self, error: SiraError) -> None:
        """Cancel what serves the call; it asks `ended` why."""
        if self.error is None and self._task is not None:
            self.error = error
            self._task.cancel()

    def ended(self) -> SiraError | None:
        """Return why it was cancelled, and take that back; None: not by `end`."""
        if self.error is not None and self._task is not None:
            self._task.uncancel()
        return self.error


class Links:
    """All streams of a node, so that a node that goes down can end them in order.

    And all other calls, which end like them when their callers' rights do.
    """

    def __init__(self) -> None:
        self._links: dict[StreamLink, None] = {}
        self._calls: dict[CallLink, None] = {}
        self.round = Round()
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

    @contextlib.contextmanager
    def watching(self, call: CallLink) -> Iterator[None]:
        """End a call when the rules, or the end of its credential, say so."""
        self._calls[call] = None
        expiry = self._end_at_expiry(call)
        try:
            yield
        finally:
            if expiry is not None:
                expiry.cancel()
            del self._calls[call]

    async def all_ended(self, wait_s: float) -> bool:
        """Wait until no stream is open, at most `wait_s`; whether that came true."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._empty.wait()
        return not self._links

    def recheck(self, access: Access) -> Iterator[None]:
        """End the streams and calls that the rules of now do not allow; yields after each step."""
        every: list[StreamLink | CallLink] = [*self._links, *self._calls]
        for index, link in enumerate(every, 1):
            error = access.over(link.credential)
            for action, resource in () if error is not None else link.rights:
                decision = access.decide(link.credential, action, resource)
                if isinstance(decision, Deny):
                    error = Revoked(
                        f"{link.credential.principal} may no longer {action} {resource}: "
                        f"{decision.reason}",
                        details={"action": action, "resource": resource, "rule": decision.reason},
                    )
            if error is not None and (link in self._links or link in self._calls):
                link.end(error)
            if index % _LINKS_A_STEP == 0:
                yield

    @staticmethod
    def _end_at_expiry(link: StreamLink | CallLink) -> asyncio.TimerHandle | None:
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
