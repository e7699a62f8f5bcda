"""A head for a thousand entries or fewer: a linear classifier with a margin, and a mean beside it.

One column an entry, each a support vector machine with squared hinge loss: its own texts are to
score 1 or more, all others 0 or less, so it needs no bias. Solved by dual coordinate descent
(Hsieh, Chang et al., 2008, algorithm 1), one text after the other for all entries at once, in an
order that is always the same. Added is the mean of each entry's texts, which knows less and errs
less where examples are few. Both are linear: together they are one matrix, scored as any head is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sira.registry.embed import features
from sira.registry.embed.hashed import seats
from sira.registry.embed.interface import F32

DIMS = 16_384  # words that fall together in 4,096 cost two points of a hundred
ENTRIES_MAX = 1_024  # 32 MB of weights
# Texts times entries: 400 entries of 24 examples, 200 of 99. Bounds a training to some 20 s of CPU.
WORK_MAX = 4_000_000
COST = 0.5  # of a text on the wrong side, squared; beside it half the squared length of a column
_ROUNDS = 10  # over all texts; more change little
_STILL = 1e-4  # a text that moves an entry by less leaves it
# The mean counts so much where examples are few, and half of that at so many texts an entry.
_MEAN, _MEAN_HALF_AT = 3.0, 20.0
_SPREAD = 0x9E3779B1  # Knuth's multiplier (TAOCP 3, 6.4): neighbours come far apart

Texts = list[tuple[NDArray[np.int64], F32]]


def fits(texts: int, entries: int) -> bool:
    """Whether so many are few enough."""
    return entries <= ENTRIES_MAX and texts * entries <= WORK_MAX


def solved(rows: features.Rows, owner: NDArray[np.int64], rarity: F32) -> NDArray[np.float16]:
    """Return the weights of each entry, f16[entries, DIMS], dim by dim (in Fortran's order).

    Args:
        rows: features of texts.
        owner: entry of each row, from 0, ascending; each has one at least.
        rarity: f32[features.PLACES].
    """
    texts, counts = folded(rows, rarity), np.bincount(owner)
    made = margins(texts, owner)
    means = np.zeros_like(made)
    for (places, values), of in zip(texts, owner.tolist(), strict=True):
        means[places, of] += values
    means /= np.maximum(np.linalg.norm(means, axis=0), 1e-12)
    means *= np.float32(_MEAN * _MEAN_HALF_AT / (_MEAN_HALF_AT + counts.mean()))
    made += means
    return made.astype(np.float16).T


def folded(rows: features.Rows, rarity: F32) -> Texts:
    """Return of each row its dims, each once, and their values: weighed by rarity, of length 1."""
    at, signs = seats(rows.places, DIMS)
    weighed = signs * rows.values * rarity[rows.places]
    made: Texts = []
    for start, end in zip(rows.starts[:-1].tolist(), rows.starts[1:].tolist(), strict=True):
        places, which = np.unique(at[start:end], return_inverse=True)
        values = np.bincount(which, weighed[start:end], len(places))
        norm = float(np.linalg.norm(values)) or 1.0
        made.append((places, np.asarray(values / norm, np.float32)))
    return made


def margins(texts: Texts, owner: NDArray[np.int64], *, rounds: int = _ROUNDS) -> F32:
    """Solve for all entries: f32[DIMS, entries]."""
    entries = int(owner[-1]) + 1
    made = np.zeros((DIMS, entries), np.float32)
    duals = np.zeros((len(texts), entries), np.float32)  # at least 0
    slack = np.float32(1 / (2 * COST))
    order = np.argsort(np.arange(len(texts), dtype=np.uint64) * _SPREAD % (1 << 32)).tolist()
    for _ in range(rounds):
        for i in order:
            (places, values), of, own = texts[i], int(owner[i]), duals[i]
            scores = values @ made[places]
            # Slopes of the duals: a score is to be 0 or less, that of its own entry 1 or more.
            slopes = slack * own - scores
            slopes[of] += 2 * scores[of] - 1
            moved = np.maximum(own - slopes / (1 + slack), 0) - own
            moving = np.flatnonzero(np.abs(moved) > _STILL)
            if len(moving):
                own[moving] += moved[moving]
                towards = np.where(moving == of, moved[moving], -moved[moving])
                made[places[:, None], moving] += values[:, None] * towards
    return made
