"""How late an event loop is, seen from another thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class LagProbe:
    """Asks a loop to say that it runs, and notes how long that took.

    `ask` and `lag_ms` belong to one thread, which is not the loop's.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, recovered: Callable[[], None]) -> None:
        """Prepare.

        Args:
            recovered: called on the loop when an answer came after it had been missed.
        """
        self._loop = loop
        self._recovered = recovered
        self._asked_s = 0.0  # 0: nothing is asked
        self._last_ms = 0
        self._missed = False

    def ask(self) -> None:
        """Ask, unless an answer is still due."""
        if self._asked_s:
            return
        self._asked_s = time.monotonic()
        try:
            self._loop.call_soon_threadsafe(self._answer)
        except RuntimeError:  # it is closed: its agents are about to be, too
            self._asked_s = 0.0

    @property
    def lag_ms(self) -> int:
        """How long the last answer took, or the one that is due has been missing."""
        asked_s = self._asked_s
        if not asked_s:
            return self._last_ms
        return max(self._last_ms, round((time.monotonic() - asked_s) * 1e3))

    @property
    def is_due(self) -> bool:
        """Whether an answer is still missing; then `recovered` will be called with it."""
        if not self._asked_s:
            return False
        self._missed = True
        return bool(self._asked_s)

    def _answer(self) -> None:
        self._last_ms = round((time.monotonic() - self._asked_s) * 1e3)
        self._asked_s = 0.0
        if self._missed:
            self._missed = False
            self._last_ms = 0  # what was missed has been told
            self._recovered()
