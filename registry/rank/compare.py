"""A request beside many entries at once: cosines of hashed features and of a model's vectors."""

from __future__ import annotations

from collections.abc import Sequence
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
        self._rarity: F32 | None = None
        self._near: dict[str, features.Rows] = {}
        # Zeros between two uses: a query's values by place. A fresh one would cost a megabyte.
        self.spread: F32 = np.zeros(features.PLACES, np.float32)

    def count(self, held: Held, by: int) -> None:
        """Count an entry's texts in (1) or out (-1)."""
        self._have[held.whole[0]] += by
        np.add.at(self._have, held.near.places, by)
        self._texts += by * (1 + len(held.near))
        self._rarity = None
        self._near.clear()

    def near(self, held: Held) -> features.Rows:
        """Return an entry's examples, weighed, of length 1; kept until an entry comes or goes."""
        made = self._near.get(held.entry.key)
        if made is None:
            rarity, rows = self.rarity(), held.near
            weighed = _Cosines(rows, rarity).unit_values()
            made = self._near[held.entry.key] = features.Rows(rows.starts, rows.places, weighed)
        return made

    def rarity(self) -> F32:
        """Return f32[features.PLACES]; the same array until an entry comes or goes."""
        if self._rarity is None:
            table = np.log((1 + self._texts) / (1 + np.arange(self._texts + 1))) + 1
            self._rarity = table.astype(np.float32)[self._have]
        return self._rarity


class Compared:
    """Candidates side by side. Holds while no entry comes or goes."""

    def __init__(self, held: Sequence[Held], weighed: Weighed) -> None:
        self._weighed, self._rarity = weighed, weighed.rarity() ** _TEXT_POWER
        self._text = _Cosines(features.joined(each.text for each in held), self._rarity)
        self._whole = None
        if any(each.whole is not each.text for each in held):
            self._whole = _Cosines(features.joined(each.whole for each in held), self._rarity)
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
        text = self._text.with_query(query, self._weighed, self._rarity)
        if self._whole is None:
            return text
        whole = self._whole.with_query(query, self._weighed, self._rarity)
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
        likeness = _Cosines(rows).with_query(query, weighed, weighed.rarity())
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


class _Cosines:
    """Sparse rows, weighed and of length 1."""

    def __init__(self, rows: features.Rows, rarity: F32 | None = None) -> None:
        """Take rows as they are (of length 1), or weigh them by the rarity of their features."""
        self._places, self._values, self._count = rows.places, rows.values, len(rows)
        counts = np.diff(rows.starts)
        self._full = np.flatnonzero(counts)  # reduceat knows no empty rows
        self._starts = rows.starts[self._full]
        if rarity is not None and len(self._full):
            weighed = rows.values * rarity[rows.places]
            lengths = np.sqrt(np.add.reduceat(weighed * weighed, self._starts))
            self._values = weighed / np.repeat(lengths, counts[self._full])

    def unit_values(self) -> F32:
        """Return the values, weighed and each row's of length 1."""
        return self._values

    def with_query(self, query: Asked, weighed: Weighed, rarity: F32) -> F32:
        """Return f32[rows]."""
        made = np.zeros(self._count, np.float32)
        if not len(self._full):
            return made
        values = query.values * rarity[query.places]
        norm = max(float(np.linalg.norm(values)), 1e-12)
        spread = weighed.spread
        spread[query.places] = values / np.float32(norm)
        products = spread[self._places]
        spread[query.places] = 0
        products *= self._values
        made[self._full] = np.add.reduceat(products, self._starts)
        return made
