"""Time that a test moves by hand."""

from __future__ import annotations

from collections.abc import Callable

from sira import _native


class Clock:
    """The node's time: it runs like the host's, and can be stepped forward or frozen."""

    def __init__(self) -> None:
        """Start at the time of the host."""
        self._ahead_ns = 0
        self._frozen_ns: int | None = None
        self.moved: list[Callable[[], None]] = []

    def now_ns(self) -> int:
        """Return the instant, in ns, as CLOCK_MONOTONIC counts."""
        if self._frozen_ns is not None:
            return self._frozen_ns
        return _native.now_ns() + self._ahead_ns

    def freeze(self) -> None:
        """Let time stand still; only `step` moves it from now on."""
        self._frozen_ns = self.now_ns()

    def step(self, seconds: float) -> None:
        """Move time forward; what the node does when it is due, it does before this returns."""
        assert seconds >= 0, "time does not run back"
        moved_ns = round(seconds * 1e9)
        if self._frozen_ns is not None:
            self._frozen_ns += moved_ns
        else:
            self._ahead_ns += moved_ns
        for call in list(self.moved):
            call()
