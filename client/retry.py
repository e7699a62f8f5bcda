"""What is tried again, how often, and how long between: a value, without a clock."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from sira.kernel.errors import QuotaExceeded, RateLimited, SiraError

# Clients that are refused together come back a little apart.
_JITTER = 0.25


@dataclass(frozen=True, kw_only=True)
class Retry:
    """What the SDK tries again by itself, always inside the caller's `timeout_s`.

    Attributes:
        connects: connecting, and coming back after a lost connection.
        publishes: a publish whose answer was lost, under its own id, so that the node never takes
            it twice; and one that a node refused because it drains.
        limited: what a limit has no room for at the moment: published messages wait on the node, in
            order of their topic (`sira-limits` of the wire format); what it refuses all the same
            (`RATE_LIMITED`, and `QUOTA_EXCEEDED` that says when to try again), and calls, are tried
            again when the node says, and a random part of it later. Nobody got what was refused, so
            it is never there twice.
        requests: requests marked `idempotent=True`; others are never sent twice.
        delay_min_s, delay_max_s: the wait doubles from the first to the second; what is slept is a
            random part of it, so that clients of one lost node do not come back in step.
    """

    connects: bool = True
    publishes: bool = True
    requests: bool = True
    limited: bool = True
    delay_min_s: float = 0.02
    delay_max_s: float = 2.0

    def __post_init__(self) -> None:
        """Refuse waits that are not a range."""
        if not 0 < self.delay_min_s <= self.delay_max_s:
            raise ValueError(
                f"0 < delay_min_s <= delay_max_s, not {self.delay_min_s} and {self.delay_max_s}"
            )

    def limit_delay_s(self, error: SiraError, rng: random.Random) -> float | None:
        """Return how long to wait for room within a limit, in s; None: it is not waited for."""
        limit = isinstance(error, RateLimited | QuotaExceeded) and error.retry_after_ms > 0
        if not (limit and self.limited):
            return None
        return error.retry_after_ms / 1e3 * rng.uniform(1.0, 1.0 + _JITTER)

    def delays_s(self, rng: random.Random) -> Iterator[float]:
        """Yield how long to wait before each further try, in s, without end."""
        ceiling_s = self.delay_min_s
        while True:
            yield rng.uniform(ceiling_s / 2, ceiling_s)
            ceiling_s = min(ceiling_s * 2, self.delay_max_s)
