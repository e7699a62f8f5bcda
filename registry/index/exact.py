"""An index that looks at every vector: exact, in memory, a block of rows for each set of tags.

One product of a block and the query. Of more than some thousand vectors a code of bits is compared,
a 32nd of the memory to read (native/codes.c); the few that may be among the nearest are looked at
exactly then. For a graph above that see `edge`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sira import _native
from sira.registry.index.interface import Collection, Hit, Index, Point, Vector

_ROWS_MIN = 64
_PART_ROWS = 4_096  # 8 MiB of 512 dims
_CODED_MIN = 2_048  # of fewer all are looked at exactly
# So many for each that is wanted, and more, are looked at exactly: of 100,000 hashed vectors they
# hold 0.999 of the 10 nearest.
_LIKELY, _LIKELY_MIN = 3, 352
_NO_TAGS: Mapping[str, str] = {}


class _Part:
    """Room for up to `_PART_ROWS` vectors, that never moves once it is whole."""

    def __init__(self, rows: int, dims: int) -> None:
        self.vectors: NDArray[np.float32] = np.empty((rows, dims), np.float32)
        self.ids: NDArray[np.int64] = np.empty(rows, np.int64)
        self.codes: NDArray[np.uint64] = np.empty((rows, _native.code_words(dims)), np.uint64)

    def grown(self) -> _Part:
        """Return one with twice the room and what is in this one."""
        rows, dims = self.vectors.shape
        made = _Part(min(2 * rows, _PART_ROWS), dims)
        made.vectors[:rows], made.ids[:rows] = self.vectors, self.ids
        made.codes[:rows] = self.codes
        return made

    def take(self, at: int, other: _Part, from_: int) -> None:
        """Have in row `at` what another has in row `from_`."""
        self.vectors[at], self.ids[at] = other.vectors[from_], other.ids[from_]
        self.codes[at] = other.codes[from_]


class Block:
    """Vectors in rows, in parts of `_PART_ROWS`; what is taken out is filled by the last.

    In parts, so that one vector more never has tens of megabytes copied.
    """

    def __init__(self, dims: int, tags: Mapping[str, str] = _NO_TAGS) -> None:
        """Begin empty. `tags` are those of all that is in it."""
        self.tags = tags
        self._dims = dims
        self._parts = [_Part(_ROWS_MIN, dims)]
        self._rows: dict[int, int] = {}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._rows)

    def __contains__(self, id_: int) -> bool:
        """Whether there is one of an id."""
        return id_ in self._rows

    def get(self, id_: int) -> Point | None:
        """Return one; None: it is not there."""
        row = self._rows.get(id_)
        return None if row is None else Point(id_, self._vector(row), self.tags)

    def put(self, point: Point) -> None:
        """Put one in, over what has its id."""
        row = self._rows.get(point.id)
        if row is None:
            row = self._rows[point.id] = len(self._rows)
            self._reserve(row)
        part, at = self._parts[row // _PART_ROWS], row % _PART_ROWS
        part.vectors[at], part.ids[at] = point.vector, point.id
        _native.code_vector(part.vectors[at], part.codes[at])

    def remove(self, id_: int) -> None:
        """Take one out. Requires: it is there."""
        row, last = self._rows.pop(id_), len(self._rows)
        if row != last:
            part, at = self._parts[row // _PART_ROWS], row % _PART_ROWS
            part.take(at, self._parts[last // _PART_ROWS], last % _PART_ROWS)
            self._rows[int(part.ids[at])] = row

    def nearest(self, vector: Vector, k: int) -> list[Hit]:
        """Return the nearest, best first; equal ones by id, so that an answer can be repeated."""
        rows, scores = self._scored(np.ascontiguousarray(vector, np.float32), k)
        best = _at_least(scores, k)
        hits = [
            Hit(int(self._parts[row // _PART_ROWS].ids[row % _PART_ROWS]), score)
            for row, score in zip(rows[best].tolist(), scores[best].tolist(), strict=True)
        ]
        return sorted(hits, key=lambda hit: (-hit.score, hit.id))[:k]

    def parts(self) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """Return all vectors and their ids, f32[n, dims] and i64[n], as views in order of rows.

        A row shows another vector once that has been put over it or has moved there.
        """
        made = []
        for start, part in enumerate(self._parts):
            count = min(len(self) - start * _PART_ROWS, _PART_ROWS)
            if count > 0:
                made.append((part.vectors[:count], part.ids[:count]))
        return made

    def points(self) -> Iterator[Point]:
        """Yield all."""
        for vectors, ids in self.parts():
            for id_, vector in zip(ids.tolist(), vectors, strict=True):
                yield Point(id_, vector, self.tags)

    def _vector(self, row: int) -> Vector:
        vector: Vector = self._parts[row // _PART_ROWS].vectors[row % _PART_ROWS]
        return vector

    def _reserve(self, row: int) -> None:
        """Make room for a row, the one after the last."""
        part = row // _PART_ROWS
        if part == len(self._parts):
            self._parts.append(_Part(_PART_ROWS, self._dims))
        elif row % _PART_ROWS == len(self._parts[part].ids):
            self._parts[part] = self._parts[part].grown()

    def _scored(self, vector: Vector, k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return rows that may be among the nearest, and what they score: of few all."""
        if len(self) <= _CODED_MIN:
            scores = [vectors @ vector for vectors, _ in self.parts()]
            return np.arange(len(self)), np.concatenate(scores or [np.empty(0, np.float32)])
        used = self._parts[: -(-len(self) // _PART_ROWS)]
        return _native.likely_rows(
            [part.vectors for part in used], [part.codes for part in used], len(self), _PART_ROWS,
            vector, _LIKELY_MIN + _LIKELY * k,
        )  # fmt: skip


class Blocks:
    """Points in memory: a block for each set of tags, so that a search looks at no others."""

    def __init__(self, collection: Collection) -> None:
        """Begin empty."""
        self._collection = collection
        self._blocks: dict[str, Block] = {}
        self._where: dict[int, str] = {}  # id -> its block

    def __len__(self) -> int:
        """Return how many points there are."""
        return len(self._where)

    def __contains__(self, id_: int) -> bool:
        """Whether there is a point of an id."""
        return id_ in self._where

    def put(self, point: Point) -> None:
        """Put one in, over what has its id."""
        name = name_of(self._collection, point.tags)
        if self._where.get(point.id, name) != name:
            self.remove(point.id)
        self._where[point.id] = name
        block = self._blocks.get(name)
        if block is None:
            block = self._blocks[name] = Block(self._collection.dims, point.tags)
        block.put(point)

    def remove(self, id_: int) -> bool:
        """Take one out; False: it was not there."""
        name = self._where.pop(id_, None)
        if name is None:
            return False
        self._blocks[name].remove(id_)
        if not len(self._blocks[name]):
            del self._blocks[name]
        return True

    def get(self, id_: int) -> Point | None:
        """Return one; None: it is not there. Its vector moves when others are taken out."""
        name = self._where.get(id_)
        point = self._blocks[name].get(id_) if name is not None else None
        return None if point is None else Point(id_, point.vector.copy(), point.tags)

    def ids(self) -> list[int]:
        """Return the ids of all."""
        return list(self._where)

    def nearest(self, vector: Vector, k: int, where: Mapping[str, str]) -> list[Hit]:
        """Return the nearest, best first."""
        found = [hit for _, block in self.matching(where) for hit in block.nearest(vector, k)]
        return sorted(found, key=lambda hit: (-hit.score, hit.id))[:k]

    def blocks(self) -> Iterator[tuple[str, Block]]:
        """Yield each block with its name, see `name_of`."""
        return iter(list(self._blocks.items()))

    def matching(self, where: Mapping[str, str]) -> list[tuple[str, Block]]:
        """Return the blocks of what has these tags, with their names."""
        if len(where) == len(self._collection.tags):
            name = name_of(self._collection, where)
            block = self._blocks.get(name)
            return [] if block is None else [(name, block)]
        wanted = where.items()
        return [each for each in self._blocks.items() if wanted <= each[1].tags.items()]


def _at_least(scores: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    """Return where the k largest are, and all that are as large as the k-th: which of equals is
    taken must not be chance."""
    if len(scores) <= k:
        return np.arange(len(scores))
    floor = np.partition(scores, len(scores) - k)[len(scores) - k]
    return np.flatnonzero(scores >= floor)


def name_of(collection: Collection, tags: Mapping[str, str]) -> str:
    """Return the name of the block of what has these tags: their values, in their order."""
    return "\0".join(tags.get(tag, "") for tag in collection.tags)


class Exact(Index):
    """`Blocks` as an index."""

    def __init__(self, collection: Collection) -> None:
        """Begin empty."""
        super().__init__(collection)
        self._blocks = Blocks(collection)

    async def upsert(self, points: Sequence[Point]) -> None:
        """Put points in."""
        self.check(points)
        for each in points:
            self._blocks.put(each)

    async def delete(self, ids: Sequence[int]) -> None:
        """Take points out."""
        for each in ids:
            self._blocks.remove(each)

    async def search(
        self, vector: Vector, k: int, *, where: Mapping[str, str] = _NO_TAGS
    ) -> list[Hit]:
        """Return the nearest points."""
        return self._blocks.nearest(vector, k, where)

    async def count(self) -> int:
        """Return how many points there are."""
        return len(self._blocks)

    async def close(self) -> None:
        """Nothing is held."""
