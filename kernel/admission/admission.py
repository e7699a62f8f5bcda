"""The limits in force, with what is left of each: buckets that routes ask in C, and counters.

A route of a publisher that no limit holds for carries no buckets, so that a node without limits
pays nothing. Belongs to the node's loop, as the buckets do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakMethod

from sira import _native
from sira.kernel.admission.limits import COUNTS, Limit
from sira.kernel.errors import QuotaExceeded
from sira.kernel.identity import Principal

_BUCKETS_MAX = 100_000  # about 300 bytes each; past it idle ones are forgotten
_CALLERS_MAX = 10_000  # principals whose buckets for calls are remembered

_Key = tuple[str, str, str]  # limit, scope, whose


class Admission:
    """Asked when a route is made, for each unary call, and when something is made or goes."""

    def __init__(
        self,
        limits: tuple[Limit, ...] = (),
        clock_ns: Callable[[], int] = _native.now_ns,
        on_refusal: Callable[[Limit, str], None] | None = None,
    ) -> None:
        """Begin with nothing used.

        Args:
            limits: those in force.
            clock_ns: CLOCK_MONOTONIC, for calls; streams bring their own time.
            on_refusal: told which limit refused and whose share it was (tenant, principal, topic).
        """
        self.limits = limits
        self._clock_ns = clock_ns
        self._on_refusal = on_refusal
        self._buckets: dict[_Key, _native.Bucket] = {}
        self._sweep_at = _BUCKETS_MAX
        self._callers: dict[Principal, tuple[_native.Bucket, ...]] = {}
        self._counts: Counter[_Key] = Counter()

    def change(self, limits: tuple[Limit, ...]) -> None:
        """Put other limits in force. What is used stays used where name and scope stay.

        Routes must be made anew: what they ask was chosen by the old limits.
        """
        self.limits = limits
        self._callers.clear()
        by_name = {(limit.name, limit.scope): limit for limit in limits}
        for key in list(self._buckets):
            limit = by_name.get(key[:2])
            if limit is None:
                del self._buckets[key]
            else:
                self._buckets[key].configure(
                    messages_per_s=limit.messages_per_s,
                    bytes_per_s=limit.bytes_per_s,
                    burst_s=limit.burst_s,
                    held_bytes=limit.held_bytes,
                )

    def for_route(self, principal: Principal, topic: str) -> tuple[_native.Bucket, ...]:
        """Return what the messages of a principal on a topic must pass; "": no topic."""
        found = []
        for limit in self.limits:
            if not (limit.messages_per_s or limit.bytes_per_s or limit.held_bytes):
                continue
            key = limit.key(principal, topic)
            if key is not None:
                found.append(self._bucket(limit, key))
        return tuple(found)

    def obliged(self, principal: Principal, messages_per_s: float) -> _native.Bucket:
        """Return the bucket of a rule's `rate`: one for each principal and rate."""
        limit = Limit(f"rate of a rule, {messages_per_s:g}/s", "principal",
                      messages_per_s=messages_per_s)  # fmt: skip
        return self._bucket(limit, str(principal))

    def check(self, principal: Principal, method: str) -> None:
        """Count a unary call, or the beginning of a stream, as one message of no bytes.

        Raises:
            RateLimited: `retry_after_ms` says when there is room.
        """
        if not self.limits:
            return
        buckets = self._callers.get(principal)
        if buckets is None:
            if len(self._callers) >= _CALLERS_MAX:
                self._callers.clear()
            buckets = self._callers[principal] = self.for_route(principal, "")
        if buckets:
            _native.admit(buckets, method, 1, 0, self._clock_ns())

    def take(self, what: str, principal: Principal) -> None:
        """Count one more of COUNTS for a principal and his tenant. Each needs its `give`.

        Raises:
            QuotaExceeded: a limit on it is reached; nothing was counted.
        """
        assert what in COUNTS, what
        for limit in self.limits:
            allowed = limit.count(what)
            key = limit.key(principal) if allowed else None
            if key is None or self._counts[what, limit.scope, key] < allowed:
                continue
            if self._on_refusal is not None:
                self._on_refusal(limit, key)
            raise QuotaExceeded(
                f"limit {limit.name!r}: {key} has {allowed} {what}, all that it allows",
                details={"limit": limit.name, "key": key, "what": what, "allowed": str(allowed)},
            )
        for scope, key in _holders(principal):
            self._counts[what, scope, key] += 1

    def give(self, what: str, principal: Principal) -> None:
        """Count one less. Requires: `take` has counted it."""
        for scope, key in _holders(principal):
            counted = what, scope, key
            assert self._counts[counted] > 0, counted
            self._counts[counted] -= 1
            if not self._counts[counted]:
                del self._counts[counted]

    def counted(self, what: str, principal: Principal) -> int:
        """Return how many of COUNTS a principal has."""
        return self._counts[what, "principal", str(principal)]

    def _bucket(self, limit: Limit, key: str) -> _native.Bucket:
        found = self._buckets.get((limit.name, limit.scope, key))
        if found is not None:
            return found
        if len(self._buckets) >= self._sweep_at:
            self._sweep()
        told = WeakMethod(self._refused)  # a bucket that held us would never be freed
        made = self._buckets[limit.name, limit.scope, key] = _native.Bucket(
            limit.name,
            key,
            messages_per_s=limit.messages_per_s,
            bytes_per_s=limit.bytes_per_s,
            burst_s=limit.burst_s,
            held_bytes=limit.held_bytes,
            on_refusal=partial(_tell, told, limit.name, key),
        )
        return made

    def _sweep(self) -> None:
        """Forget buckets that a new one could replace; wait longer for the next time if few go."""
        now_ns = self._clock_ns()
        self._callers.clear()
        for key in [key for key, bucket in self._buckets.items() if bucket.idle(now_ns)]:
            del self._buckets[key]
        self._sweep_at = max(_BUCKETS_MAX, 2 * len(self._buckets))

    def _refused(self, name: str, key: str) -> None:
        limit = next((each for each in self.limits if each.name == name), None)
        if limit is not None and self._on_refusal is not None:
            self._on_refusal(limit, key)


def _tell(told: WeakMethod[Any], name: str, key: str) -> None:
    method = told()
    if method is not None:
        method(name, key)


def _holders(principal: Principal) -> tuple[tuple[str, str], ...]:
    """Return who is charged for what a principal has: (scope, key)."""
    return ("tenant", principal.tenant), ("principal", str(principal))
