"""A head and what its rankings are worth, from what is registered. For a process of its own."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sira.registry.embed.interface import Embedder
from sira.registry.rank.calibrate import (
    DEFAULT,
    DEFAULT_WITH_EXAMPLES,
    Calibration,
    evidence_of,
    fit,
    fit_here,
    signals_of,
)
from sira.registry.rank.entries import Entry, Vectors, twin_of
from sira.registry.rank.head import Head, train
from sira.registry.rank.ranker import Ranker

# Of an entry's examples one in so many is held out while its worth is found; none of fewer than
# that. The head that is used is trained on all of them afterwards.
HELD_OUT_ONE_IN = 5
HELD_OUT_MAX = 2_000  # requests scored: bounds the time
ABSENT_MAX = 500  # of these also without those that they are for


@dataclass(frozen=True, slots=True)
class Learned:
    """What a process of learning gives back. `right`: of the held-out requests, 0 to 1."""

    head: Head | None
    calibration: Calibration
    held_out: int
    right: float


def learn(entries: Sequence[Entry], model: Embedder | None = None) -> Learned:
    """Train a head on all examples, and calibrate on held-out ones with a head without them.

    Deterministic: an example is held out by the CRC of its words, not by chance.
    """
    kept, held_out = _split(entries)
    have_examples = any(entry.examples for entry in entries)
    calibration, right = DEFAULT_WITH_EXAMPLES if have_examples else DEFAULT, 0.0
    if held_out:
        calibration, right = _calibrated(kept, held_out, model, instead=calibration)
    return Learned(train(entries), calibration, len(held_out), right)


def _calibrated(
    kept: Sequence[Entry],
    held_out: Sequence[tuple[str, str]],
    model: Embedder | None,
    *,
    instead: Calibration,
) -> tuple[Calibration, float]:
    """Return what rankings of held-out requests are worth, and the share that was right.

    Args:
        kept: entries without the held-out examples.
        held_out: request -> key; at least one.
        instead: given back where there are too few.
    """
    head = train(kept)  # before there is a ranker: each takes about as much memory as the other
    ranker = Ranker(model)
    for entry in kept:
        ranker.put(entry)
    ranker.use_head(head)
    signals, good, five, present, absent = [], [], [], [], []
    twins = _twins(kept)
    for number, (text, key) in enumerate(held_out):
        query = ranker.query(text)
        ranking = ranker.rank(query)
        signals.append(signals_of(ranking))
        keys = [scored.key for scored in ranking.scored[:5]]
        good.append(keys[:1] == [key])
        five.append(key in keys)
        if five[-1]:
            present.append(evidence_of(ranking))
        if number < ABSENT_MAX:
            others = Without(ranker, twins[key])
            absent.append(evidence_of(ranker.rank(query, among=others)))
    made = fit(np.stack(signals), np.array(good), among_five=np.array(five), instead=instead)
    # Where all were right they are too like the rest to tell what others will ask.
    if made.fitted_on and present:
        made = fit_here(made, np.stack(present), np.stack(absent))
    return made, float(np.mean(good))


class Without(Collection[str]):
    """The keys of a ranker but for some."""

    def __init__(self, ranker: Ranker, away: frozenset[str]) -> None:
        """Leave `away` out; all of them are held."""
        self._ranker, self._away = ranker, away

    def __len__(self) -> int:
        """Count them."""
        return len(self._ranker) - len(self._away)

    def __contains__(self, key: object) -> bool:
        """Whether it is one of them."""
        return isinstance(key, str) and key not in self._away and key in self._ranker

    def __iter__(self) -> Iterator[str]:
        """Yield them."""
        return (entry.key for entry in self._ranker.entries() if entry.key not in self._away)


def _twins(entries: Sequence[Entry]) -> dict[str, frozenset[str]]:
    """Return key -> keys of all that say the same, itself included."""
    groups: dict[bytes, list[str]] = {}
    for entry in entries:
        groups.setdefault(twin_of(entry), []).append(entry.key)
    return {key: frozenset(group) for group in groups.values() for key in group}


def _split(entries: Sequence[Entry]) -> tuple[list[Entry], list[tuple[str, str]]]:
    """Return entries without the held-out examples, and those: request -> key, HELD_OUT_MAX."""
    kept, out = [], list[tuple[int, str, str]]()
    for entry in entries:
        count = len(entry.examples) // HELD_OUT_ONE_IN
        by_crc = sorted(
            (zlib.crc32(f"{entry.key} {text}".encode()), i, text)
            for i, text in enumerate(entry.examples)
        )
        away = {i for _, i, _ in by_crc[:count]}
        out += [(crc, text, entry.key) for crc, i, text in by_crc if i in away]
        stay = [i for i in range(len(entry.examples)) if i not in away]
        vectors = entry.vectors
        if vectors is not None:
            vectors = Vectors(vectors.text, vectors.whole, vectors.examples[stay])
        examples = tuple(entry.examples[i] for i in stay)
        kept.append(replace(entry, examples=examples, vectors=vectors))
    return kept, [(text, key) for _, text, key in sorted(out)[:HELD_OUT_MAX]]
