from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AcquireLeaseRequest(_message.Message):
    __slots__ = ("name", "ttl_ms", "shared", "wait_ms", "holder", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    ttl_ms: int
    shared: int
    wait_ms: int
    holder: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., ttl_ms: _Optional[int] = ..., shared: _Optional[int] = ..., wait_ms: _Optional[int] = ..., holder: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class Lease(_message.Message):
    __slots__ = ("name", "ticket", "token", "ttl_ms", "left_ms", "shared", "principal", "holder")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    LEFT_MS_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    name: str
    ticket: int
    token: int
    ttl_ms: int
    left_ms: int
    shared: int
    principal: str
    holder: str
    def __init__(self, name: _Optional[str] = ..., ticket: _Optional[int] = ..., token: _Optional[int] = ..., ttl_ms: _Optional[int] = ..., left_ms: _Optional[int] = ..., shared: _Optional[int] = ..., principal: _Optional[str] = ..., holder: _Optional[str] = ...) -> None: ...

class RenewLeaseRequest(_message.Message):
    __slots__ = ("name", "ticket", "ttl_ms")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    name: str
    ticket: int
    ttl_ms: int
    def __init__(self, name: _Optional[str] = ..., ticket: _Optional[int] = ..., ttl_ms: _Optional[int] = ...) -> None: ...

class ReleaseLeaseRequest(_message.Message):
    __slots__ = ("name", "ticket")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    name: str
    ticket: int
    def __init__(self, name: _Optional[str] = ..., ticket: _Optional[int] = ...) -> None: ...

class ReleaseLeaseResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchLeasesRequest(_message.Message):
    __slots__ = ("pattern", "since")
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    pattern: str
    since: int
    def __init__(self, pattern: _Optional[str] = ..., since: _Optional[int] = ...) -> None: ...

class LeaseChange(_message.Message):
    __slots__ = ("lease", "reason", "ended")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    lease: Lease
    reason: str
    ended: bool
    def __init__(self, lease: _Optional[_Union[Lease, _Mapping]] = ..., reason: _Optional[str] = ..., ended: _Optional[bool] = ...) -> None: ...

class WatchLeasesResponse(_message.Message):
    __slots__ = ("revision", "snapshot", "changes", "more")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    revision: int
    snapshot: bool
    changes: _containers.RepeatedCompositeFieldContainer[LeaseChange]
    more: bool
    def __init__(self, revision: _Optional[int] = ..., snapshot: _Optional[bool] = ..., changes: _Optional[_Iterable[_Union[LeaseChange, _Mapping]]] = ..., more: _Optional[bool] = ...) -> None: ...
