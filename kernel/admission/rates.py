"""Is there room? One pure function over named limits; by default there are none.

State is a token bucket a limit. The function takes state and time and returns the decision and the
next state; `Admission` below remembers it. A route of a publisher with no limit on it carries no
admission at all, so that a node without limits pays nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sira import _native
from sira.kernel.admission.limits import Limit
from sira.kernel.errors import QuotaExceeded, RateLimited, SiraError
from sira.kernel.identity import Principal

_BUCKETS_MAX = 100_000  # remembered (scope, key) pairs; past it idle ones are forgotten


@dataclass(frozen=True, slots=True)
class Bucket:
    """What is left of one limit: tokens (its burst at most), and when that was counted."""

    messages: float
    bytes: float
    at_ns: int


@dataclass(frozen=True, slots=True)
class Accept:
    """Take it."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Room comes in `wait_ms`."""

    wait_ms: int
    limit: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Waiting would not help."""

    code: str
    retry_after_ms: int
    limit: str


State = Mapping[tuple[str, str], Bucket]


def admit(
    principal: Principal,
    topic: str,
    bytes_: int,
    cost: int,
    *,
    limits: tuple[Limit, ...],
    state: State,
    now_ns: int,
) -> tuple[Accept | Wait | Refuse, dict[tuple[str, str], Bucket]]:
    """Decide on `cost` messages of `bytes_` bytes together.

    Returns:
        The decision, and the buckets to remember: changed ones only, none unless accepted, so that
        a refused message uses nothing up.
    """
    changed: dict[tuple[str, str], Bucket] = {}
    wait_s, waits_for = 0.0, ""
    for limit in limits:
        key = limit.key(principal, topic)
        if key is None:
            continue
        name = (limit.name, key)
        bucket = _refill(limit, state.get(name), now_ns)
        for left, need, rate in (
            (bucket.messages, float(cost), limit.messages_per_s),
            (bucket.bytes, float(bytes_), limit.bytes_per_s),
        ):
            if rate == 0:
                continue
            burst = rate * limit.burst_s
            if cost > 1 and need > burst:
                return Refuse("QUOTA_EXCEEDED", 0, limit.name), {}  # a batch that never fits
            missing = min(need, burst) - left
            if missing > 0 and missing / rate > wait_s:
                wait_s, waits_for = missing / rate, limit.name
        changed[name] = Bucket(bucket.messages - cost, bucket.bytes - bytes_, now_ns)
    if waits_for:
        return Wait(max(1, round(wait_s * 1e3)), waits_for), {}
    return Accept(), changed


def _refill(limit: Limit, bucket: Bucket | None, now_ns: int) -> Bucket:
    """Return the bucket as it stands now; one never seen is full."""
    if bucket is None:
        burst_s = limit.burst_s
        return Bucket(limit.messages_per_s * burst_s, limit.bytes_per_s * burst_s, now_ns)
    passed_s = max(0, now_ns - bucket.at_ns) / 1e9
    return Bucket(
        min(
            limit.messages_per_s * limit.burst_s, bucket.messages + passed_s * limit.messages_per_s
        ),
        min(limit.bytes_per_s * limit.burst_s, bucket.bytes + passed_s * limit.bytes_per_s),
        now_ns,
    )


@dataclass(slots=True)
class Admission:
    """Remembers buckets between decisions. Belongs to the node's loop."""

    limits: tuple[Limit, ...] = ()
    clock_ns: Callable[[], int] = _native.now_ns
    on_refusal: Callable[[Principal, str, str], None] | None = None
    _state: dict[tuple[str, str], Bucket] = field(default_factory=dict)

    def check(self, principal: Principal, topic: str, messages: int, bytes_: int) -> None:
        """Count a publish, or raise.

        Raises:
            RateLimited: `retry_after_ms` says when there is room.
            QuotaExceeded: it never fits.
        """
        decision, changed = admit(
            principal,
            topic,
            bytes_,
            messages,
            limits=self.limits,
            state=self._state,
            now_ns=self.clock_ns(),
        )
        if isinstance(decision, Accept):
            self._state.update(changed)
            if len(self._state) > _BUCKETS_MAX:
                self._forget()
            return
        if self.on_refusal is not None:
            self.on_refusal(principal, topic, decision.limit)
        raise _refusal(decision, topic)

    def for_route(self, principal: Principal, topic: str) -> Callable[[int, int], None] | None:
        """Return what a route asks before each message; None where no limit holds."""
        if all(limit.key(principal, topic) is None for limit in self.limits):
            return None
        return lambda messages, bytes_: self.check(principal, topic, messages, bytes_)

    def _forget(self) -> None:
        """Forget the older half: a bucket not seen for a second is full anyway."""
        by_age = sorted(self._state.items(), key=lambda item: item[1].at_ns)
        self._state = dict(by_age[len(by_age) // 2 :])


def _refusal(decision: Wait | Refuse, topic: str) -> SiraError:
    """Return the error of a decision other than Accept."""
    details = {"limit": decision.limit, "topic": topic}
    if isinstance(decision, Wait):
        return RateLimited(
            f"limit {decision.limit!r} has no room for {topic!r} before {decision.wait_ms} ms",
            details=details,
            retry_after_ms=decision.wait_ms,
        )
    return QuotaExceeded(f"limit {decision.limit!r} never has room for it", details=details)
