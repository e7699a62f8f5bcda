"""BM25 over entries that come and go: no rebuild, whatever is added or taken away. Pure.

Okapi BM25 (Robertson, Walker et al., TREC-3, 1994; Robertson and Zaragoza, 2009) with the
Robertson/Sparck Jones weight in the form that is never negative,
ln(1 + (N - df + 0.5) / (df + 0.5)). Its k1 = 2 and b = 0.5 are not the usual 1.2 and 0.75: entries
with examples say a word often because it matters, and are long because they are well described.

Postings and sums are the C core's (native/bm25.c), which knows terms by 64-bit numbers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from sira import _native
from sira.registry.embed.features import plain

K1 = 2.0
B = 0.5
# Of two words side by side in a request, beside 1 of each of them. In an entry a pair counts 1.
PAIR_WEIGHT = 0.5


class Bm25:
    """Entries by key, each some texts that weigh differently.

    A text is its stems without function words, and pairs of those side by side. Adding and removing
    cost what the entry's own terms cost. Scores depend on what is held, not on the order in which
    it came, but for the last bit of a float.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self._slots: dict[str, int] = {}
        self._keys: list[str] = []  # by slot; a free one keeps the key that was there
        self._free: list[int] = []
        # By chance: nobody is to choose terms that meet.
        self._held = _native.Bm25(int.from_bytes(os.urandom(8)))

    def __len__(self) -> int:
        """Count the entries."""
        return len(self._slots)

    def __contains__(self, key: str) -> bool:
        """Whether an entry is held."""
        return key in self._slots

    def slot(self, key: str) -> int:
        """Return where an entry stands in the array of `scores`; another's after it was removed."""
        return self._slots[key]

    def slots(self, keys: Iterable[str]) -> NDArray[np.int64]:
        """Return the slots of entries."""
        return np.array([self._slots[key] for key in keys], np.int64)

    def add(self, key: str, fields: Sequence[tuple[float, str]]) -> None:
        """Hold an entry, in place of the one of the same key.

        Args:
            fields: texts, each with what one of its terms counts.
        """
        self.remove(key)
        slot = self._free.pop() if self._free else len(self._keys)
        self._held.put(slot, [(weight, plain(text)) for weight, text in fields])
        self._slots[key] = slot
        if slot == len(self._keys):
            self._keys.append(key)
        self._keys[slot] = key

    def remove(self, key: str) -> bool:
        """Forget an entry; return whether there was one."""
        slot = self._slots.pop(key, None)
        if slot is None:
            return False
        self._held.drop(slot)
        self._free.append(slot)
        return True

    def scores(self, text: str) -> NDArray[np.float32]:
        """Score all entries for a request: f32[slots], 0 where no term is shared or nobody is."""
        return self._held.scores(plain(text), PAIR_WEIGHT, K1, B)

    def best(self, scores: NDArray[np.float32], first: int) -> Iterator[str]:
        """Yield keys that score more than 0, best first, equal ones by slot.

        `first` are sorted before the first is given: who wants more has more sorted.
        """
        found, wanted = np.flatnonzero(scores > 0), first
        while len(found):
            slots, found = _parted(scores, found, wanted)
            for slot in slots.tolist():
                yield self._keys[slot]
            wanted *= 4

    def top(self, scores: NDArray[np.float32], count: int) -> list[str]:
        """Return the first `count` that `best` yields."""
        slots, _ = _parted(scores, np.flatnonzero(scores > 0), count)
        keys = self._keys
        return [keys[slot] for slot in slots[:count].tolist()]

    def rarity(self, stem: str) -> float:
        """Return the Robertson/Sparck Jones weight of a stem; 0 of one that nobody has."""
        have = self._held.have(stem)
        if not have:
            return 0.0
        return math.log1p((len(self._slots) - have + 0.5) / (have + 0.5))

    def shared(self, key: str, stems: Iterable[str]) -> list[str]:
        """Return stems of a request that an entry has, rarest first; none once it is removed."""
        slot, has = self._slots.get(key), self._held.has
        found = set() if slot is None else {stem for stem in stems if has(slot, stem)}
        return sorted(found, key=lambda stem: (-self.rarity(stem), stem))


def _parted(
    scores: NDArray[np.float32], found: NDArray[np.intp], count: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the best `count` of `found` and those that score like the last of them, best first,
    and the others."""
    if len(found) <= count:
        return found[np.argsort(-scores[found], kind="stable")], found[:0]
    of_found = scores[found]
    chosen = of_found >= np.partition(of_found, len(found) - count)[-count]
    slots = found[chosen]
    return slots[np.argsort(-scores[slots], kind="stable")], found[~chosen]
