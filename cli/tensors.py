"""Tensors on the command line: made from text or files, described for people, saved to .npz."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from sira.cli.output import UsageError, bytes_text
from sira.kernel import binding
from sira.v1 import tensor_pb2

DTYPES: dict[str, np.dtype[Any]] = {
    tensor_pb2.DType.Name(code).removeprefix("DTYPE_").lower(): dtype
    for code, dtype in binding.DTYPES.items()
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}

_SPEC = re.compile(r"(?P<name>[^=]+)=(?P<dtype>\w+)\[(?P<dims>[^\]]*)\](?::(?P<fill>.+))?")
_TENSOR_BYTES_MAX = 16 << 30  # the largest message a node takes
_BLOCK_ITEMS = 1 << 20  # statistics widen so many elements at a time, not the whole tensor

DTYPES_KEY = "sira.dtypes"
"""Entry of a saved .npz: JSON, name -> dtype, of tensors whose dtype NumPy's format cannot hold."""


def dtype_name(dtype: np.dtype[Any]) -> str:
    """Sira's name of `dtype`, as f32 or bf16; NumPy's where Sira has none."""
    return _NAMES.get(np.dtype(dtype).newbyteorder("="), str(dtype))


def make_tensor(spec: str, *, generator: np.random.Generator) -> tuple[str, NDArray[Any]]:
    """Make the tensor that `spec` describes: NAME=DTYPE[DIM,...]:FILL.

    FILL: `random` (floats 0 to 1, integers over their range up to 255), `range`, or a number; left
    out, zeros.

    Raises:
        UsageError: it does not parse, or the tensor would be too large.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise UsageError(f"{spec!r} is no tensor", help="write it as x=f32[1024]:random")
    name, dtype = match["name"], DTYPES.get(match["dtype"])
    if dtype is None:
        raise UsageError(f"{match['dtype']!r} is no dtype", help=f"one of {', '.join(DTYPES)}")
    try:
        shape = tuple(int(dim) for dim in match["dims"].split(",") if dim.strip())
    except ValueError:
        shape = (-1,)
    if any(dim < 0 for dim in shape):
        raise UsageError(f"[{match['dims']}] is no shape", help="dimensions are counts, as [2,3]")
    size = 1
    for dim in shape:
        size *= dim
    if size * dtype.itemsize > _TENSOR_BYTES_MAX:
        raise UsageError(
            f"{spec} is over {bytes_text(_TENSOR_BYTES_MAX)}", help="send less at once"
        )
    return name, _filled(match["fill"] or "0", shape, size, dtype, generator)


def _filled(
    fill: str,
    shape: tuple[int, ...],
    size: int,
    dtype: np.dtype[Any],
    generator: np.random.Generator,
) -> NDArray[Any]:
    if fill == "range":
        return np.arange(size).astype(dtype).reshape(shape)
    if fill == "random":
        if dtype.kind == "b":
            return generator.integers(0, 2, shape).astype(dtype)
        if is_integer(dtype):
            low, high = integer_range(dtype)
            return generator.integers(max(low, -128), min(high, 255), shape, endpoint=True).astype(
                dtype
            )
        if dtype.kind == "c":
            return (generator.random(shape) + 1j * generator.random(shape)).astype(dtype)
        return generator.random(shape, np.float32).astype(dtype)
    try:
        value = complex(fill) if dtype.kind == "c" else float(fill)
        return np.full(shape, value).astype(dtype)
    except ValueError:
        raise UsageError(f"{fill!r} is no fill", help="random, range, or a number") from None


def is_integer(dtype: np.dtype[Any]) -> bool:
    """Whether `dtype` is an integer, 4-bit ones included."""
    return dtype.kind in "iu" or dtype in (DTYPES["i4"], DTYPES["u4"])


def integer_range(dtype: np.dtype[Any]) -> tuple[int, int]:
    """Least and greatest value of an integer `dtype`."""
    info = ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]
    return int(info.min), int(info.max)


def describe(array: NDArray[Any]) -> dict[str, Any]:
    """Shape, dtype, bytes, min, mean, max and NaN count of `array`.

    NaN are left out of min, mean and max; these are None where there is nothing to take them of: an
    empty tensor, only NaN, or complex numbers (mean excepted).
    """
    found: dict[str, Any] = {
        "dtype": dtype_name(array.dtype),
        "shape": list(array.shape),
        "bytes": int(array.nbytes),
        "min": None,
        "mean": None,
        "max": None,
        "nan_count": 0,
    }
    flat = np.asarray(array).reshape(-1)
    total: Any = 0
    counted = 0
    for at in range(0, flat.size, _BLOCK_ITEMS):
        block = flat[at : at + _BLOCK_ITEMS]
        if block.dtype.kind == "c":
            block = block.astype(np.complex128)
        elif block.dtype.kind == "b" or block.dtype.itemsize < 4 or block.dtype.kind not in "iuf":
            block = block.astype(np.int64 if _counts(block.dtype) else np.float64)
        if block.dtype.kind in "fc":
            good = ~np.isnan(block)
            found["nan_count"] += int(block.size - good.sum())
            block = block[good]
        if not block.size:
            continue
        wide = np.complex128 if block.dtype.kind == "c" else np.float64
        total += block.sum(dtype=wide)
        counted += block.size
        if block.dtype.kind != "c":
            low, high = block.min().item(), block.max().item()
            found["min"] = low if found["min"] is None else min(found["min"], low)
            found["max"] = high if found["max"] is None else max(found["max"], high)
    if counted:
        mean = total / counted
        found["mean"] = str(complex(mean)) if np.iscomplexobj(mean) else float(mean)
    return found


def _counts(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "b" or is_integer(dtype)


def describe_line(name: str, row: Mapping[str, Any]) -> str:
    """One line for people about one tensor."""
    shape = ",".join(str(dim) for dim in row["shape"])
    parts = [f"{name or '(body)'}: {row['dtype']}[{shape}]"]
    if row["min"] is not None:
        parts.append(
            f"min {_short(row['min'])} mean {_short(row['mean'])} max {_short(row['max'])}"
        )
    elif row["mean"] is not None:
        parts.append(f"mean {row['mean']}")
    if row["nan_count"]:
        parts.append(f"NaN {row['nan_count']}")
    return "  ".join(parts)


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def save_npz(path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write `tensors` to `path`; what NumPy's format cannot name is widened without loss."""
    arrays: dict[str, NDArray[Any]] = {}
    noted: dict[str, str] = {}
    for name, array in tensors.items():
        if array.dtype.isbuiltin == 1:  # by kind, some of ml_dtypes would pass for NumPy's own
            arrays[name] = np.asarray(array)
            continue
        noted[name] = dtype_name(array.dtype)
        arrays[name] = array.astype(np.int8 if _counts(array.dtype) else np.float32)
        if noted[name] == "u4":
            arrays[name] = arrays[name].astype(np.uint8)
    if noted:
        arrays[DTYPES_KEY] = np.array(json.dumps(noted))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:  # a file, not a name: np.savez would add a suffix
        np.savez(file, allow_pickle=False, **arrays)


def load_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Read what `save_npz`, or anybody's `np.savez`, wrote. Nothing is unpickled."""
    with np.load(path, allow_pickle=False) as saved:
        arrays = {name: saved[name] for name in saved.files}
    noted = json.loads(str(arrays.pop(DTYPES_KEY, "{}")))
    return {
        name: array.astype(DTYPES[noted[name]]) if name in noted else array
        for name, array in arrays.items()
    }
