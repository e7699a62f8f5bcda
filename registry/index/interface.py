"""The interface of every index. Nothing in one is the truth: it can be made again from nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
_NO_TAGS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Collection:
    """A named set of vectors that can be compared.

    Attributes:
        name: lower-case letters, digits, - and _.
        embedder: id and version of what made the vectors; another one is another collection.
        dims: of each vector.
        tags: names of the fields that a search may demand.
    """

    name: str
    embedder: str
    dims: int
    tags: tuple[str, ...] = ()

    @property
    def versioned(self) -> str:
        """The name with a digest of what must not be mixed: embedder and dims."""
        made = blake2b(f"{self.embedder}\0{self.dims}".encode(), digest_size=6).hexdigest()
        return f"{self.name}-{made}"


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """One vector.

    Attributes:
        id: 1 to 2**63 - 1.
        vector: f32[dims], L2-normalised.
        tags: a value for each tag of the collection.
    """

    id: int
    vector: Vector
    tags: Mapping[str, str] = field(default_factory=dict)


class Hit(NamedTuple):
    """A point near to what was asked for. `score`: cosine, 1 is the same direction."""

    id: int
    score: float


class Index(ABC):
    """One collection. Belongs to the loop it was opened on."""

    def __init__(self, collection: Collection) -> None:
        """Hold one collection."""
        self.collection = collection

    @abstractmethod
    async def upsert(self, points: Sequence[Point]) -> None:
        """Put points in, over those of the same ids; a search that begins later sees them.

        Raises:
            Unreachable, SiraError: the index could not be asked; some may be in it.
        """

    @abstractmethod
    async def delete(self, ids: Sequence[int]) -> None:
        """Take points out; ids that are not there are no error."""

    @abstractmethod
    async def search(
        self, vector: Vector, k: int, *, where: Mapping[str, str] = _NO_TAGS
    ) -> list[Hit]:
        """Return the nearest points, best first, at most `k`.

        Args:
            vector: f32[dims], L2-normalised.
            where: tags that a hit must have.
        """

    @abstractmethod
    async def count(self) -> int:
        """Return how many points there are."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of files, processes and connections."""

    def check(self, points: Sequence[Point]) -> None:
        """Refuse points that cannot be of this collection: our own mistakes."""
        for each in points:
            assert each.vector.shape == (self.collection.dims,), each.vector.shape
            assert 0 < each.id < 1 << 63, each.id
            assert set(each.tags) == set(self.collection.tags), each.tags
