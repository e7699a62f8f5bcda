"""The head: which words tell an entry from the others, learned from its examples.

A matrix over hashed features, one column an entry. Of few entries a classifier with a margin
(`margin`). Of more a weighted ridge regression (regularised least squares classification, Rifkin
and Klautau, 2004), in closed form: (X'WX + a I)^-1 X'WY with rows of length 1, W = 1/sqrt(examples
of the entry) so that the many do not drown the few. Its cost does not grow with entries times
examples: n dims^2 for the products, dims^3 once, dims^2 an entry. There is no random number in
either: the same input gives the same head, to the last bit on one machine with one build of numpy,
else up to the rounding of its BLAS.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from sira.kernel.errors import BadRequest
from sira.registry.embed import features
from sira.registry.embed.hashed import seats
from sira.registry.embed.interface import F32
from sira.registry.rank import margin
from sira.registry.rank.entries import Entry, told

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

VERSION = 2
DIMS, DIMS_OF_MANY = 4_096, 2_048
MANY_ENTRIES = 4_096  # from so many on: 80 MB of weights, and half a minute of training at 10,000
EXAMPLES_MAX = 256  # of an entry, the first ones
TEXTS_MAX = 100_000  # of all entries: they share it evenly. Bounds the time of training
RIDGE = 0.3  # of the mean diagonal element; 0.1 to 1 are within a point of each other
_CHUNK = 512


@dataclass(frozen=True, slots=True)
class Head:
    """What was learned. `weights` f16[entries, dims], `rarity` f32[features.PLACES].

    Weights of few entries lie dim by dim: a query reads whole runs of them, all entries at once.
    """

    keys: tuple[str, ...]
    weights: NDArray[np.float16]
    rarity: F32
    texts: int  # learned from so many
    digest: str  # of all of it: names this head in reasons

    def scores(self, places: NDArray[np.int32], values: F32, rows: NDArray[np.int64]) -> F32:
        """Score entries by their rows: f32[len(rows)], about 0 to 1, more is better.

        Args:
            places, values: features of the query.
            rows: places in `keys`; -1 gives NaN.
        """
        at, signs = seats(places, self.weights.shape[1])
        weighed = values * self.rarity[places]
        folded = np.bincount(at, signs * weighed, self.weights.shape[1]).astype(np.float32)
        found = np.flatnonzero(folded)
        norm = float(np.linalg.norm(folded)) or 1.0
        query = folded[found] / np.float32(norm)
        if self.weights.flags.f_contiguous:
            made = (query @ self.weights.T[found].astype(np.float32))[rows]
        else:
            made = self.weights[np.ix_(rows, found)].astype(np.float32) @ query
        made[rows < 0] = np.nan
        return np.asarray(made, np.float32)

    def to_bytes(self) -> bytes:
        """Return the head for a file; `from_bytes` reads it."""
        out = io.BytesIO()
        np.savez(
            out, version=VERSION, features=features.VERSION, keys=np.array(self.keys, np.str_),
            weights=self.weights, rarity=self.rarity, texts=self.texts,
        )  # fmt: skip
        return out.getvalue()

    @staticmethod
    def from_bytes(data: bytes | memoryview) -> Head:
        """Read what `to_bytes` made; in small pieces, so that a thread may that shares its lock.

        Raises:
            BadRequest: another version's, or no head at all.
        """
        try:
            pieces = cast("io.BytesIO", io.BufferedReader(_View(memoryview(data))))
            with np.load(pieces, allow_pickle=False) as read:
                if (int(read["version"]), int(read["features"])) != (VERSION, features.VERSION):
                    raise ValueError("it is of another version")
                made = _made(
                    tuple(str(key) for key in read["keys"]),
                    read["weights"], read["rarity"], int(read["texts"]),
                )  # fmt: skip
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise BadRequest(f"no head that can be used: {error}") from error
        dims = made.weights.shape[-1]
        fits = made.weights.shape == (len(made.keys), dims) and not dims & (dims - 1)
        if not fits or made.rarity.shape != (features.PLACES,):
            raise BadRequest("no head that can be used: its shapes do not fit")
        return made


class _View(io.RawIOBase):
    """Bytes as a file, without a copy of them."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place; return it."""
        base = (0, self._at, len(self._data))[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, into: WriteableBuffer) -> int:
        """Fill a buffer as far as there is anything left; return how far."""
        room = memoryview(into).cast("B")
        part = self._data[self._at : self._at + len(room)]
        room[: len(part)] = part
        self._at += len(part)
        return len(part)


def train(entries: Sequence[Entry]) -> Head | None:
    """Learn a head from the entries' texts and examples; None where fewer than two have any.

    Takes some seconds to half a minute of CPU and up to 500 MB: for a process of its own.
    """
    ordered = sorted(entries, key=lambda entry: entry.key)
    if len(ordered) < 2 or not any(entry.examples for entry in ordered):
        return None
    share = max(1, min(EXAMPLES_MAX, TEXTS_MAX // len(ordered) - 1))
    texts = [[told(entry), *entry.examples[:share]] for entry in ordered]
    rows = features.rows([text for of_entry in texts for text in of_entry])
    owner = np.repeat(np.arange(len(texts)), [len(of_entry) for of_entry in texts])
    have = np.bincount(rows.places, minlength=features.PLACES)
    rarity = np.log((1 + len(rows)) / (1 + have)).astype(np.float32) + 1
    if margin.fits(len(rows), len(ordered)):
        weights = margin.solved(rows, owner, rarity)
    else:
        dims = DIMS if len(ordered) < MANY_ENTRIES else DIMS_OF_MANY
        weights = _solved(rows, owner, rarity, dims)
    return _made(tuple(entry.key for entry in ordered), weights, rarity, len(rows))


def _solved(
    rows: features.Rows, owner: NDArray[np.int64], rarity: F32, dims: int
) -> NDArray[np.float16]:
    """Solve for the weights of each entry, f16[entries, dims].

    Args:
        owner: entry of each row, from 0, ascending.
    """
    per_text = 1 / np.sqrt(np.bincount(owner))[owner]
    root = np.sqrt(per_text / per_text.sum()).astype(np.float32)
    by = by_texts if len(rows) <= dims else by_dims
    # Scores are of one size, however many entries share them.
    entries = np.float32(owner[-1] + 1)
    return np.asarray(by(rows, owner, root, rarity, dims) * entries, np.float16)


def by_dims(
    rows: features.Rows, owner: NDArray[np.int64], root: F32, rarity: F32, dims: int
) -> F32:
    """Solve (X'WX + a I) V = X'WY, a system of dims; return V', f32[entries, dims].

    Args:
        root: square root of each row's weight; the weights sum to 1, and so does X'WX's diagonal.
    """
    gram = np.zeros((dims, dims), np.float32)
    sums = np.zeros((int(owner[-1]) + 1, dims), np.float32)
    for start, dense in _dense_chunks(rows, rarity, dims):
        part = root[start : start + len(dense), None]
        dense *= part
        gram += dense.T @ dense
        np.add.at(sums, owner[start : start + len(dense)], dense * part)
    gram[np.diag_indices(dims)] += np.float32(RIDGE / dims)
    return np.asarray(np.linalg.solve(gram, sums.T).T, np.float32)


def by_texts(
    rows: features.Rows, owner: NDArray[np.int64], root: F32, rarity: F32, dims: int
) -> F32:
    """Solve the same by a system of texts: V = Z'(ZZ' + a I)^-1 UY, U = sqrt(W), Z = UX."""
    dense = np.vstack([part for _, part in _dense_chunks(rows, rarity, dims)]) * root[:, None]
    asked = np.zeros((len(rows), int(owner[-1]) + 1), np.float32)
    asked[np.arange(len(rows)), owner] = root
    gram = dense @ dense.T
    gram[np.diag_indices(len(gram))] += np.float32(RIDGE / dims)
    return np.asarray(np.linalg.solve(gram, asked).T @ dense, np.float32)


def _dense_chunks(rows: features.Rows, rarity: F32, dims: int) -> Iterator[tuple[int, F32]]:
    """Yield f32[at most _CHUNK, dims] with the number of its first row; rows of length 1."""
    at, signs = seats(rows.places, dims)
    weighed = signs * rows.values * rarity[rows.places]
    for start in range(0, len(rows), _CHUNK):
        end = min(start + _CHUNK, len(rows))
        part = slice(rows.starts[start], rows.starts[end])
        row = np.repeat(np.arange(end - start), np.diff(rows.starts[start : end + 1]))
        flat = np.bincount(row * dims + at[part], weighed[part], (end - start) * dims)
        dense = flat.reshape(end - start, dims).astype(np.float32)
        yield start, dense / np.maximum(np.linalg.norm(dense, axis=1, keepdims=True), 1e-12)


def _made(keys: tuple[str, ...], weights: NDArray[np.float16], rarity: F32, texts: int) -> Head:
    digest = hashlib.blake2b(digest_size=8)
    digest.update("\0".join(keys).encode())
    for part in (weights, rarity):  # as it lies: a copy of 80 MB would hold the interpreter's lock
        lies = part.T if part.flags.f_contiguous else part
        digest.update(np.ascontiguousarray(lies).reshape(-1).view(np.uint8).data)
    return Head(keys, weights, rarity, texts, digest.hexdigest())
