"""Whether an agent is asked again after it has failed. Pure: time comes in."""

from __future__ import annotations

FAILURES_MAX = 5
WAIT_S_MIN, WAIT_S_MAX = 1.0, 30.0


class Breaker:
    """A circuit breaker (Nygard, Release It!, 2007): closed, open, or half open.

    Closed, all requests go through; after `FAILURES_MAX` failures in a row it opens. Open, none do,
    until it has waited; then one does, whose end closes it or opens it for twice as long.

    Attributes:
        failures: in a row.
        until_s: when it is half open; 0: it is closed.
    """

    __slots__ = ("_probing", "_wait_s", "failures", "until_s")

    def __init__(self) -> None:
        """Begin closed."""
        self.failures = 0
        self.until_s = 0.0
        self._wait_s = 0.0
        self._probing = False

    def allows(self, now_s: float) -> bool:
        """Whether a request may go through."""
        return not self.until_s or (now_s >= self.until_s and not self._probing)

    def begin(self) -> None:
        """Take note that a request goes through. Requires: `allows`."""
        self._probing = bool(self.until_s)

    def succeed(self) -> None:
        """Take note that a request was answered."""
        self.failures = 0
        self.until_s = self._wait_s = 0.0
        self._probing = False

    def fail(self, now_s: float) -> None:
        """Take note that one was not."""
        self.failures += 1
        if self._probing or self.failures == FAILURES_MAX:
            self._wait_s = min(max(WAIT_S_MIN, 2 * self._wait_s), WAIT_S_MAX)
            self.until_s = now_s + self._wait_s
        self._probing = False

    def abandon(self) -> None:
        """Take note that nobody waited for the end of one."""
        self._probing = False
