"""A request beside many entries at once: cosines of hashed features and of a model's vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import is_not
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sira import _native
from sira._native import Features
from sira.registry.embed import features
from sira.registry.embed.interface import F32
from sira.registry.rank import mix
from sira.registry.rank.entries import NEAR_EXAMPLES_MAX, Held

# idf of texts that say what something does is raised to the power of 1.5 (native/search_py.c):
# words that they all use say little.
# Logarithms kept of so many counts: of larger ones they are worked out each time.
_LOGS = 1 << 14
# How soon a farther example counts for nothing beside the nearest: exp(-sharpness * difference).
_SHARPNESS, _MODEL_SHARPNESS = 40.0, 20.0


class Asked(Protocol):
    """What is read of a query."""

    @property
    def places(self) -> NDArray[np.int32]:
        """Features."""
        ...

    @property
    def values(self) -> F32:
        """Their weights."""
        ...

    @property
    def vector(self) -> F32 | None:
        """Of the model."""
        ...


class Weighed:
    """How rare each feature is among all texts held: ln((1 + texts) / (1 + have it)) + 1.

    Nothing is made anew when an entry comes or goes: what a feature weighs is worked out when it is
    compared, from how many have it.
    """

    def __init__(self) -> None:
        """Begin with no text."""
        self._have = np.zeros(features.PLACES, np.int32)
        self._texts = 0
        self._logs: F32 = np.zeros(features.PLACES, np.float32)  # ln(1 + have)
        self._kept: F32 = np.log1p(np.arange(_LOGS, dtype=np.float32))
        # Zeros between two uses: a query's values by place. A fresh one would cost a megabyte.
        self._spread: F32 = np.zeros(features.PLACES, np.float32)

    def count(self, held: Held, by: int) -> None:
        """Count an entry's texts in (1) or out (-1)."""
        for rows in (held.whole, held.near):
            _native.count_features(self._have, self._logs, self._kept, rows, by)
        self._texts += by * (1 + len(held.near))

    def cosines(self, query: Asked, rows: list[Features], count: int, *, is_text: bool) -> F32:
        """Return the cosine of a query with each of `count` rows: f32[count], 0 of an empty one.

        Args:
            is_text: rows say what something does, so that common words are to count for less.
        """
        return _native.cosines(
            rows, count, self._logs, math.log1p(self._texts) + 1, is_text,
            self._spread, query.places, query.values,
        )  # fmt: skip


class Compared:
    """Candidates side by side. Holds while no entry comes or goes."""

    def __init__(self, held: Sequence[Held], weighed: Weighed) -> None:
        self._weighed = weighed
        self._text = [each.text for each in held]
        whole = [each.whole for each in held]
        self._whole = whole if any(map(is_not, whole, self._text)) else None
        self.have_examples = any([each.has_examples for each in held])  # a list: faster
        have = list[Held]()
        if held and held[0].vectors is not None:
            have = [each for each in held if each.vectors is not None and each.mean is not None]
        self._vectors: tuple[F32, F32, F32] | None = None
        if have and len(have) == len(held):
            self._vectors = (
                np.stack([each.vectors.text for each in have if each.vectors]),
                np.stack([each.vectors.whole for each in have if each.vectors]),
                np.stack([each.mean for each in have if each.mean is not None]),
            )

    def features(self, query: Asked) -> F32:
        """Cosines of features: mean of z-scores of those without and with parameters."""
        text = self._weighed.cosines(query, self._text, len(self._text), is_text=True)
        if self._whole is None:
            return text
        whole = self._weighed.cosines(query, self._whole, len(self._whole), is_text=True)
        return (mix.standard(text) + mix.standard(whole)) / np.float32(2)

    def model(self, vector: F32) -> dict[str, F32]:
        """Cosines of the model's vectors, as `features`, and with the examples' mean."""
        if self._vectors is None:
            return {}
        text, whole, mean = (each @ vector for each in self._vectors)
        made = {mix.MODEL: text}
        if self._whole is not None:
            made[mix.MODEL] = (mix.standard(text) + mix.standard(whole)) / np.float32(2)
        if self.have_examples:
            made[mix.MODEL_MEAN] = mean
        return {part: np.asarray(values, np.float32) for part, values in made.items()}


@dataclass(frozen=True, slots=True)
class Nearest:
    """Of each candidate: parts of the score, and its nearest example with its cosine."""

    parts: dict[str, F32]
    best: list[tuple[float, str]]


def nearest(
    query: Asked, held: Sequence[Held], weighed: Weighed, *, have_examples: bool
) -> Nearest:
    """Compare a request with the examples of candidates, one by one; a text is an example, too.

    Args:
        have_examples: whether any candidate has some; without, there are no parts.
    """
    counts = np.array([len(each.near) for each in held])
    group = np.repeat(np.arange(len(held)), counts)
    first = np.cumsum(counts) - counts
    parts: dict[str, F32] = {}
    likeness = np.zeros(len(group), np.float32)
    if len(query.places):
        rows = [each.near for each in held]
        likeness = weighed.cosines(query, rows, len(group), is_text=False)
        if have_examples:
            parts[mix.NEAR] = mix.soft_max_of_groups(
                likeness, group, len(held), sharpness=_SHARPNESS
            )
    if query.vector is not None and all(each.vectors is not None for each in held):
        vectors = np.vstack([
            part for each in held if each.vectors is not None
            for part in (each.vectors.examples[:NEAR_EXAMPLES_MAX], each.vectors.text[None])
        ])  # fmt: skip
        by_model = vectors @ query.vector
        likeness = np.maximum(likeness, by_model)
        if have_examples:
            parts[mix.MODEL_NEAR] = mix.soft_max_of_groups(
                by_model, group, len(held), sharpness=_MODEL_SHARPNESS
            )
    if len(group) == len(held):  # nobody has examples
        return Nearest(parts, [(each, "") for each in likeness.tolist()])
    best = []
    for i, each in enumerate(held):
        own = likeness[first[i] : first[i] + counts[i]]
        at = int(own.argmax())
        example = each.entry.examples[at] if at < counts[i] - 1 else ""
        best.append((float(own[at]), example))
    return Nearest(parts, best)
