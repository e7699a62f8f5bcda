"""A request that a thread has posted past the node, and whose reply is waited for later."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING

from sira.client.message import SyncMessage
from sira.client.replies import PendingThread
from sira.kernel.errors import Timeout

if TYPE_CHECKING:
    from sira.client.requests_here import RequestsHere


class Asked:
    """The way to one reply. For any thread; who drops it, waits for none."""

    __slots__ = ("_id", "_pending", "_requests", "_timeout_s", "_turn", "_until_s")

    def __init__(
        self,
        requests: RequestsHere,
        pending: PendingThread,
        message_id: bytes,
        timeout_s: float | None,
        until_s: float,
    ) -> None:
        """Take a request over that was posted just now.

        Args:
            timeout_s: how long it may take, in s.
            until_s: of `time.monotonic`, when that is over.
        """
        self._requests, self._pending, self._id = requests, pending, message_id
        self._timeout_s, self._until_s = timeout_s, until_s
        self._turn = threading.Lock()  # one thread waits, others wait for what it gets

    def __del__(self) -> None:
        """Let it be answered in vain."""
        self._requests.forget(self._id)

    def reply(self, *, timeout_s: float | None = None) -> SyncMessage:
        """Return the answer, at each call the same.

        Args:
            timeout_s: how long to wait here, in s; None: as long as the request may take.
        Raises:
            Timeout: none came. SiraError: as `request`.
        """
        until_s = self._until_s
        if timeout_s is not None:
            until_s = min(until_s, time.monotonic() + max(0.0, timeout_s))
        if self._turn.acquire(blocking=False) or self._turn.acquire(timeout=_wait_s(until_s)):
            try:
                found = self._requests.wait(self._pending, self._id, until_s)
            finally:
                self._turn.release()
            if found is not None:
                return found
        if time.monotonic() >= self._until_s:
            raise self._requests.late(self._pending, self._id, self._timeout_s)
        raise Timeout(f"no reply in {timeout_s:g} s")


def _wait_s(until_s: float) -> float:
    """Return how long a lock may be waited for until then."""
    return -1 if until_s == math.inf else max(0.0, until_s - time.monotonic())
