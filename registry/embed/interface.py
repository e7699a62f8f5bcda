"""What an embedder is, and the refusal to mix vectors of two of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sira.kernel.errors import BadRequest

F32 = NDArray[np.float32]
# Below this a vector has no direction worth keeping: the text had no feature.
_NORM_MIN = np.float32(1e-12)


class Embedder(Protocol):
    """Texts in, vectors of length 1 out: the same text gives the same vector, in any process.

    Attributes:
        name: id and version, written `ID/VERSION`. Whatever could change a vector changes it.
        dims: length of a vector.
    """

    @property
    def name(self) -> str:
        """Id and version, `ID/VERSION`."""
        ...

    @property
    def dims(self) -> int:
        """Length of a vector."""
        ...

    def embed(self, texts: Sequence[str]) -> F32:
        """Return f32[len(texts), dims], each row of length 1; zeros for a text with no feature."""
        ...


def require_same(embedder: Embedder, *, name: str, dims: int) -> None:
    """Refuse a vector that another embedder made: cosines across embedders mean nothing.

    Args:
        embedder: the one in use.
        name, dims: of the vector that came.
    Raises:
        BadRequest: another id, version or length.
    """
    if name != embedder.name or dims != embedder.dims:
        raise BadRequest(
            f"a vector of {name or 'no embedder'} with {dims} dims cannot be compared: "
            f"{embedder.name} with {embedder.dims} is in use",
            help="embed the text with the embedder in use, or send the text",
            details={
                "field": "vector",
                "embedder": name,
                "embedder_in_use": embedder.name,
                "dims": str(dims),
                "dims_in_use": str(embedder.dims),
            },
        )


def unit_rows(vectors: F32) -> F32:
    """Return rows of length 1, f32[n, dims]; a row of zeros stays one."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, _NORM_MIN), np.float32)
