"""Tie the C core to its Python side, once a process: errors, dtypes, the tensor type.

Importing this module is all there is to do; node and SDK share what it binds.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from sira import _native
from sira.kernel import errors
from sira.v1 import tensor_pb2

# Wire code -> NumPy dtype. i4/u4 take one byte an element in memory, half of one on the wire. bytes
# and utf8 bodies are no arrays and have no dtype here.
DTYPES: dict[int, np.dtype[Any]] = {
    tensor_pb2.DTYPE_BOOL: np.dtype(np.bool_),
    tensor_pb2.DTYPE_U8: np.dtype(np.uint8),
    tensor_pb2.DTYPE_U16: np.dtype("<u2"),
    tensor_pb2.DTYPE_U32: np.dtype("<u4"),
    tensor_pb2.DTYPE_U64: np.dtype("<u8"),
    tensor_pb2.DTYPE_I8: np.dtype(np.int8),
    tensor_pb2.DTYPE_I16: np.dtype("<i2"),
    tensor_pb2.DTYPE_I32: np.dtype("<i4"),
    tensor_pb2.DTYPE_I64: np.dtype("<i8"),
    tensor_pb2.DTYPE_F16: np.dtype("<f2"),
    tensor_pb2.DTYPE_F32: np.dtype("<f4"),
    tensor_pb2.DTYPE_F64: np.dtype("<f8"),
    tensor_pb2.DTYPE_BF16: np.dtype(ml_dtypes.bfloat16),
    tensor_pb2.DTYPE_F8E4M3FN: np.dtype(ml_dtypes.float8_e4m3fn),
    tensor_pb2.DTYPE_F8E5M2: np.dtype(ml_dtypes.float8_e5m2),
    tensor_pb2.DTYPE_F8E4M3FNUZ: np.dtype(ml_dtypes.float8_e4m3fnuz),
    tensor_pb2.DTYPE_F8E5M2FNUZ: np.dtype(ml_dtypes.float8_e5m2fnuz),
    tensor_pb2.DTYPE_I4: np.dtype(ml_dtypes.int4),
    tensor_pb2.DTYPE_U4: np.dtype(ml_dtypes.uint4),
    tensor_pb2.DTYPE_C64: np.dtype("<c8"),
    tensor_pb2.DTYPE_C128: np.dtype("<c16"),
}


class Tensor(np.ndarray[Any, Any]):
    """A decoded tensor: a read-only NumPy array that other libraries can take without a copy.

    NumPy's own DLPack refuses read-only memory to consumers that do not know the flag, and does not
    know the small floats; ours hands out both.
    """

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: Any = None,
        copy: bool | None = None,
    ) -> Any:
        """Return a DLPack capsule of the array; the memory stays alive as long as the capsule."""
        return _native.dlpack(
            self, stream=stream, max_version=max_version, dl_device=dl_device, copy=copy
        )

    def dlpack(self) -> Tensor:
        """Return the object to give to `torch.from_dlpack`, `jax.dlpack.from_dlpack`, CuPy."""
        return self


_native.bind(error=errors.from_code, dtypes=DTYPES, tensor_type=Tensor)
