"""The default embedder: hashed words and n-grams, projected to a dense vector. Needs no file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sira import _native
from sira.kernel.errors import BadSetting
from sira.registry.embed import features
from sira.registry.embed.interface import F32

DIMS = 2_048
_DIMS_RANGE = (64, 8_192)
# Knuth's multiplier (TAOCP 3, 6.4): neighbours of CRC-32 fall apart.
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class HashedEmbedder:
    """Signed feature hashing (Weinberger et al., 2009) of `features`, 1 + ln(count) each.

    Some 20 µs a text. Cosines are those of the sparse features up to 1/sqrt(dims) of noise: it
    finds shared words and parts of words, never a synonym.
    """

    def __init__(self, dims: int = DIMS) -> None:
        """Make one.

        Args:
            dims: a power of two, 64 to 8,192; under 2,048 collisions cost matches.
        Raises:
            BadSetting: `dims` is none of these.
        """
        if not _DIMS_RANGE[0] <= dims <= _DIMS_RANGE[1] or dims & (dims - 1):
            raise BadSetting(
                f"an embedder of {dims} dims: a power of two, 64 to 8192",
                details={"field": "dims"},
            )
        self.dims = dims
        self.name = f"hashed-{dims}/{features.VERSION}"

    def embed(self, texts: Sequence[str]) -> F32:
        """Return f32[len(texts), dims], each row of length 1; zeros for a text with no word."""
        return self.embed_features([features.features(text) for text in texts])

    def embed_features(self, rows: Sequence[tuple[NDArray[np.int32], F32]]) -> F32:
        """Return the same of what `features.features` has made of texts."""
        made = np.zeros((len(rows), self.dims), np.float32)
        for i, (places, values) in enumerate(rows):
            made[i] = _native.fold_places(places, values, self.dims, True)
        return made


def fold(places: NDArray[np.int32], values: F32, dims: int) -> F32:
    """Project one sparse row to f32[dims]: each place to one dim, with a sign, both of its number.

    Requires: `dims` is a power of two.
    """
    return _native.fold_places(places, values, dims)


def seats(places: NDArray[np.int32], dims: int) -> tuple[NDArray[np.int64], F32]:
    """Return the dim of each place and its sign, +1 or -1. Requires: `dims` is a power of two."""
    mixed = (places.astype(np.uint64) + np.uint64(1)) * _MULTIPLIER
    at = (mixed >> np.uint64(40)).astype(np.int64) & (dims - 1)
    signs = np.where((mixed >> np.uint64(39)) & np.uint64(1), np.float32(1), np.float32(-1))
    return at, signs
