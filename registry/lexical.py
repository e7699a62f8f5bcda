"""BM25 over entries that come and go: no rebuild, whatever is added or taken away. Pure.

Okapi BM25 (Robertson, Walker et al., TREC-3, 1994; Robertson and Zaragoza, 2009) with the
Robertson/Sparck Jones weight in the form that is never negative,
ln(1 + (N - df + 0.5) / (df + 0.5)). Its k1 = 2 and b = 0.5 are not the usual 1.2 and 0.75: entries
with examples say a word often because it matters, and are long because they are well described.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

K1 = 2.0
B = 0.5
# Of two words side by side, beside 1 of each of them.
PAIR_WEIGHT = 0.5
_FIRST_SLOTS = 64
_FIRST_POSTINGS = 4


def terms(stems: Sequence[str], *, pair_weight: float = 1.0) -> Counter[str]:
    """Count stems, and pairs of them as `a b`."""
    counts: Counter[str] = Counter(stems)
    for a, b in pairwise(stems):
        counts[f"{a} {b}"] += pair_weight  # type: ignore[assignment]  # a Counter holds any number
    return counts


@dataclass(slots=True)
class _Postings:
    """Who has a term, and how much of it. The first `count` are in use, in no order."""

    slots: NDArray[np.int32]
    weights: NDArray[np.float32]
    count: int = 0

    def put(self, slot: int, weight: float) -> None:
        if self.count == len(self.slots):
            self.slots = np.resize(self.slots, 2 * self.count)
            self.weights = np.resize(self.weights, 2 * self.count)
        self.slots[self.count], self.weights[self.count] = slot, weight
        self.count += 1

    def drop(self, slot: int) -> None:
        at = int(np.flatnonzero(self.slots[: self.count] == slot)[0])
        self.count -= 1
        self.slots[at], self.weights[at] = self.slots[self.count], self.weights[self.count]


class Bm25:
    """Entries by key, each a bag of weighted terms.

    Adding and removing cost what the entry's own terms cost. Scores depend on what is held, not on
    the order in which it came, but for the last bit of a float.
    """

    def __init__(self) -> None:
        self._slots: dict[str, int] = {}
        self._keys: list[str] = []  # by slot; a free one keeps the key that was there
        self._terms: dict[str, Mapping[str, float]] = {}
        self._free: list[int] = []
        self._postings: dict[str, _Postings] = {}
        self._lengths: NDArray[np.float32] = np.zeros(_FIRST_SLOTS, np.float32)
        self._length_total = 0.0

    def __len__(self) -> int:
        """Count the entries."""
        return len(self._slots)

    def __contains__(self, key: str) -> bool:
        """Whether an entry is held."""
        return key in self._slots

    def slot(self, key: str) -> int:
        """Return where an entry stands in the array of `scores`; another's after it was removed."""
        return self._slots[key]

    def add(self, key: str, terms: Mapping[str, float]) -> None:
        """Hold an entry, in place of the one of the same key.

        Args:
            terms: term -> how often it occurs, over all fields, each with its field's weight.
        """
        self.remove(key)
        slot = self._free.pop() if self._free else len(self._slots)
        if slot == len(self._lengths):
            self._lengths = np.concatenate([self._lengths, np.zeros_like(self._lengths)])
        self._slots[key], self._terms[key] = slot, dict(terms)
        if slot == len(self._keys):
            self._keys.append(key)
        self._keys[slot] = key
        for term, weight in terms.items():
            held = self._postings.get(term)
            if held is None:
                held = self._postings[term] = _Postings(
                    np.empty(_FIRST_POSTINGS, np.int32), np.empty(_FIRST_POSTINGS, np.float32)
                )
            held.put(slot, weight)
        length = float(sum(terms.values()))
        self._lengths[slot] = length
        self._length_total += length

    def remove(self, key: str) -> bool:
        """Forget an entry; return whether there was one."""
        slot = self._slots.pop(key, None)
        if slot is None:
            return False
        for term in self._terms.pop(key):
            held = self._postings[term]
            held.drop(slot)
            if not held.count:
                del self._postings[term]
        self._length_total -= float(self._lengths[slot])
        self._lengths[slot] = 0
        self._free.append(slot)
        return True

    def scores(self, query: Mapping[str, float]) -> NDArray[np.float32]:
        """Score all entries: f32[slots], 0 where no term is shared and at slots without an entry.

        Args:
            query: term -> what it counts.
        """
        total = np.zeros(max(len(self._lengths), 1), np.float32)
        count = len(self._slots)
        if not count or self._length_total <= 0:
            return total
        mean = self._length_total / count
        for term, times in query.items():
            held = self._postings.get(term)
            if held is None:
                continue
            slots, weights = held.slots[: held.count], held.weights[: held.count]
            full = K1 * (1 - B + B * self._lengths[slots] / mean)
            # No slot stands twice in a term's postings, so += adds each.
            total[slots] += (times * self.rarity(term) * (K1 + 1)) * weights / (weights + full)
        return total

    def best(self, scores: NDArray[np.float32]) -> Iterator[str]:
        """Yield keys that score more than 0, best first."""
        found = np.flatnonzero(scores)
        for slot in found[np.argsort(-scores[found], kind="stable")].tolist():
            yield self._keys[slot]

    def rarity(self, term: str) -> float:
        """Return the Robertson/Sparck Jones weight of a term; 0 of one that nobody has."""
        held = self._postings.get(term)
        if held is None:
            return 0.0
        return math.log1p((len(self._slots) - held.count + 0.5) / (held.count + 0.5))

    def shared(self, key: str, query: Iterable[str]) -> list[str]:
        """Return the terms of a query that an entry has, rarest first: they are the reason."""
        terms = self._terms[key]
        found = {term for term in query if term in terms}
        return sorted(found, key=lambda term: (-self.rarity(term), term))
