"""What outcomes change: a shift of an entry's score, inside bounds, that can be said and undone.

A record is what is kept of an entry; nothing here is random or timed. Two things are learned: how
often the entry served at all (`general`), and for which requests it did (`alike`). Both are
bounded, so that no grudge and no claque can bring an entry first that nothing else speaks for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sira.registry.embed import features
from sira.registry.embed.interface import F32

# In standard deviations over the candidates, as scores are. The first and second of a request that
# is well understood are two or more apart; of one that could be either's, under a half.
GENERAL_MAX = 0.2
ALIKE_MAX = 0.8
SHIFT_MAX = GENERAL_MAX + ALIKE_MAX
# Outcomes that it takes until a record counts for itself: odds start at PRIOR : PRIOR.
PRIOR = 3.0
COUNT_MAX = 200.0  # past it both counts are halved: what was long ago weighs less
REMEMBERED_MAX = 32  # requests of an entry, the latest
REMEMBERED_CHARS_MAX = 512
_LIKE_FROM = 0.5  # cosine of features; what is less alike says nothing
_ALIKE_STEP = 0.4  # of one outcome of the very same request

# Of ten calls that worked one may fail, and nothing is said against the agent. What merely worked
# never speaks for one: else who is asked most would come first.
FAILING_ALLOWED = 0.1

# What an outcome weighs: a person's word is whole, a failure may have been anyone's.
WEIGHTS = {"": 1.0, "error": 0.5, "timeout": 0.25}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one answer served. `kind`: "" (somebody's word), "error" or "timeout"."""

    ok: bool
    query: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of an entry's outcomes. `Record()` knows nothing: a reset.

    Attributes:
        good, bad: what people said, or others by hand.
        remembered: requests that it served well or badly.
        worked, failed: calls, as those who called have told by themselves.
        generation: of the agent that those calls were of: another instance begins anew.
    """

    good: float = 0.0
    bad: float = 0.0
    remembered: tuple[tuple[str, float], ...] = ()  # request -> weight, negative: it served badly
    worked: float = 0.0
    failed: float = 0.0
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Shift:
    """What a record adds to a score: within ±GENERAL_MAX and ±ALIKE_MAX.

    Attributes:
        failing: share of its calls that failed, where that speaks against it; else 0.
    """

    general: float = 0.0
    alike: float = 0.0
    nearest: str = ""  # the remembered request that says most of `alike`
    failing: float = 0.0

    @property
    def total(self) -> float:
        """Within ±SHIFT_MAX."""
        return self.general + self.alike


def after(record: Record, outcome: Outcome) -> Record:
    """Return the record with one more outcome."""
    weight = WEIGHTS.get(outcome.kind, WEIGHTS["error"])
    good = record.good + weight * outcome.ok
    bad = record.bad + weight * (not outcome.ok)
    if good + bad > COUNT_MAX:
        good, bad = good / 2, bad / 2
    remembered = record.remembered
    if outcome.query:
        signed = weight if outcome.ok else -weight
        asked = outcome.query[:REMEMBERED_CHARS_MAX]
        remembered = (*remembered, (asked, signed))[-REMEMBERED_MAX:]
    return replace(record, good=good, bad=bad, remembered=remembered)


def after_calls(
    record: Record, worked: int, failed: int, late: int, *, generation: int = 0
) -> Record:
    """Return the record after so many calls that worked, failed, or had no answer in time.

    Args:
        generation: of the agent; what calls said of an earlier one is forgotten.
    """
    if generation != record.generation:
        record = replace(record, worked=0.0, failed=0.0, generation=generation)
    good = record.worked + WEIGHTS["error"] * worked
    bad = record.failed + WEIGHTS["error"] * failed + WEIGHTS["timeout"] * late
    over = (good + bad) / COUNT_MAX
    if over > 1:
        # As one after the other would: halved until both fit.
        halved = 2.0 ** np.ceil(np.log2(over))
        good, bad = good / halved, bad / halved
    return replace(record, worked=float(good), failed=float(bad))


def shift(record: Record, query: str) -> Shift:
    """Return what a record adds to the entry's score for a request."""
    odds = np.log((record.good + PRIOR) / (record.bad + PRIOR))
    calls = np.log((FAILING_ALLOWED * record.worked + PRIOR) / (record.failed + PRIOR))
    failing = 0.0
    if calls < 0:
        odds += calls
        failing = record.failed / (record.failed + record.worked)
    general = GENERAL_MAX * float(np.tanh(odds / 2))
    total, most, nearest = 0.0, 0.0, ""
    asked = features.features(query)
    for text, weight in record.remembered:
        likeness = _cosine(asked, features.features(text))
        said = weight * max(0.0, likeness - _LIKE_FROM) / (1 - _LIKE_FROM) * _ALIKE_STEP
        total += said
        if abs(said) > abs(most):
            most, nearest = said, text
    return Shift(general, ALIKE_MAX * float(np.tanh(total / ALIKE_MAX)), nearest, failing)


def learned_examples(record: Record) -> tuple[str, ...]:
    """Return requests that a person said it served well: examples for the next head."""
    return tuple(dict.fromkeys(text for text, weight in record.remembered if weight >= 1))


def _cosine(one: tuple[NDArray[np.int32], F32], other: tuple[NDArray[np.int32], F32]) -> float:
    shared, at_one, at_other = np.intersect1d(
        one[0], other[0], assume_unique=True, return_indices=True
    )
    if not len(shared):
        return 0.0
    lengths = float(np.linalg.norm(one[1]) * np.linalg.norm(other[1]))
    return float(one[1][at_one] @ other[1][at_other]) / lengths
