"""Array libraries: how each makes an array of given bits, takes one of ours, and shows its bits."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import numpy as np

from .cases import Case, as_bytes


class NotThere(Exception):
    """The library has no such dtype or layout: not our matter."""


class Library(Protocol):
    """What the run needs of an array library."""

    name: str
    version: str

    def make(self, case: Case) -> Any:
        """Return an array of the library with the case's bits and layout, or raise NotThere."""

    def take(self, view: Any) -> tuple[Any, bool]:
        """Return the library's array over a decoded tensor, and whether it shares its memory.

        Raises whatever the library raises when it does not want it.
        """

    def bits(self, array: Any) -> bytes:
        """Return the elements of the library's array, C order, little-endian."""


class NumPy:
    """The array type of the SDK itself."""

    name = "numpy"
    version = np.__version__

    def make(self, case: Case) -> Any:
        array = case.array
        if case.layout == "F":
            return np.asfortranarray(array)
        if case.layout == "stepped":
            wide = np.zeros((*array.shape[:-1], array.shape[-1] * 2), array.dtype)
            wide[..., ::2] = array
            return wide[..., ::2]
        if case.layout == "reversed":
            return np.ascontiguousarray(array[::-1])[::-1]
        if case.layout == "broadcast":
            return np.broadcast_to(array[:1], array.shape)
        if case.layout == "unaligned":
            if array.dtype.itemsize == 1:
                raise NotThere
            memory = np.zeros(array.nbytes + 1, np.uint8)
            memory[1:] = np.frombuffer(case.elements, np.uint8)
            return memory[1:].view(array.dtype).reshape(array.shape)
        if case.layout == "swapped":
            if array.dtype.itemsize == 1 or array.dtype.kind not in "iufc":
                raise NotThere
            return array.byteswap().view(array.dtype.newbyteorder(">"))
        return array

    def take(self, view: Any) -> tuple[Any, bool]:
        taken = np.from_dlpack(view) if view.dtype.isbuiltin == 1 else np.asarray(view)
        return taken, view.size == 0 or np.shares_memory(taken, view)

    def bits(self, array: Any) -> bytes:
        return as_bytes(np.asarray(array))


class Jax:
    """JAX on the CPU. Its arrays have no strides."""

    name = "jax"

    def __init__(self) -> None:
        jax: Any = importlib.import_module("jax")
        jax.config.update("jax_enable_x64", True)
        jax.config.update("jax_platforms", "cpu")
        self.jax, self.version = jax, jax.__version__

    def make(self, case: Case) -> Any:
        if case.layout not in ("C", "0-d", "empty", "large"):
            raise NotThere
        made = self.jax.numpy.asarray(case.array)
        if made.dtype != case.array.dtype:
            raise NotThere
        return made

    def take(self, view: Any) -> tuple[Any, bool]:
        taken = self.jax.dlpack.from_dlpack(view)
        address = taken.unsafe_buffer_pointer() if taken.size else 0
        return taken, taken.size == 0 or address == view.__array_interface__["data"][0]

    def bits(self, array: Any) -> bytes:
        return as_bytes(np.asarray(array))


class Torch:
    """PyTorch on the CPU."""

    name = "torch"
    _NAMES: ClassVar[dict[str, str]] = {
        "bool": "bool", "u8": "uint8", "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64",
        "u16": "uint16", "u32": "uint32", "u64": "uint64", "f16": "float16", "f32": "float32",
        "f64": "float64", "bf16": "bfloat16", "f8e4m3fn": "float8_e4m3fn", "f8e5m2": "float8_e5m2",
        "f8e4m3fnuz": "float8_e4m3fnuz", "f8e5m2fnuz": "float8_e5m2fnuz", "c64": "complex64",
        "c128": "complex128",
    }  # fmt: skip

    def __init__(self) -> None:
        torch: Any = importlib.import_module("torch")
        self.torch, self.version = torch, torch.__version__

    def make(self, case: Case) -> Any:
        dtype = getattr(self.torch, self._NAMES.get(case.dtype, ""), None)
        if dtype is None or case.layout in ("reversed", "unaligned", "swapped"):
            raise NotThere
        if case.layout == "empty":
            return self.torch.empty(case.array.shape, dtype=dtype)
        raw = self.torch.frombuffer(bytearray(case.elements), dtype=dtype)
        tensor = raw.reshape(case.array.shape)
        if case.layout == "F":
            return tensor.t().contiguous().t()
        if case.layout == "stepped":
            return tensor.repeat_interleave(2, dim=-1)[..., ::2]
        if case.layout == "broadcast":
            return tensor[:1].expand(tensor.shape)
        return tensor

    def take(self, view: Any) -> tuple[Any, bool]:
        taken = self.torch.from_dlpack(view)
        return taken, view.size == 0 or taken.data_ptr() == view.__array_interface__["data"][0]

    def bits(self, array: Any) -> bytes:
        whole = array.contiguous()
        if not whole.numel():
            return b""
        return bytes(whole.reshape(-1).view(self.torch.uint8).numpy().tobytes())


_KNOWN: dict[str, Callable[[], Library]] = {"numpy": NumPy, "jax": Jax, "torch": Torch}


def available(names: list[str] | None) -> tuple[list[Library], list[str]]:
    """Return the libraries that can be imported, and the names of those that cannot.

    Args:
        names: those wanted; None: all that are known. One that is named must be there.
    """
    found: list[Library] = []
    missing: list[str] = []
    for name, make in _KNOWN.items():
        if names is not None and name not in names:
            continue
        try:
            found.append(make())
        except ImportError:
            if names is not None:
                raise
            missing.append(name)
    return found, missing


def ml_dtypes_version() -> str:
    """Version of the package that gives NumPy the small floats."""
    return importlib.metadata.version("ml_dtypes")
