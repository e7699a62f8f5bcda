from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SocketHello(_message.Message):
    __slots__ = ("version", "authorization", "window_bytes", "record_bytes_max", "calls_max", "lends", "links")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    AUTHORIZATION_FIELD_NUMBER: _ClassVar[int]
    WINDOW_BYTES_FIELD_NUMBER: _ClassVar[int]
    RECORD_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    CALLS_MAX_FIELD_NUMBER: _ClassVar[int]
    LENDS_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    version: int
    authorization: str
    window_bytes: int
    record_bytes_max: int
    calls_max: int
    lends: bool
    links: bool
    def __init__(self, version: _Optional[int] = ..., authorization: _Optional[str] = ..., window_bytes: _Optional[int] = ..., record_bytes_max: _Optional[int] = ..., calls_max: _Optional[int] = ..., lends: _Optional[bool] = ..., links: _Optional[bool] = ...) -> None: ...

class SocketSegment(_message.Message):
    __slots__ = ("segment", "bytes", "audience")
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    AUDIENCE_FIELD_NUMBER: _ClassVar[int]
    segment: int
    bytes: int
    audience: str
    def __init__(self, segment: _Optional[int] = ..., bytes: _Optional[int] = ..., audience: _Optional[str] = ...) -> None: ...

class SocketSegments(_message.Message):
    __slots__ = ("segments",)
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    segments: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, segments: _Optional[_Iterable[int]] = ...) -> None: ...

class SocketLeases(_message.Message):
    __slots__ = ("leases",)
    LEASES_FIELD_NUMBER: _ClassVar[int]
    leases: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, leases: _Optional[_Iterable[int]] = ...) -> None: ...

class SocketMetadata(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: str
    def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class SocketCall(_message.Message):
    __slots__ = ("method", "metadata", "timeout_us")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_US_FIELD_NUMBER: _ClassVar[int]
    method: str
    metadata: _containers.RepeatedCompositeFieldContainer[SocketMetadata]
    timeout_us: int
    def __init__(self, method: _Optional[str] = ..., metadata: _Optional[_Iterable[_Union[SocketMetadata, _Mapping]]] = ..., timeout_us: _Optional[int] = ...) -> None: ...
