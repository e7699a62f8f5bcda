"""A request beside many entries at once: cosines of hashed features and of a model's vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sira.registry.embed import features
from sira.registry.embed.interface import F32
from sira.registry.rank import mix
from sira.registry.rank.entries import NEAR_EXAMPLES_MAX, Held

# idf of texts that say what something does is raised to this power: words they all use say little.
_TEXT_POWER = 1.5
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
    """How rare each feature is among all texts held: ln((1 + texts) / (1 + have it)) + 1."""

    def __init__(self) -> None:
        self._have = np.zeros(features.PLACES, np.int32)
        self._texts = 0
        self._rarity: dict[float, F32] = {}
        self._rows: dict[tuple[str, str], features.Rows] = {}
        # Zeros between two uses: a query's values by place. A fresh one would cost a megabyte.
        self.spread: F32 = np.zeros(features.PLACES, np.float32)

    def count(self, held: Held, by: int) -> None:
        """Count an entry's texts in (1) or out (-1)."""
        self._have[held.whole[0]] += by
        np.add.at(self._have, held.near.places, by)
        self._texts += by * (1 + len(held.near))
        self._rarity.clear()
        self._rows.clear()

    def rarity(self, power: float = 1.0) -> F32:
        """Return f32[features.PLACES]; the same array until an entry comes or goes."""
        made = self._rarity.get(power)
        if made is None:
            table = np.log((1 + self._texts) / (1 + np.arange(self._texts + 1))) + 1
            made = self._rarity[power] = (table**power).astype(np.float32)[self._have]
        return made

    def near(self, held: Held) -> features.Rows:
        """Return an entry's examples and text, weighed, each of length 1."""
        return self._kept("near", held, lambda: held.near, 1.0)

    def text(self, held: Held) -> features.Rows:
        """Return an entry's text, weighed, of length 1."""
        return self._kept("text", held, lambda: features.joined([held.text]), _TEXT_POWER)

    def whole(self, held: Held) -> features.Rows:
        """Return an entry's text with its parameters, weighed, of length 1."""
        return self._kept("whole", held, lambda: features.joined([held.whole]), _TEXT_POWER)

    def _kept(
        self, which: str, held: Held, rows: Callable[[], features.Rows], power: float
    ) -> features.Rows:
        """Return rows weighed; kept until an entry comes or goes."""
        made = self._rows.get((which, held.entry.key))
        if made is None:
            made = self._rows[which, held.entry.key] = unit(rows(), self.rarity(power))
        return made


class Compared:
    """Candidates side by side. Holds while no entry comes or goes."""

    def __init__(self, held: Sequence[Held], weighed: Weighed) -> None:
        self._weighed = weighed
        self._text = _Cosines(features.stacked([weighed.text(each) for each in held]))
        self._whole: _Cosines | None = None
        if any(each.whole is not each.text for each in held):
            self._whole = _Cosines(features.stacked([weighed.whole(each) for each in held]))
        self.examples = np.array([len(each.entry.examples) for each in held])
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
        text = self._text.with_query(query, self._weighed, _TEXT_POWER)
        if self._whole is None:
            return text
        whole = self._whole.with_query(query, self._weighed, _TEXT_POWER)
        return (mix.standard(text) + mix.standard(whole)) / np.float32(2)

    def model(self, vector: F32) -> dict[str, F32]:
        """Cosines of the model's vectors, as `features`, and with the examples' mean."""
        if self._vectors is None:
            return {}
        text, whole, mean = (each @ vector for each in self._vectors)
        made = {mix.MODEL: text}
        if self._whole is not None:
            made[mix.MODEL] = (mix.standard(text) + mix.standard(whole)) / np.float32(2)
        if self.examples.any():
            made[mix.MODEL_MEAN] = mean
        return {part: np.asarray(values, np.float32) for part, values in made.items()}


@dataclass(frozen=True, slots=True)
class Nearest:
    """Of each candidate: parts of the score, and its nearest example with its cosine."""

    parts: dict[str, F32]
    best: list[tuple[float, str]]


def nearest(query: Asked, held: Sequence[Held], weighed: Weighed) -> Nearest:
    """Compare a request with the examples of candidates, one by one; a text is an example, too."""
    counts = np.array([len(each.near) for each in held])
    group = np.repeat(np.arange(len(held)), counts)
    first = np.cumsum(counts) - counts
    parts: dict[str, F32] = {}
    likeness = np.zeros(len(group), np.float32)
    if len(query.places):
        rows = features.stacked([weighed.near(each) for each in held])
        likeness = _Cosines(rows).with_query(query, weighed, 1.0)
        parts[mix.NEAR] = mix.soft_max_of_groups(likeness, group, len(held), sharpness=_SHARPNESS)
    if query.vector is not None and all(each.vectors is not None for each in held):
        vectors = np.vstack([
            part for each in held if each.vectors is not None
            for part in (each.vectors.examples[:NEAR_EXAMPLES_MAX], each.vectors.text[None])
        ])  # fmt: skip
        by_model = vectors @ query.vector
        likeness = np.maximum(likeness, by_model)
        parts[mix.MODEL_NEAR] = mix.soft_max_of_groups(
            by_model, group, len(held), sharpness=_MODEL_SHARPNESS
        )
    best = []
    for i, each in enumerate(held):
        own = likeness[first[i] : first[i] + counts[i]]
        at = int(own.argmax())
        example = each.entry.examples[at] if at < counts[i] - 1 else ""
        best.append((float(own[at]), example))
    return Nearest(parts, best)


def unit(rows: features.Rows, rarity: F32) -> features.Rows:
    """Return rows weighed by how rare their features are, each of length 1."""
    counts = np.diff(rows.starts)
    full = np.flatnonzero(counts)  # reduceat knows no empty rows
    if not len(full):
        return rows
    weighed = rows.values * rarity[rows.places]
    lengths = np.sqrt(np.add.reduceat(weighed * weighed, rows.starts[full]))
    return features.Rows(rows.starts, rows.places, weighed / np.repeat(lengths, counts[full]))


class _Cosines:
    """Rows of length 1, ready to be compared."""

    def __init__(self, rows: features.Rows) -> None:
        self._rows = rows
        self._full = np.flatnonzero(np.diff(rows.starts))
        self._starts = rows.starts[self._full]

    def with_query(self, query: Asked, weighed: Weighed, power: float) -> F32:
        """Return f32[rows]; the query is weighed as they were."""
        made = np.zeros(len(self._rows), np.float32)
        if not len(self._full):
            return made
        values = query.values * weighed.rarity(power)[query.places]
        norm = max(float(np.linalg.norm(values)), 1e-12)
        spread = weighed.spread
        spread[query.places] = values / np.float32(norm)
        products = spread[self._rows.places]
        spread[query.places] = 0
        products *= self._rows.values
        made[self._full] = np.add.reduceat(products, self._starts)
        return made
