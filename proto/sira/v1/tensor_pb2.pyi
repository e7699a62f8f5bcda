from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DTYPE_UNSPECIFIED: _ClassVar[DType]
    DTYPE_BOOL: _ClassVar[DType]
    DTYPE_U8: _ClassVar[DType]
    DTYPE_U16: _ClassVar[DType]
    DTYPE_U32: _ClassVar[DType]
    DTYPE_U64: _ClassVar[DType]
    DTYPE_I8: _ClassVar[DType]
    DTYPE_I16: _ClassVar[DType]
    DTYPE_I32: _ClassVar[DType]
    DTYPE_I64: _ClassVar[DType]
    DTYPE_F16: _ClassVar[DType]
    DTYPE_F32: _ClassVar[DType]
    DTYPE_F64: _ClassVar[DType]
    DTYPE_BF16: _ClassVar[DType]
    DTYPE_F8E4M3FN: _ClassVar[DType]
    DTYPE_F8E5M2: _ClassVar[DType]
    DTYPE_F8E4M3FNUZ: _ClassVar[DType]
    DTYPE_F8E5M2FNUZ: _ClassVar[DType]
    DTYPE_I4: _ClassVar[DType]
    DTYPE_U4: _ClassVar[DType]
    DTYPE_C64: _ClassVar[DType]
    DTYPE_C128: _ClassVar[DType]
    DTYPE_BYTES: _ClassVar[DType]
    DTYPE_UTF8: _ClassVar[DType]
DTYPE_UNSPECIFIED: DType
DTYPE_BOOL: DType
DTYPE_U8: DType
DTYPE_U16: DType
DTYPE_U32: DType
DTYPE_U64: DType
DTYPE_I8: DType
DTYPE_I16: DType
DTYPE_I32: DType
DTYPE_I64: DType
DTYPE_F16: DType
DTYPE_F32: DType
DTYPE_F64: DType
DTYPE_BF16: DType
DTYPE_F8E4M3FN: DType
DTYPE_F8E5M2: DType
DTYPE_F8E4M3FNUZ: DType
DTYPE_F8E5M2FNUZ: DType
DTYPE_I4: DType
DTYPE_U4: DType
DTYPE_C64: DType
DTYPE_C128: DType
DTYPE_BYTES: DType
DTYPE_UTF8: DType

class Tensor(_message.Message):
    __slots__ = ("name", "dtype", "shape", "data_bytes", "data")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: DType
    shape: _containers.RepeatedScalarFieldContainer[int]
    data_bytes: int
    data: bytes
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[_Union[DType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., data_bytes: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...
