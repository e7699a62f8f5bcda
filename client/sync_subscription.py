"""A subscription without `await`: iterate it, or call `next`."""

from __future__ import annotations

import math
import time
from typing import Any, Self, cast

from sira.client.answers import Answers
from sira.client.connection import Connection
from sira.client.local.bells import Bells, Waiter, keep, waiter_here
from sira.client.message import SyncMessage
from sira.client.runner import Runner
from sira.client.subscription import Subscription
from sira.kernel.errors import BadRequest, Timeout


class SyncSubscription:
    """Messages that match a pattern; see `Subscription`. Several threads may take from it.

    Enter it (`with`): when that returns, every publish begun later matches.
    """

    def __init__(
        self,
        runner: Runner,
        connection: Connection,
        pattern: str,
        *,
        responder: Answers | None,
        **settings: Any,
    ) -> None:
        """Prepare, on the background loop; see `Bus.subscribe` for the settings."""
        assert responder is not None, "connected"
        self._runner = runner
        self._inner = _Waking(
            connection,
            pattern,
            responder=responder,
            message_type=SyncMessage,
            **settings,
        )
        self._direct = connection.direct
        self._opened = False

    @property
    def pattern(self) -> str:
        """The topic or pattern."""
        return self._inner.pattern

    @property
    def reconnects(self) -> int:
        """How often messages may have been missed because the connection was lost."""
        return self._inner.reconnects

    @property
    def unconfirmed(self) -> int:
        """Messages in hand when the connection was lost; see `Subscription`."""
        return self._inner.unconfirmed

    @property
    def cut(self) -> list[str]:
        """Parts of the pattern that this principal may not read."""
        return self._inner.cut

    def open(self) -> Self:
        """Open it: live when this returns; see `Subscription.open`."""
        if not self._opened:
            self._runner.run(self._inner.__aenter__())
            self._opened = True
        return self

    def __enter__(self) -> Self:
        """Open it: live when this returns."""
        return self.open()

    def __exit__(self, *_error: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Confirm what was taken and end the subscription; iteration ends everywhere."""
        self._runner.run(self._inner.close())

    def __iter__(self) -> Self:
        """Return itself."""
        return self

    def __next__(self) -> SyncMessage:
        """Return the next message, or end when the subscription was closed."""
        message = self._take(None)
        if message is None:
            raise StopIteration
        return message

    def next(self, *, timeout_s: float | None = None) -> SyncMessage:
        """Return the next message.

        Raises:
            Timeout: none came in `timeout_s`.
            BadRequest: the subscription is closed.
            SiraError: the node ended it.
        """
        message = self._take(timeout_s)
        if message is None:
            raise BadRequest(f"subscription {self.pattern} is closed", help="make a new one")
        return message

    def _take(self, timeout_s: float | None) -> SyncMessage | None:
        """Return the next message; None when closed."""
        message = self._inner.pop()
        if message is None:
            until_s = None if timeout_s is None else time.monotonic() + timeout_s
            bells = self._direct.bells
            if bells is not None and self._opened:
                wait_s = -1.0 if timeout_s is None else max(0.0, timeout_s)
                message = bells.native.next(self._inner, wait_s)
            if message is None:
                message = self._wait(timeout_s, until_s)
        return cast(SyncMessage | None, message)  # configure() said so

    def _wait(self, timeout_s: float | None, until_s: float | None) -> Any:
        self.open()
        bells: Bells | None = None
        waiter, inner = waiter_here(), self._inner
        inner.waiting.append(waiter)
        try:
            while True:
                # Armed first, looked at second: what comes in between is seen or announced.
                waiter.woken = False
                inner.arm()
                message = inner.pop()
                if message is not None:
                    return message
                if inner._error is not None:
                    raise inner._error
                if inner._finished.done():
                    return None
                left_s = math.inf if until_s is None else until_s - time.monotonic()
                if left_s <= 0:
                    raise Timeout(
                        f"next message of {self.pattern}: none in {timeout_s:g} s",
                        details={"timeout_s": f"{timeout_s:g}"},
                    )
                bells = self._direct.bells
                if bells is None:
                    waiter.sleep(left_s)
                else:
                    message = bells.take(waiter, inner, left_s)
                    if message is not None:
                        return message
        finally:
            inner.waiting.remove(waiter)
            if bells is not None:
                bells.leave(waiter)
            keep(waiter)


class _Waking(Subscription):
    """A subscription that tells threads, not tasks."""

    def __init__(self, *settings: Any, **further: Any) -> None:
        """Prepare; see `Subscription`."""
        self.waiting: list[Waiter] = []
        super().__init__(*settings, **further)

    def _arrived(self) -> None:
        bells = self._connection.direct.bells
        if bells is not None:
            bells.native.wake()
        for each in self.waiting.copy():
            each.wake()
        if self._waiters:
            super()._arrived()
