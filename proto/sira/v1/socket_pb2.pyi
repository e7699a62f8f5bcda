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
    __slots__ = ("segment", "bytes", "audience", "link")
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    AUDIENCE_FIELD_NUMBER: _ClassVar[int]
    LINK_FIELD_NUMBER: _ClassVar[int]
    segment: int
    bytes: int
    audience: str
    link: int
    def __init__(self, segment: _Optional[int] = ..., bytes: _Optional[int] = ..., audience: _Optional[str] = ..., link: _Optional[int] = ...) -> None: ...

class SocketSegments(_message.Message):
    __slots__ = ("segments", "link")
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    LINK_FIELD_NUMBER: _ClassVar[int]
    segments: _containers.RepeatedScalarFieldContainer[int]
    link: int
    def __init__(self, segments: _Optional[_Iterable[int]] = ..., link: _Optional[int] = ...) -> None: ...

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

class SocketLink(_message.Message):
    __slots__ = ("link", "generation", "slots", "holds", "cells", "writes")
    LINK_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    CELLS_FIELD_NUMBER: _ClassVar[int]
    WRITES_FIELD_NUMBER: _ClassVar[int]
    link: int
    generation: int
    slots: int
    holds: int
    cells: int
    writes: bool
    def __init__(self, link: _Optional[int] = ..., generation: _Optional[int] = ..., slots: _Optional[int] = ..., holds: _Optional[int] = ..., cells: _Optional[int] = ..., writes: _Optional[bool] = ...) -> None: ...

class SocketLinks(_message.Message):
    __slots__ = ("links",)
    LINKS_FIELD_NUMBER: _ClassVar[int]
    links: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, links: _Optional[_Iterable[int]] = ...) -> None: ...

class SocketPage(_message.Message):
    __slots__ = ("words",)
    WORDS_FIELD_NUMBER: _ClassVar[int]
    words: int
    def __init__(self, words: _Optional[int] = ...) -> None: ...

class SocketCell(_message.Message):
    __slots__ = ("link", "cell", "window", "held_bytes_max", "waits", "window_bytes")
    LINK_FIELD_NUMBER: _ClassVar[int]
    CELL_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    HELD_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    WAITS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_BYTES_FIELD_NUMBER: _ClassVar[int]
    link: int
    cell: int
    window: int
    held_bytes_max: int
    waits: bool
    window_bytes: int
    def __init__(self, link: _Optional[int] = ..., cell: _Optional[int] = ..., window: _Optional[int] = ..., held_bytes_max: _Optional[int] = ..., waits: _Optional[bool] = ..., window_bytes: _Optional[int] = ...) -> None: ...

class SocketRoute(_message.Message):
    __slots__ = ("ask", "word", "value", "targets", "segments", "matched", "refused", "again_ms")
    ASK_FIELD_NUMBER: _ClassVar[int]
    WORD_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    MATCHED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    AGAIN_MS_FIELD_NUMBER: _ClassVar[int]
    ask: int
    word: int
    value: int
    targets: _containers.RepeatedCompositeFieldContainer[SocketCell]
    segments: _containers.RepeatedScalarFieldContainer[int]
    matched: int
    refused: str
    again_ms: int
    def __init__(self, ask: _Optional[int] = ..., word: _Optional[int] = ..., value: _Optional[int] = ..., targets: _Optional[_Iterable[_Union[SocketCell, _Mapping]]] = ..., segments: _Optional[_Iterable[int]] = ..., matched: _Optional[int] = ..., refused: _Optional[str] = ..., again_ms: _Optional[int] = ...) -> None: ...

class SocketAsks(_message.Message):
    __slots__ = ("asks",)
    ASKS_FIELD_NUMBER: _ClassVar[int]
    asks: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, asks: _Optional[_Iterable[int]] = ...) -> None: ...
