"""When it is worth learning anew. Pure: time and counts come in."""

from __future__ import annotations

import math
from dataclasses import dataclass

# A look at what has moved comes so long after the first move: who starts registers many.
SETTLE_S = 2.0
# A training rests for so many times as long as it took: at most a twentieth of a core.
REST_FACTOR = 20
# Fewer changed examples than this share of those it was trained from wait for more; or for this
# many intervals.
CHANGED_SHARE = 0.02
PATIENCE_INTERVALS = 12
FAILURES_DOUBLED_MAX = 6
ENTRIES_MIN = 2  # one alone is told from nobody


@dataclass(frozen=True, slots=True)
class Rules:
    """What the settings ask for.

    Attributes:
        interval_s: between two trainings of one kind of one tenant, at least.
        examples_min: fewer teach nothing.
    """

    interval_s: float
    examples_min: int

    @property
    def settle_s(self) -> float:
        """How long after the first move to look."""
        return min(SETTLE_S, self.interval_s)


@dataclass(frozen=True, slots=True)
class Past:
    """How the last training went.

    Attributes:
        ended_s: when, by the clock of whoever asks.
        took_s: how long.
        failures: in a row; 0: it has succeeded.
    """

    ended_s: float
    took_s: float
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """What there is to learn from.

    Attributes:
        entries: capabilities.
        examples: of all of them, those that a person liked included.
        changed: examples of entries that are new or other than those learned from, and those
            learned from that are gone.
        learned_from: examples that what is in use was learned from; 0: nothing is.
    """

    entries: int
    examples: int
    changed: int
    learned_from: int


def rest_until_s(rules: Rules, past: Past | None) -> float:
    """Return the time before which nothing is trained; -inf: at once."""
    if past is None:
        return -math.inf
    wait_s = rules.interval_s * float(1 << min(past.failures, FAILURES_DOUBLED_MAX))
    return past.ended_s + max(wait_s, REST_FACTOR * past.took_s)


def due_s(rules: Rules, seen: Seen, past: Past | None) -> float:
    """Return the time from which on it is worth learning; inf: only when more has changed."""
    if seen.entries < ENTRIES_MIN or seen.examples < rules.examples_min or not seen.changed:
        return math.inf
    rest_s = rest_until_s(rules, past)
    if seen.changed >= CHANGED_SHARE * seen.learned_from or past is None:
        return rest_s
    return max(rest_s, past.ended_s + PATIENCE_INTERVALS * rules.interval_s)
