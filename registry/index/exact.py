"""An index that looks at every vector: exact, in memory, a block of rows for each set of tags.

One product of a block and the query. Of more than some thousand vectors it is one of bytes, a
quarter of the memory to read (native/codes.c); the few that may be among the nearest are looked at
exactly then. 30,000 of 512 dims take 1 to 2 ms on one core. Above some 15,000 a graph is faster:
see `edge`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sira import _native
from sira.registry.index.interface import Collection, Hit, Index, Point, Vector

_ROWS_MIN = 64
_CODED_MIN = 2_048  # of fewer all are looked at exactly
_LIKELY, _LIKELY_MIN = 4, 64  # so many for each that is wanted, and more, are looked at exactly
_NO_TAGS: Mapping[str, str] = {}


class Block:
    """Vectors in rows, f32[rows, dims]; what is taken out is filled by the last."""

    def __init__(self, dims: int, tags: Mapping[str, str] = _NO_TAGS) -> None:
        """Begin empty. `tags` are those of all that is in it."""
        self.tags = tags
        self.vectors: NDArray[np.float32] = np.empty((_ROWS_MIN, dims), np.float32)
        self.ids: NDArray[np.int64] = np.empty(_ROWS_MIN, np.int64)
        # The same as bytes, each row with its scale: what is read of very many is a quarter.
        self._codes: NDArray[np.int8] = np.empty((_ROWS_MIN, dims), np.int8)
        self._scales: NDArray[np.float32] = np.empty(_ROWS_MIN, np.float32)
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
        return None if row is None else Point(id_, self.vectors[row], self.tags)

    def put(self, point: Point) -> None:
        """Put one in, over what has its id."""
        row = self._rows.get(point.id)
        if row is None:
            row = self._rows[point.id] = len(self._rows)
            if row == len(self.ids):
                self.vectors = np.concatenate((self.vectors, np.empty_like(self.vectors)))
                self.ids = np.concatenate((self.ids, np.empty_like(self.ids)))
                self._codes = np.concatenate((self._codes, np.empty_like(self._codes)))
                self._scales = np.concatenate((self._scales, np.empty_like(self._scales)))
        self.vectors[row], self.ids[row] = point.vector, point.id
        self._scales[row] = _native.encode_vector(self.vectors[row], self._codes[row])

    def remove(self, id_: int) -> None:
        """Take one out. Requires: it is there."""
        row, last = self._rows.pop(id_), len(self._rows)
        if row != last:
            self.vectors[row], self.ids[row] = self.vectors[last], self.ids[last]
            self._codes[row], self._scales[row] = self._codes[last], self._scales[last]
            self._rows[int(self.ids[row])] = row

    def nearest(self, vector: Vector, k: int) -> list[Hit]:
        """Return the nearest, best first; equal ones by id, so that an answer can be repeated."""
        count = len(self._rows)
        rows = self._likely(vector, k) if count > _CODED_MIN else None
        scores = (self.vectors[:count] if rows is None else self.vectors[rows]) @ vector
        best = _at_least(scores, k)
        of_best = best if rows is None else rows[best]
        hits = zip(self.ids[of_best].tolist(), scores[best].tolist(), strict=True)
        return sorted((Hit(*each) for each in hits), key=lambda hit: (-hit.score, hit.id))[:k]

    def _likely(self, vector: Vector, k: int) -> NDArray[np.intp]:
        """Return rows that may be the nearest, by their bytes: several times as many."""
        query = np.empty(len(vector), np.int8)
        _native.encode_vector(np.ascontiguousarray(vector, np.float32), query)
        products = _native.code_products(self._codes, len(self._rows), query)
        return _at_least(products * self._scales[: len(self._rows)], _LIKELY_MIN + _LIKELY * k)

    def points(self) -> Iterator[Point]:
        """Yield all."""
        for row in range(len(self._rows)):
            yield Point(int(self.ids[row]), self.vectors[row], self.tags)


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
