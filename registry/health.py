"""Whether an agent is well, by its beats. Pure: time comes in, nothing is kept elsewhere.

An agent is suspected when a beat is late beyond what its own beats make likely: the phi accrual
detector (Hayashibara et al., 2004), over a running mean and deviation as RFC 6298 keeps them, and
with the logistic approximation of the normal distribution. Who is silent for a lease is down.
Who comes and goes is damped as routes are by RFC 2439: a penalty at each return, which halves with
time, and no full trust above a threshold until it has sunk below a lower one.

Time here is *heard* time, in ms: a counter that stands still while the node itself did (see
`Heard`). A node that was stopped or overloaded does not blame its agents for what it did not hear.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

_MEAN_GAIN, _DEVIATION_GAIN = 1 / 8, 1 / 4  # RFC 6298


class Status(IntEnum):
    """What is thought of an agent; numbers of `sira.v1.AgentStatus`."""

    UP = 1
    SUSPECT = 2
    DOWN = 3
    DRAINING = 4


@dataclass(frozen=True, slots=True)
class Rules:
    """When what is thought.

    Attributes:
        beat_ms: how often agents are asked to beat.
        suspect_ms: silent for so long: suspect, however irregular its beats are.
        lease_ms: silent for so long: down.
        phi: suspicion at which a late beat counts, -log10 of its likelihood.
        deviation_ms_min: a process on a busy host is this late without meaning anything.
        lag_ms_max: an agent whose own loop lags more is suspect, though it beats.
        flaps_max, flaps_min: penalty above which a return is not believed, until it is below.
        flap_half_ms: in which a penalty halves.
    """

    beat_ms: int = 5_000
    suspect_ms: int = 10_000
    lease_ms: int = 15_000
    phi: float = 8.0
    deviation_ms_min: float = 500.0
    lag_ms_max: int = 1_000
    flaps_max: float = 3.0
    flaps_min: float = 1.5
    flap_half_ms: int = 60_000

    @property
    def patience_ms(self) -> int:
        """Nobody is suspected for silence before."""
        return self.beat_ms + self.beat_ms // 2


@dataclass(slots=True, eq=False)
class Vital:
    """What is known of one agent's life.

    Attributes:
        beaten_ms: when it beat last, or registered; heard time.
        mean_ms, deviation_ms: of what lies between two beats.
        lost: why its connection ended; "": it did not.
        is_gone: it can be known to be dead: its process's socket on this host has closed.
        in_flight, waiting, lag_ms, draining: as it said itself.
        flaps, flaps_ms: penalty, and when it was that.
        is_damped: its penalty has passed `flaps_max` and not sunk below `flaps_min` since.
        status, reason, since_ms: as judged last.
        generation: which instance of its name.
        is_ours: it registered or beats on this node, which says to others what it thinks of it.
        home, told, told_reason: the node that says what is thought of it, and what; "", None: none
            does.
        is_cut: `lost` is this node's own fault, who cannot hear the home: it counts to no lease.
    """

    beaten_ms: int
    mean_ms: float
    deviation_ms: float
    lost: str = ""
    is_gone: bool = False
    in_flight: int = 0
    waiting: int = 0
    lag_ms: int = 0
    draining: bool = False
    flaps: float = 0.0
    flaps_ms: int = 0
    is_damped: bool = False
    status: Status = Status.UP
    reason: str = ""
    since_ms: int = 0
    generation: int = 0
    is_ours: bool = False
    home: str = ""
    told: Status | None = None
    told_reason: str = ""
    is_cut: bool = False


def begun(now_ms: int, rules: Rules, before: Vital | None = None) -> Vital:
    """Return the state of an agent that has just registered; `before`: what its name had."""
    vital = Vital(now_ms, float(rules.beat_ms), float(rules.beat_ms) / 4, since_ms=now_ms)
    if before is not None:
        vital.flaps, vital.flaps_ms, vital.is_damped = (
            before.flaps, before.flaps_ms, before.is_damped,
        )  # fmt: skip
        if before.status in (Status.DOWN, Status.SUSPECT) and not before.draining:
            _returned(vital, now_ms, rules)
        vital.status = before.status
    judge(vital, now_ms, rules)
    return vital


def beat(
    vital: Vital, now_ms: int, rules: Rules, *, in_flight: int = 0, waiting: int = 0,
    lag_ms: int = 0, draining: bool = False,
) -> bool:  # fmt: skip
    """Take a beat; return whether the status has changed."""
    took_ms = now_ms - vital.beaten_ms
    if took_ms > 0 and not vital.lost:
        vital.deviation_ms += _DEVIATION_GAIN * (abs(took_ms - vital.mean_ms) - vital.deviation_ms)
        vital.mean_ms += _MEAN_GAIN * (took_ms - vital.mean_ms)
    vital.beaten_ms, vital.lost, vital.is_gone = now_ms, "", False
    vital.in_flight, vital.waiting, vital.lag_ms = in_flight, waiting, lag_ms
    vital.draining = draining
    vital.is_ours, vital.home, vital.told, vital.is_cut = True, "", None, False
    if vital.status in (Status.DOWN, Status.SUSPECT) and lag_ms <= rules.lag_ms_max:
        _returned(vital, now_ms, rules)
    return judge(vital, now_ms, rules)


def lose(vital: Vital, now_ms: int, rules: Rules, *, reason: str, is_gone: bool) -> bool:
    """Take note that its connection has ended; return whether the status has changed."""
    vital.lost, vital.is_gone = reason, is_gone
    return judge(vital, now_ms, rules)


def tell(
    vital: Vital, now_ms: int, rules: Rules, *, home: str, status: Status, reason: str, age_ms: int,
    in_flight: int = 0, waiting: int = 0, lag_ms: int = 0,
) -> bool:  # fmt: skip
    """Take what another node thinks of an agent that beats there; return whether that is new here.

    Args:
        age_ms: how long before `now_ms` it beat last.
    """
    vital.beaten_ms, vital.lost, vital.is_gone, vital.is_cut = now_ms - age_ms, "", False, False
    vital.in_flight, vital.waiting, vital.lag_ms = in_flight, waiting, lag_ms
    vital.draining = status is Status.DRAINING
    vital.is_ours, vital.home, vital.told, vital.told_reason = False, home, status, reason
    return judge(vital, now_ms, rules)


def judge(vital: Vital, now_ms: int, rules: Rules) -> bool:
    """Work out what is thought of it now; return whether that has changed."""
    status, reason = _judged(vital, now_ms, rules)
    changed = status is not vital.status
    if changed:
        vital.status, vital.since_ms = status, now_ms
    vital.reason = reason
    return changed


def phi(silent_ms: float, mean_ms: float, deviation_ms: float) -> float:
    """Return how unlikely it is that a beat is still to come after so long, as -log10."""
    late = (silent_ms - mean_ms) / deviation_ms
    exponent = late * (1.5976 + 0.070566 * late * late)
    # log10(1 + e^x), without overflow
    return exponent / math.log(10) if exponent > 500 else math.log10(1 + math.exp(exponent))


def _judged(vital: Vital, now_ms: int, rules: Rules) -> tuple[Status, str]:
    silent_ms = now_ms - vital.beaten_ms
    if vital.told is not None:
        return _judged_elsewhere(vital, vital.told, silent_ms, rules)
    if vital.is_gone:
        return Status.DOWN, vital.lost
    if silent_ms >= rules.lease_ms:
        return Status.DOWN, f"silent for {silent_ms / 1e3:.1f} s"
    if vital.draining:
        return Status.DRAINING, "it takes nothing new"
    if vital.lost:
        return Status.SUSPECT, vital.lost
    if silent_ms >= rules.suspect_ms:
        return Status.SUSPECT, f"silent for {silent_ms / 1e3:.1f} s"
    if silent_ms >= rules.patience_ms:
        suspicion = phi(silent_ms, vital.mean_ms, max(vital.deviation_ms, rules.deviation_ms_min))
        if suspicion >= rules.phi:
            return Status.SUSPECT, f"a beat is late (phi {suspicion:.1f})"
    if vital.lag_ms > rules.lag_ms_max:
        return Status.SUSPECT, f"its loop lags by {vital.lag_ms} ms"
    if vital.is_damped and _penalty(vital, now_ms, rules) >= rules.flaps_min:
        return Status.SUSPECT, "it came and went too often"
    vital.is_damped = False
    return Status.UP, ""


def _judged_elsewhere(
    vital: Vital, told: Status, silent_ms: int, rules: Rules
) -> tuple[Status, str]:
    """What its home says holds as long as that is heard."""
    if not vital.lost or told is Status.DOWN:
        return told, vital.told_reason
    if silent_ms >= rules.lease_ms and not vital.is_cut:
        return Status.DOWN, f"{vital.lost}, for a lease"
    return (Status.DRAINING if told is Status.DRAINING else Status.SUSPECT), vital.lost


def _penalty(vital: Vital, now_ms: int, rules: Rules) -> float:
    return float(vital.flaps * 0.5 ** ((now_ms - vital.flaps_ms) / rules.flap_half_ms))


def _returned(vital: Vital, now_ms: int, rules: Rules) -> None:
    """Count a return, unless it has not been believed yet and only goes on."""
    if vital.is_damped and vital.status is Status.SUSPECT:
        return
    vital.flaps, vital.flaps_ms = _penalty(vital, now_ms, rules) + 1, now_ms
    vital.is_damped = vital.is_damped or vital.flaps > rules.flaps_max


class Heard:
    """The clock of `Status`: ms during which this node could have heard a beat.

    `tick` is called every `step_ms`; of what lies between two calls no more than three steps count.
    """

    def __init__(self, now_ms: int, *, step_ms: int) -> None:
        """Begin at 0."""
        self._last_ms, self._step_ms = now_ms, step_ms
        self._heard_ms = 0

    def tick(self, now_ms: int) -> int:
        """Go on to `now_ms`, CLOCK_MONOTONIC; return heard time."""
        self._heard_ms += min(max(0, now_ms - self._last_ms), 3 * self._step_ms)
        self._last_ms = max(self._last_ms, now_ms)
        return self._heard_ms

    def now(self, now_ms: int) -> int:
        """Return heard time between two ticks; it counts in the next one."""
        return self._heard_ms + min(max(0, now_ms - self._last_ms), 3 * self._step_ms)
