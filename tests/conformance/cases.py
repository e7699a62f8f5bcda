"""The bit patterns (those of tests/vectors) and the ways in which they lie in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sira.kernel.binding import DTYPES

VECTORS = Path(__file__).parents[1] / "vectors"

# Layout -> what it means for an array of any library.
LAYOUTS = {
    "C": "C order",
    "F": "Fortran order (a transpose)",
    "stepped": "every second element of the last dimension",
    "reversed": "negative stride",
    "broadcast": "stride 0",
    "unaligned": "address not a multiple of the element size",
    "swapped": "big-endian",
    "0-d": "no dimensions",
    "empty": "no elements, shape (0, 3)",
    "large": "3 MiB: travels as a head and chunks on the grpc lane",
}
LARGE_BYTES = 3 << 20


@dataclass(frozen=True)
class Case:
    """One tensor: what it is and which bits it must arrive with."""

    dtype: str  # wire name, "bf16"
    layout: str
    array: np.ndarray[Any, Any]  # in C order; other layouts are made of it
    elements: bytes  # each element in memory, C order, little-endian

    def same(self, elements: bytes) -> bool:
        """Compare bit for bit; of a 4-bit element in a byte only those four count."""
        if self.dtype in ("i4", "u4"):
            low = bytes(byte & 15 for byte in range(256))
            return elements.translate(low) == self.elements.translate(low)
        return elements == self.elements


def as_bytes(array: np.ndarray[Any, Any]) -> bytes:
    """Elements as they lie in memory, C order; moving them as void cannot touch a NaN."""
    return array.view(np.dtype((np.void, array.dtype.itemsize))).tobytes()


def cases() -> list[Case]:
    """Every dtype in every layout."""
    found: list[Case] = []
    for path in sorted(VECTORS.glob("*.json")):
        vector = json.loads(path.read_text())
        tensors = {tensor["name"]: tensor for tensor in vector.get("tensors", [])}
        if not tensors:
            continue
        for layout in LAYOUTS:
            tensor = tensors[{"0-d": "scalar", "empty": "empty"}.get(layout, "matrix")]
            dtype = DTYPES[tensor["code"]]
            elements = bytes.fromhex(tensor["elements_hex"])
            shape = tuple(tensor["shape"])
            if layout == "large":
                elements *= LARGE_BYTES // len(elements)
                shape = (len(elements) // dtype.itemsize,)
            elif layout == "broadcast":  # all rows are the first
                elements = elements[: len(elements) // 2] * 2
            void = np.dtype((np.void, dtype.itemsize))
            count = len(elements) // dtype.itemsize
            array = np.frombuffer(elements, void, count).view(dtype).reshape(shape)
            found.append(Case(tensor["dtype"], layout, array, elements))
    return found
