"""Tensors in JSON (`{"dtype", "shape", "data": base64}`) and in .npy, both ways. Pure.

What a stranger sends is checked before NumPy sees it: sizes against what is there, dtypes against
the table. Nothing is unpickled.
"""

from __future__ import annotations

import ast
import base64
import binascii
import io
import math
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sira.kernel.binding import DTYPES as _BY_CODE
from sira.kernel.errors import BadRequest
from sira.v1 import tensor_pb2

DTYPES: dict[str, np.dtype[Any]] = {
    tensor_pb2.DType.Name(code).removeprefix("DTYPE_").lower(): dtype
    for code, dtype in _BY_CODE.items()
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_FOUR_BITS = {"i4": np.dtype("i1"), "u4": np.dtype("u1")}  # one byte an element, as NumPy has them
_DIMS_MAX = 32
_KEYS = {"dtype", "shape", "data"}

_NPY_MAGIC = b"\x93NUMPY"
# NumPy pads its own to 64 or 128 bytes; only record types, which no tensor has, need more.
_NPY_HEADER_BYTES_MAX = 1_024
# dtypes that the format can name, so that others can read them.
_NPY_DTYPES = {dtype for dtype in DTYPES.values() if dtype.isbuiltin == 1}


def dtype_name(dtype: np.dtype[Any]) -> str:
    """Return Sira's name of a dtype of the table."""
    return _NAMES[np.dtype(dtype).newbyteorder("=")]


# ---- JSON ----------------------------------------------------------------------------------------


def from_json(name: str, entry: object) -> NDArray[Any]:
    """Return the tensor that a JSON object describes.

    Raises:
        BadRequest: a key too many or too few, no such dtype, or shape and data do not fit together.
    """
    if not isinstance(entry, dict) or set(entry) != _KEYS:
        raise _bad(name, "is not an object of `dtype`, `shape` and `data`")
    label, text = entry["dtype"], entry["data"]
    if not isinstance(label, str) or label not in DTYPES:
        raise _bad(name, f"dtype {str(label)[:40]!r} is none of {', '.join(DTYPES)}")
    shape = _shape(name, entry["shape"])
    if not isinstance(text, str):
        raise _bad(name, "`data` is not base64 text")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _bad(name, "`data` is not base64") from None
    stored = _FOUR_BITS.get(label, DTYPES[label])
    _check_size(name, shape, stored.itemsize, len(data))
    if label == "bool" and data.strip(b"\x00\x01"):
        raise _bad(name, "a bool is a byte 0 or 1")
    array = np.frombuffer(data, stored).reshape(shape)
    return array.astype(DTYPES[label]) if label in _FOUR_BITS else array


def to_json(array: NDArray[Any]) -> dict[str, Any]:
    """Return a tensor as a JSON object."""
    label = dtype_name(array.dtype)
    stored = array.astype(_FOUR_BITS[label]) if label in _FOUR_BITS else np.asarray(array)
    data = base64.b64encode(stored.tobytes()).decode()
    return {"dtype": label, "shape": list(array.shape), "data": data}


def _shape(name: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > _DIMS_MAX:
        raise _bad(name, f"`shape` is not a list of at most {_DIMS_MAX} dimensions")
    for dim in value:
        if isinstance(dim, bool) or not isinstance(dim, int) or not 0 <= dim < 1 << 62:
            raise _bad(name, "a dimension is a whole number, 0 or more")
    return tuple(value)


def _check_size(name: str, shape: tuple[int, ...], item_bytes: int, data_bytes: int) -> None:
    wanted = math.prod(shape) * item_bytes
    if wanted != data_bytes or math.prod(filter(None, shape)) >= 1 << 62:
        shown = ",".join(map(str, shape))[:80]
        raise _bad(name, f"shape [{shown}] takes {wanted} bytes, {data_bytes} came")


# ---- .npy ----------------------------------------------------------------------------------------


def from_npy(data: bytes) -> NDArray[Any]:
    """Return the tensor of a .npy file, versions 1 to 3.

    Raises:
        BadRequest: it is none, its dtype is not in the table (objects are pickles: never), or the
            data is not as long as the shape says.
    """
    if data[:6] != _NPY_MAGIC or len(data) < 10 or data[6] not in (1, 2, 3):
        raise _bad("x-npy", "is no .npy file")
    layout = "<H" if data[6] == 1 else "<I"
    start = 8 + struct.calcsize(layout)
    if len(data) < start:
        raise _bad("x-npy", "is cut")
    (header_bytes,) = struct.unpack_from(layout, data, 8)
    if header_bytes > _NPY_HEADER_BYTES_MAX:
        raise _bad("x-npy", f"has a header of {header_bytes} bytes, over {_NPY_HEADER_BYTES_MAX}")
    body = memoryview(data)[start + header_bytes :]
    header = _npy_header(data[start : start + header_bytes])
    shape, fortran = header["shape"], header["fortran_order"]
    if not isinstance(shape, tuple) or not isinstance(fortran, bool):
        raise _bad("x-npy", "has a header that is none")
    shape = _shape("x-npy", list(shape))
    dtype = _npy_dtype(header["descr"])
    _check_size("x-npy", shape, dtype.itemsize, len(body))
    if dtype.kind == "b" and bytes(body).strip(b"\x00\x01"):
        raise _bad("x-npy", "a bool is a byte 0 or 1")
    array = np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)


def to_npy(array: NDArray[Any]) -> bytes | None:
    """Return a tensor as a .npy file; None: the format has no name for its dtype."""
    if array.dtype not in _NPY_DTYPES:
        return None
    out = io.BytesIO()
    np.lib.format.write_array(out, np.asarray(array), allow_pickle=False)
    return out.getvalue()


def _npy_header(text: bytes) -> dict[str, Any]:
    try:
        header = ast.literal_eval(text.decode())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise _bad("x-npy", "has a header that is none") from None
    if not isinstance(header, dict) or set(header) != {"descr", "fortran_order", "shape"}:
        raise _bad("x-npy", "has a header that is none")
    return header


def _npy_dtype(descr: object) -> np.dtype[Any]:
    if isinstance(descr, str) and len(descr) <= 8:
        try:
            dtype = np.dtype(descr)
        except (TypeError, ValueError):
            pass
        else:
            if dtype.newbyteorder("=") in _NPY_DTYPES:
                return dtype
    raise _bad("x-npy", f"dtype {str(descr)[:40]!r} is none that a tensor has")


def _bad(name: str, why: str) -> BadRequest:
    return BadRequest(f"{name[:80]}: {why}", details={"field": name[:80]})
