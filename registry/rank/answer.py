"""A ranking made into an answer: one, a shortlist, or nothing, each with its reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sira.registry.embed.interface import F32
from sira.registry.rank import mix
from sira.registry.rank.calibrate import Calibration, evidence_of, signals_of
from sira.registry.rank.feedback import Shift
from sira.registry.rank.ranker import Ranking, Scored

# Parts as the contract names them (registry.proto, Reason.part).
_SAID_AS = {
    mix.LEXICAL: "lexical", mix.FEATURES: "dense", mix.MODEL: "dense", mix.NEAR: "example",
    mix.MODEL_NEAR: "example", mix.MODEL_MEAN: "example", mix.HEAD: "head",
}  # fmt: skip
# What at least one must reach, or nothing is answered: a request that shares no more with what is
# there is about something else. Share of its words; likeness to a text or an example.
EVIDENCE_COVERAGE = 0.15
EVIDENCE_LIKENESS = 0.12
EVIDENCE_LIKENESS_MODEL = 0.3


@dataclass(frozen=True, slots=True)
class Reason:
    """What one part says of a candidate: its part of the score, and words for people."""

    part: str
    value: float
    text: str


@dataclass(frozen=True, slots=True)
class Match:
    """A candidate as it is answered.

    Attributes:
        confidence: of the first, calibrated; of the others, what it leaves them, by their scores.
        twin: equal for candidates that say the same, so that health and load may choose; from 1.
    """

    key: str
    score: float
    confidence: float
    reasons: tuple[Reason, ...]
    twin: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request means.

    Attributes:
        matches: best first: the sure one (and its twins), or a shortlist; empty where nothing fits.
        runners_up: what came next, with a reason why not.
        no_match: nothing fits well enough.
        is_shortlist: the first is not sure enough to be taken alone.
        reason: why there is none, or why a shortlist; "" for one.
    """

    matches: tuple[Match, ...]
    runners_up: tuple[Match, ...]
    no_match: bool
    is_shortlist: bool
    reason: str


def answer(
    ranking: Ranking,
    calibration: Calibration,
    *,
    k: int = 5,
    runners_up: int = 3,
    shifts: Mapping[str, Shift] | None = None,
) -> Answer:
    """Decide.

    Args:
        calibration: learned with the same head, or the default.
        k: longest shortlist.
        runners_up: how many are named beside the matches.
        shifts: as given to `rank`, for the reasons.
    """
    if not ranking.scored:
        return Answer((), (), True, False, _why_empty(ranking))
    sure = calibration.confidence(signals_of(ranking))
    shares = _shares(ranking.scored, sure)
    twins = _twins(ranking.scored)
    first = ranking.scored[0]
    scored, first = ranking.scored, ranking.scored[0]

    def told(at: int) -> Match:
        each = scored[at]
        reasons = _reasons(each, first, ranking, shifts or {})
        return Match(each.key, each.score, shares[at], reasons, twins[at])

    if why := _why_nothing(ranking, sure, calibration):
        these = range(min(runners_up, len(scored)))
        return Answer((), tuple(_not(told(at), why) for at in these), True, False, why)
    if sure >= calibration.answer_from:
        chosen = [at for at, twin in enumerate(twins) if twin == twins[0]]
        why = "the first is sure"
    else:
        chosen = list(range(min(k, len(scored))))
        why = f"past the {k} asked for"
    taken = set(chosen)
    rest = [at for at in range(len(scored)) if at not in taken][:runners_up]
    is_shortlist = sure < calibration.answer_from
    reason = ""
    if is_shortlist:
        reason = f"such an answer is right {sure:.0%} of the time: choose, or ask in more words"
    said = tuple(
        _not(told(at), f"{why}; {first.score - scored[at].score:.2f} behind it") for at in rest
    )
    return Answer(tuple(told(at) for at in chosen), said, False, is_shortlist, reason)


def _why_empty(ranking: Ranking) -> str:
    if not ranking.considered:
        return "there is nobody to ask"
    if not len(ranking.query.places) and ranking.query.vector is None:
        return "the request has no words"
    return "nothing here shares a word with it"


def _why_nothing(ranking: Ranking, sure: float, calibration: Calibration) -> str:
    """Return why nothing is answered; "" where something is."""
    likeness = max(each.example_likeness for each in ranking.scored)
    enough = EVIDENCE_LIKENESS_MODEL if ranking.query.vector is not None else EVIDENCE_LIKENESS
    if ranking.coverage < EVIDENCE_COVERAGE and likeness < enough:
        return (
            f"nothing here is about it: the nearest has {ranking.coverage:.0%} of its words, "
            f"likeness {likeness:.2f}"
        )
    if calibration.here[0]:
        if calibration.is_foreign(evidence_of(ranking)):
            return "nothing here is about it: requests for what is here look otherwise"
    elif sure < calibration.nothing_below:
        return f"the best would be right {sure:.0%} of the time"
    return ""


def _shares(scored: tuple[Scored, ...], sure: float) -> list[float]:
    """Return confidences: the first's, and the rest of it by exp(score)."""
    scores: F32 = np.array([each.score for each in scored[1:]], np.float32)
    if not len(scores):
        return [sure]
    raised = np.exp(scores - scores.max())
    return [sure, *((1 - sure) * raised / raised.sum()).tolist()]


def _twins(scored: tuple[Scored, ...]) -> list[int]:
    seen: dict[bytes, int] = {}
    return [seen.setdefault(each.held.twin, len(seen) + 1) for each in scored]


def _reasons(
    each: Scored, first: Scored, ranking: Ranking, shifts: Mapping[str, Shift]
) -> tuple[Reason, ...]:
    """Return one reason a part, the largest first; parts of one name in one."""
    added: dict[str, float] = {}
    for part, value in each.parts.items():
        added[_SAID_AS[part]] = added.get(_SAID_AS[part], 0.0) + value
    shared = ", ".join(each.shared)
    words = {
        "lexical": f"shares {shared}" if shared else "shares no word",
        "dense": _nearness(each, ranking),
        "example": f"nearest: {each.example!r}, likeness {each.example_likeness:.2f}"
        if each.example
        else f"no example is nearer than its text, likeness {each.example_likeness:.2f}",
        "head": f"learned, head {ranking.head[:8]}",
    }
    made = [Reason(part, value, words[part]) for part, value in added.items()]
    if each.shift:
        made.append(Reason("feedback", each.shift, _of_feedback(shifts.get(each.key))))
    return tuple(sorted(made, key=lambda reason: -abs(reason.value)))


def _nearness(each: Scored, ranking: Ranking) -> str:
    by = ranking.model or "hashed features"
    found = each.raw.get(mix.MODEL if ranking.model else mix.FEATURES, 0.0)
    return f"its text is at {found:.2f} by {by}"


def _of_feedback(shift: Shift | None) -> str:
    if shift is None:
        return "earlier outcomes"
    said = [f"in general {shift.general:+.2f}"]
    if shift.failing:
        said.append(f"{shift.failing:.0%} of its calls failed")
    if shift.nearest:
        said.append(f"requests like {shift.nearest!r} {shift.alike:+.2f}")
    return "earlier outcomes: " + ", ".join(said)


def _not(each: Match, why: str) -> Match:
    """Return a runner-up, with why not as its first reason."""
    return Match(each.key, each.score, each.confidence, (Reason("why not", 0.0, why),
                 *each.reasons), each.twin)  # fmt: skip
