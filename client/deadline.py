"""How long a caller still waits."""

from __future__ import annotations

import asyncio
import math

from sira.kernel.errors import BadRequest, Timeout


class Deadline:
    """An instant of the running loop's clock; None of `timeout_s` never comes."""

    __slots__ = ("at_s", "loop", "timeout_s")

    def __init__(self, timeout_s: float | None, loop: asyncio.AbstractEventLoop) -> None:
        """Start counting.

        Raises:
            BadRequest: `timeout_s` is negative or no number.
        """
        if timeout_s is not None and not timeout_s >= 0:
            raise BadRequest(f"timeout_s is {timeout_s}", help="give seconds, 0 or more")
        self.loop = loop
        self.timeout_s = timeout_s
        self.at_s = math.inf if timeout_s is None else loop.time() + timeout_s

    def left_s(self) -> float:
        """Return the seconds left, 0 or more; infinite without a timeout."""
        return max(0.0, self.at_s - self.loop.time())

    def timer_s(self) -> float | None:
        """Return the seconds left in the form that `asyncio.timeout` takes."""
        return None if self.at_s == math.inf else self.left_s()

    def error(self, what: str, **details: str) -> Timeout:
        """Return the error that says whose time was up."""
        return Timeout(
            f"{what}: no answer in {self.timeout_s:g} s",
            details={"timeout_s": f"{self.timeout_s:g}", **details},
        )
