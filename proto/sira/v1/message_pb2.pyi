from sira.v1 import error_pb2 as _error_pb2
from sira.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReplyKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REPLY_KIND_UNSPECIFIED: _ClassVar[ReplyKind]
    REPLY_KIND_FINAL: _ClassVar[ReplyKind]
    REPLY_KIND_PARTIAL: _ClassVar[ReplyKind]
    REPLY_KIND_PROGRESS: _ClassVar[ReplyKind]
    REPLY_KIND_ERROR: _ClassVar[ReplyKind]
REPLY_KIND_UNSPECIFIED: ReplyKind
REPLY_KIND_FINAL: ReplyKind
REPLY_KIND_PARTIAL: ReplyKind
REPLY_KIND_PROGRESS: ReplyKind
REPLY_KIND_ERROR: ReplyKind

class Expect(_message.Message):
    __slots__ = ("offset", "of_key")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    OF_KEY_FIELD_NUMBER: _ClassVar[int]
    offset: int
    of_key: bool
    def __init__(self, offset: _Optional[int] = ..., of_key: _Optional[bool] = ...) -> None: ...

class Fence(_message.Message):
    __slots__ = ("lease", "token")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    lease: str
    token: int
    def __init__(self, lease: _Optional[str] = ..., token: _Optional[int] = ...) -> None: ...

class Sealed(_message.Message):
    __slots__ = ("alg", "key_id", "nonce")
    ALG_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    alg: str
    key_id: str
    nonce: bytes
    def __init__(self, alg: _Optional[str] = ..., key_id: _Optional[str] = ..., nonce: _Optional[bytes] = ...) -> None: ...

class Message(_message.Message):
    __slots__ = ("id", "topic", "priority", "ttl_ns", "reply_to", "content_type", "time_ns", "correlation_id", "causation_id", "type", "schema", "source", "intent_id", "tensors", "traceparent", "headers", "dedupe_key", "key", "stream_id", "stream_seq", "stream_end", "reply_kind", "error", "expect", "fence", "sealed", "principal", "tenant", "attempt", "offset")
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    TTL_NS_FIELD_NUMBER: _ClassVar[int]
    REPLY_TO_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    CAUSATION_ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    INTENT_ID_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    DEDUPE_KEY_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    STREAM_SEQ_FIELD_NUMBER: _ClassVar[int]
    STREAM_END_FIELD_NUMBER: _ClassVar[int]
    REPLY_KIND_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    EXPECT_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    topic: str
    priority: int
    ttl_ns: int
    reply_to: str
    content_type: str
    time_ns: int
    correlation_id: bytes
    causation_id: bytes
    type: str
    schema: str
    source: str
    intent_id: bytes
    tensors: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    traceparent: str
    headers: _containers.ScalarMap[str, str]
    dedupe_key: str
    key: str
    stream_id: bytes
    stream_seq: int
    stream_end: bool
    reply_kind: ReplyKind
    error: _error_pb2.Error
    expect: Expect
    fence: Fence
    sealed: Sealed
    principal: str
    tenant: str
    attempt: int
    offset: int
    def __init__(self, id: _Optional[bytes] = ..., topic: _Optional[str] = ..., priority: _Optional[int] = ..., ttl_ns: _Optional[int] = ..., reply_to: _Optional[str] = ..., content_type: _Optional[str] = ..., time_ns: _Optional[int] = ..., correlation_id: _Optional[bytes] = ..., causation_id: _Optional[bytes] = ..., type: _Optional[str] = ..., schema: _Optional[str] = ..., source: _Optional[str] = ..., intent_id: _Optional[bytes] = ..., tensors: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ..., traceparent: _Optional[str] = ..., headers: _Optional[_Mapping[str, str]] = ..., dedupe_key: _Optional[str] = ..., key: _Optional[str] = ..., stream_id: _Optional[bytes] = ..., stream_seq: _Optional[int] = ..., stream_end: _Optional[bool] = ..., reply_kind: _Optional[_Union[ReplyKind, str]] = ..., error: _Optional[_Union[_error_pb2.Error, _Mapping]] = ..., expect: _Optional[_Union[Expect, _Mapping]] = ..., fence: _Optional[_Union[Fence, _Mapping]] = ..., sealed: _Optional[_Union[Sealed, _Mapping]] = ..., principal: _Optional[str] = ..., tenant: _Optional[str] = ..., attempt: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...
