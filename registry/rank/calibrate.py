"""What a ranking is worth: how often its first candidate is right, learned from held-out requests.

Logistic regression on a few signals of the ranking, with weights that are never negative: a larger
margin, more agreement, likeness or coverage never lowers the confidence. Fitted on requests that
the ranker has not seen, with Platt's targets (1999, 2.2), never on those it is judged by.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sira.registry.embed.interface import F32
from sira.registry.rank import mix
from sira.registry.rank.ranker import Ranking, Scored

SIGNALS = ("margin", "score", "agreement", "likeness", "coverage")
EVIDENCE = ("score", "likeness", "coverage", "head")
PRECISION = 0.95  # of answers that name one candidate
# Of requests that a shortlist of five would have served, answered with nothing.
LOST_MAX = 0.02
# Fewer requests tell too little of how often one is right: what is known of others is kept.
FIT_MIN = 40
# Whom to send away is learned from more: nothing at all is a worse answer than a shortlist.
FIT_HERE_MIN = 100
_STEPS, _RIDGE = 400, 1e-3
_HERE_FROM_MAX = 0.5
_HEADS = 5  # candidates among which the head may know one
_MARGIN_MAX = 4.0  # standard deviations; beyond, it is only clearer


@dataclass(frozen=True, slots=True)
class Calibration:
    """How signals become a confidence, and which confidence suffices.

    Attributes:
        weights: one for each of SIGNALS, at least 0.
        bias: added to their sum; the confidence is the logistic function of it.
        answer_from: confidence from which on one candidate is answered alone.
        nothing_below: confidence under which nothing is answered.
        fitted_on: so many requests.
        here: how EVIDENCE becomes the chance that what was asked for is here at all, as `weights`
            and `bias`; the weights are empty where that was not learned.
        here_from: under this chance nothing is answered, in the place of `nothing_below`.
    """

    weights: tuple[float, ...]
    bias: float
    answer_from: float
    nothing_below: float
    fitted_on: int
    here: tuple[tuple[float, ...], float] = ((), 0.0)
    here_from: float = 0.0

    def confidence(self, signals: F32) -> float:
        """Return how often such a ranking's first candidate is right, 0 to 1.

        Args:
            signals: f32[5], as `signals_of` gives them.
        """
        return float(_logistic(np.dot(np.asarray(self.weights), signals) + self.bias))

    def is_foreign(self, evidence: F32) -> bool:
        """Whether what was asked for is hardly among what there is; False: that is not known.

        Args:
            evidence: f32[4], as `evidence_of` gives it.
        """
        return bool(self.here[0]) and self.presence(evidence) < self.here_from

    def presence(self, evidence: F32) -> float:
        """Return the chance that what was asked for is here, 0 to 1, where that was learned."""
        weights, bias = self.here
        return float(_logistic(np.dot(np.asarray(weights), evidence) + bias))


def signals_of(ranking: Ranking) -> F32:
    """Return what tells right rankings from wrong ones, f32[5], each at least 0; see SIGNALS."""
    if not ranking.scored:
        return np.zeros(len(SIGNALS), np.float32)
    first = ranking.scored[0]
    others = [each for each in ranking.scored if each.held.twin != first.held.twin]
    margin = first.score - others[0].score if others else _MARGIN_MAX
    likeness = max(first.example_likeness, 0.0)
    if ranking.considered > 1:
        # The furthest that one of n can stand from their mean is sqrt(n - 1) deviations.
        score = max(first.score, 0.0) / np.sqrt(ranking.considered - 1)
    else:  # one alone stands nowhere: how much of the request it has must do
        score = np.sqrt(max(ranking.coverage, likeness))
    return np.array([
        np.sqrt(min(max(margin, 0.0), _MARGIN_MAX)),
        score,
        _agreement(first, others),
        likeness,
        ranking.coverage,
    ], np.float32)  # fmt: skip


def evidence_of(ranking: Ranking) -> F32:
    """Return what tells requests for somebody here from all others, f32[4]; see EVIDENCE.

    Margin and agreement do not: somebody is always first.
    """
    if not ranking.scored:
        return np.zeros(len(EVIDENCE), np.float32)
    _, score, _, likeness, coverage = signals_of(ranking)
    head = max(each.raw.get(mix.HEAD, 0.0) for each in ranking.scored[:_HEADS])
    return np.array([score, likeness, coverage, max(head, 0.0)], np.float32)


def fit_here(calibration: Calibration, present: F32, absent: F32) -> Calibration:
    """Learn when to answer nothing from what is here, and from the same without those meant.

    Args:
        present: f32[n, 4], evidence of held-out requests that five candidates served.
        absent: f32[m, 4], of requests whose entries (and their twins) were left out.
    """
    if min(len(present), len(absent)) < FIT_HERE_MIN:
        return calibration
    both = np.vstack([present, absent]).astype(np.float64)
    target = np.repeat([1.0, 0.0], [len(present), len(absent)])
    scale = np.maximum(both.std(axis=0), 1e-3)
    weights, bias = _projected_newton(both / scale, target)
    weights = weights / scale
    learned = replace(calibration, here=(tuple(float(each) for each in weights), float(bias)))
    sure = np.array([learned.presence(row) for row in present])
    # Examples may be more alike than requests will be: what is likelier here than not is answered
    # in any case.
    here_from = min(float(np.quantile(sure, LOST_MAX, method="lower")), _HERE_FROM_MAX)
    return replace(learned, here_from=here_from)


def fit(
    signals: F32,
    right: NDArray[np.bool_],
    *,
    among_five: NDArray[np.bool_] | None = None,
    instead: Calibration,
    precision: float = PRECISION,
) -> Calibration:
    """Fit on held-out requests.

    Args:
        signals: f32[n, 5].
        right: bool[n]: whether the first candidate was right.
        among_five: bool[n]: whether the right one was among the first five; None: where `right`.
            Under the confidence of all but LOST_MAX of these nothing is answered.
        instead: given back where n is under FIT_MIN or all are right, or all wrong.
        precision: of what is answered alone.
    """
    count = len(right)
    good = int(right.sum())
    if count < FIT_MIN or good in (0, count):
        return instead
    # Platt's targets: not 0 and 1, which no finite sample proves.
    target = np.where(right, (good + 1) / (good + 2), 1 / (count - good + 2))
    scale = np.maximum(signals.std(axis=0), 1e-3).astype(np.float64)
    weights, bias = _projected_newton(signals / scale, target)
    weights = weights / scale
    learned = replace(
        instead, weights=tuple(float(each) for each in weights), bias=float(bias), fitted_on=count
    )
    # Each as it will be asked for: of all rows at once, some CPUs round the last bit otherwise, and
    # the request that a threshold is made of would be on its wrong side.
    sure = np.array([learned.confidence(row) for row in signals])
    found = sure[right if among_five is None else among_five]
    return replace(
        learned,
        answer_from=_threshold(sure, right, precision),
        nothing_below=float(np.quantile(found, LOST_MAX, method="lower")),
        here=((), 0.0),
        here_from=0.0,
    )


def _agreement(first: Scored, others: list[Scored]) -> float:
    """Return the share of parts, by weight of what they added, that put the first one first."""
    if not others:
        return 1.0
    wins = sum(value >= first.most(part, others) for part, value in first.parts.items())
    return wins / max(len(first.parts), 1)


def _projected_newton(
    signals: NDArray[np.float64], target: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Minimise the logistic loss with weights of at least 0: gradient steps, scaled, projected."""
    count, width = signals.shape
    design = np.hstack([signals, np.ones((count, 1))])
    # The logistic loss curves by at most a quarter of design'design: a step that never overshoots.
    step = 4 / float(np.linalg.eigvalsh(design.T @ design / count)[-1] + 4 * _RIDGE)
    made = np.zeros(width + 1)
    ahead, pace = made.copy(), 1.0
    for _ in range(_STEPS):  # Nesterov's, as in FISTA (Beck and Teboulle, 2009)
        slope = design.T @ (_logistic(design @ ahead) - target) / count
        slope[:width] += _RIDGE * ahead[:width]
        before, made = made, ahead - step * slope
        made[:width] = np.maximum(made[:width], 0)
        next_pace = (1 + np.sqrt(1 + 4 * pace * pace)) / 2
        ahead = made + (pace - 1) / next_pace * (made - before)
        pace = next_pace
    return made[:width], float(made[width])


def _threshold(sure: NDArray[np.float64], right: NDArray[np.bool_], precision: float) -> float:
    """Return the least confidence such that those at or above it are right often enough.

    A standard error above `precision`: the best of many thresholds is a lucky one, and requests to
    come are not drawn as examples were.
    """
    order = np.argsort(-sure, kind="stable")
    answered = np.arange(1, len(order) + 1)
    found = np.cumsum(right[order]) / answered
    enough = precision + np.sqrt(precision * (1 - precision) / answered)
    fits = np.flatnonzero((found >= np.minimum(enough, 1)) & (answered >= FIT_MIN // 2))
    return float(sure[order[fits[-1]]]) if len(fits) else 1.0


def _logistic(values: NDArray[np.float64] | float) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -30, 30))))


# Before anything was learned. Fitted on a fifth of toole's `pool`, without examples and with 20 an
# agent from the rest, and rounded; for smaller or other registries they are a first guess.
DEFAULT = Calibration(
    weights=(0.6, 3.8, 0.4, 7.6, 0.0), bias=-4.9, answer_from=0.9, nothing_below=0.05, fitted_on=0
)
DEFAULT_WITH_EXAMPLES = Calibration(
    weights=(0.9, 3.0, 0.5, 4.0, 0.5), bias=-4.3, answer_from=0.9, nothing_below=0.05, fitted_on=0
)
