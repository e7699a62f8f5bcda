"""How the parts of a score are weighed against each other. Plain functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from sira.registry.embed.interface import F32

LEXICAL = "lexical"  # BM25
FEATURES = "features"  # cosine of hashed features, without and with the parameters
MODEL = "model"  # cosine of the model's vectors, without and with the parameters
NEAR = "near"  # nearest examples, by features
MODEL_NEAR = "model near"  # nearest examples, by the model's vectors
MODEL_MEAN = "model mean"  # cosine with the mean of the examples' vectors
HEAD = "head"
PARTS = (LEXICAL, FEATURES, MODEL, NEAR, MODEL_NEAR, MODEL_MEAN, HEAD)
_EQUAL = 1e-9  # deviations under this are rounding

# Weights of z-scores: without examples and with, without a model and with. Found on parts of
# toole's `pool` and sealtools' `dev`, by turns (coordinate ascent on top-1 and top-5, over 5, 20
# and all examples); in steps of a tenth, for around the best they change little.
_WORDS = {LEXICAL: 0.3, FEATURES: 0.5}
_WORDS_MODEL = {LEXICAL: 0.1, FEATURES: 0.2, MODEL: 0.5}
_EXAMPLES = {LEXICAL: 1.5, FEATURES: 0.5, NEAR: 0.4}
_EXAMPLES_HEAD = {LEXICAL: 1.5, FEATURES: 0.3, NEAR: 0.2, HEAD: 1.3}
_EXAMPLES_MODEL = {
    LEXICAL: 1.0, MODEL: 0.4, NEAR: 0.2, MODEL_NEAR: 1.5, MODEL_MEAN: 0.7, HEAD: 0.2
}  # fmt: skip


def weights(present: Collection[str], *, have_examples: bool) -> Mapping[str, float]:
    """Return part -> weight of those that are present; they sum to 1."""
    if MODEL in present:
        chosen = _EXAMPLES_MODEL if have_examples else _WORDS_MODEL
    elif HEAD in present and have_examples:
        chosen = _EXAMPLES_HEAD
    else:
        chosen = _EXAMPLES if have_examples else _WORDS
    found = {part: chosen[part] for part in PARTS if part in present and part in chosen}
    total = sum(found.values()) or 1.0
    return {part: weight / total for part, weight in found.items()}


def has_unknown(values: F32) -> bool:
    """Whether there is a NaN among finite values: their sum is one, then."""
    return math.isnan(float(np.add.reduce(values)))


def standard(values: F32) -> F32:
    """Return z-scores: mean 0, deviation 1; zeros where all are equal. NaN stays NaN."""
    if len(values) and not has_unknown(values):  # nearly always: in fewer steps
        off = values - np.add.reduce(values) / np.float32(len(values))
        deviation = math.sqrt(float(off @ off) / len(values))
        return off / np.float32(deviation) if deviation >= _EQUAL else np.zeros_like(values)
    known = values[~np.isnan(values)]
    if not len(known):
        return np.full_like(values, np.nan)
    spread = float(known.std())
    if spread < _EQUAL:
        return np.where(np.isnan(values), values, np.float32(0)).astype(np.float32)
    return np.asarray((values - known.mean()) / np.float32(spread), np.float32)


def mixed(parts: Mapping[str, F32], weighed: Mapping[str, float]) -> dict[str, F32]:
    """Return part -> what it adds to each candidate's score; the score is their sum.

    A candidate that a part does not know (NaN) gets what its other parts say on average there: it
    is neither better nor worse for it.
    """
    if not any(has_unknown(parts[part]) for part in weighed):
        return {part: parts[part] * np.float32(weight) for part, weight in weighed.items()}
    stacked = np.stack([parts[part] for part in weighed])
    factors = np.array(list(weighed.values()), np.float32)[:, None]
    known = ~np.isnan(stacked)
    filled = np.where(known, stacked, 0)
    total = (factors * known).sum(axis=0)
    mean = (factors * filled).sum(axis=0) / np.maximum(total, 1e-9)
    added = factors * np.where(known, filled, mean)
    return {part: np.asarray(row, np.float32) for part, row in zip(weighed, added, strict=True)}


def soft_max_of_groups(
    values: F32, group: NDArray[np.int64], count: int, *, sharpness: float
) -> F32:
    """Return ln of the sum of exp(sharpness * value) of each group, / sharpness: f32[count].

    Near its largest value, and a little more where many are near. NaN for a group without values.
    """
    raised = np.exp(sharpness * (values.astype(np.float64) - 1))
    total = np.bincount(group, raised, count)
    with np.errstate(divide="ignore"):
        made = np.log(total) / sharpness + 1
    return np.where(total > 0, made, np.nan).astype(np.float32)
