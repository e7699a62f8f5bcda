from sira.v1 import bus_pb2 as _bus_pb2
from sira.v1 import error_pb2 as _error_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TableBatch(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[TableEntry]
    def __init__(self, entries: _Optional[_Iterable[_Union[TableEntry, _Mapping]]] = ...) -> None: ...

class TableEntry(_message.Message):
    __slots__ = ("version", "elapsed_ms", "tick", "command")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_MS_FIELD_NUMBER: _ClassVar[int]
    TICK_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    version: int
    elapsed_ms: int
    tick: TableTick
    command: TableCommand
    def __init__(self, version: _Optional[int] = ..., elapsed_ms: _Optional[int] = ..., tick: _Optional[_Union[TableTick, _Mapping]] = ..., command: _Optional[_Union[TableCommand, _Mapping]] = ...) -> None: ...

class TableTick(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TableCommand(_message.Message):
    __slots__ = ("request", "transaction", "lease_acquire", "lease_renew", "lease_release", "config_set", "config_rollback")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    LEASE_ACQUIRE_FIELD_NUMBER: _ClassVar[int]
    LEASE_RENEW_FIELD_NUMBER: _ClassVar[int]
    LEASE_RELEASE_FIELD_NUMBER: _ClassVar[int]
    CONFIG_SET_FIELD_NUMBER: _ClassVar[int]
    CONFIG_ROLLBACK_FIELD_NUMBER: _ClassVar[int]
    request: TableRequest
    transaction: TableTransaction
    lease_acquire: LeaseAcquire
    lease_renew: LeaseRenew
    lease_release: LeaseRelease
    config_set: ConfigSet
    config_rollback: ConfigRollback
    def __init__(self, request: _Optional[_Union[TableRequest, _Mapping]] = ..., transaction: _Optional[_Union[TableTransaction, _Mapping]] = ..., lease_acquire: _Optional[_Union[LeaseAcquire, _Mapping]] = ..., lease_renew: _Optional[_Union[LeaseRenew, _Mapping]] = ..., lease_release: _Optional[_Union[LeaseRelease, _Mapping]] = ..., config_set: _Optional[_Union[ConfigSet, _Mapping]] = ..., config_rollback: _Optional[_Union[ConfigRollback, _Mapping]] = ...) -> None: ...

class TableRequest(_message.Message):
    __slots__ = ("client", "sequence")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    client: str
    sequence: int
    def __init__(self, client: _Optional[str] = ..., sequence: _Optional[int] = ...) -> None: ...

class TableTransaction(_message.Message):
    __slots__ = ("compares", "puts", "deletes")
    COMPARES_FIELD_NUMBER: _ClassVar[int]
    PUTS_FIELD_NUMBER: _ClassVar[int]
    DELETES_FIELD_NUMBER: _ClassVar[int]
    compares: _containers.RepeatedCompositeFieldContainer[TableCompare]
    puts: _containers.RepeatedCompositeFieldContainer[TablePut]
    deletes: _containers.RepeatedCompositeFieldContainer[TableDelete]
    def __init__(self, compares: _Optional[_Iterable[_Union[TableCompare, _Mapping]]] = ..., puts: _Optional[_Iterable[_Union[TablePut, _Mapping]]] = ..., deletes: _Optional[_Iterable[_Union[TableDelete, _Mapping]]] = ...) -> None: ...

class TableCompare(_message.Message):
    __slots__ = ("table", "key", "revision")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    table: str
    key: str
    revision: int
    def __init__(self, table: _Optional[str] = ..., key: _Optional[str] = ..., revision: _Optional[int] = ...) -> None: ...

class TablePut(_message.Message):
    __slots__ = ("table", "key", "value")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    table: str
    key: str
    value: bytes
    def __init__(self, table: _Optional[str] = ..., key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...

class TableDelete(_message.Message):
    __slots__ = ("table", "key")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    table: str
    key: str
    def __init__(self, table: _Optional[str] = ..., key: _Optional[str] = ...) -> None: ...

class TableResult(_message.Message):
    __slots__ = ("index", "revision", "error", "conflicts", "lease", "config")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CONFLICTS_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    index: int
    revision: int
    error: _error_pb2.Error
    conflicts: _containers.RepeatedCompositeFieldContainer[TableCompare]
    lease: LeaseClaim
    config: ConfigVersion
    def __init__(self, index: _Optional[int] = ..., revision: _Optional[int] = ..., error: _Optional[_Union[_error_pb2.Error, _Mapping]] = ..., conflicts: _Optional[_Iterable[_Union[TableCompare, _Mapping]]] = ..., lease: _Optional[_Union[LeaseClaim, _Mapping]] = ..., config: _Optional[_Union[ConfigVersion, _Mapping]] = ...) -> None: ...

class LeaseAcquire(_message.Message):
    __slots__ = ("tenant", "name", "principal", "holder", "limit", "ttl_ms", "wait_ms")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    name: str
    principal: str
    holder: str
    limit: int
    ttl_ms: int
    wait_ms: int
    def __init__(self, tenant: _Optional[str] = ..., name: _Optional[str] = ..., principal: _Optional[str] = ..., holder: _Optional[str] = ..., limit: _Optional[int] = ..., ttl_ms: _Optional[int] = ..., wait_ms: _Optional[int] = ...) -> None: ...

class LeaseRenew(_message.Message):
    __slots__ = ("tenant", "name", "principal", "ticket", "ttl_ms")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    name: str
    principal: str
    ticket: int
    ttl_ms: int
    def __init__(self, tenant: _Optional[str] = ..., name: _Optional[str] = ..., principal: _Optional[str] = ..., ticket: _Optional[int] = ..., ttl_ms: _Optional[int] = ...) -> None: ...

class LeaseRelease(_message.Message):
    __slots__ = ("tenant", "name", "principal", "ticket")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    name: str
    principal: str
    ticket: int
    def __init__(self, tenant: _Optional[str] = ..., name: _Optional[str] = ..., principal: _Optional[str] = ..., ticket: _Optional[int] = ...) -> None: ...

class LeaseClaim(_message.Message):
    __slots__ = ("tenant", "name", "principal", "holder", "limit", "ttl_ms", "ticket", "token", "expires_ms")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_MS_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    name: str
    principal: str
    holder: str
    limit: int
    ttl_ms: int
    ticket: int
    token: int
    expires_ms: int
    def __init__(self, tenant: _Optional[str] = ..., name: _Optional[str] = ..., principal: _Optional[str] = ..., holder: _Optional[str] = ..., limit: _Optional[int] = ..., ttl_ms: _Optional[int] = ..., ticket: _Optional[int] = ..., token: _Optional[int] = ..., expires_ms: _Optional[int] = ...) -> None: ...

class KeptTopic(_message.Message):
    __slots__ = ("topic", "principal")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    topic: _bus_pb2.CreateTopicRequest
    principal: str
    def __init__(self, topic: _Optional[_Union[_bus_pb2.CreateTopicRequest, _Mapping]] = ..., principal: _Optional[str] = ...) -> None: ...

class ConfigSet(_message.Message):
    __slots__ = ("tenant", "key", "value", "expected_version", "principal", "time_ns")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    key: str
    value: bytes
    expected_version: int
    principal: str
    time_ns: int
    def __init__(self, tenant: _Optional[str] = ..., key: _Optional[str] = ..., value: _Optional[bytes] = ..., expected_version: _Optional[int] = ..., principal: _Optional[str] = ..., time_ns: _Optional[int] = ...) -> None: ...

class ConfigRollback(_message.Message):
    __slots__ = ("tenant", "key", "version", "expected_version", "principal", "time_ns")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    key: str
    version: int
    expected_version: int
    principal: str
    time_ns: int
    def __init__(self, tenant: _Optional[str] = ..., key: _Optional[str] = ..., version: _Optional[int] = ..., expected_version: _Optional[int] = ..., principal: _Optional[str] = ..., time_ns: _Optional[int] = ...) -> None: ...

class ConfigVersion(_message.Message):
    __slots__ = ("key", "value", "version", "principal", "time_ns", "rolled_back_to")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    ROLLED_BACK_TO_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: bytes
    version: int
    principal: str
    time_ns: int
    rolled_back_to: int
    def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ..., version: _Optional[int] = ..., principal: _Optional[str] = ..., time_ns: _Optional[int] = ..., rolled_back_to: _Optional[int] = ...) -> None: ...

class TableSnapshot(_message.Message):
    __slots__ = ("head", "rows", "answers", "end")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    head: TableSnapshotHead
    rows: TableSnapshotRows
    answers: TableSnapshotAnswers
    end: TableSnapshotEnd
    def __init__(self, head: _Optional[_Union[TableSnapshotHead, _Mapping]] = ..., rows: _Optional[_Union[TableSnapshotRows, _Mapping]] = ..., answers: _Optional[_Union[TableSnapshotAnswers, _Mapping]] = ..., end: _Optional[_Union[TableSnapshotEnd, _Mapping]] = ...) -> None: ...

class TableSnapshotHead(_message.Message):
    __slots__ = ("version", "index", "revision", "now_ms", "tickets", "tokens")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    NOW_MS_FIELD_NUMBER: _ClassVar[int]
    TICKETS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    version: int
    index: int
    revision: int
    now_ms: int
    tickets: int
    tokens: int
    def __init__(self, version: _Optional[int] = ..., index: _Optional[int] = ..., revision: _Optional[int] = ..., now_ms: _Optional[int] = ..., tickets: _Optional[int] = ..., tokens: _Optional[int] = ...) -> None: ...

class TableSnapshotRows(_message.Message):
    __slots__ = ("table", "rows")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    table: str
    rows: _containers.RepeatedCompositeFieldContainer[TableRow]
    def __init__(self, table: _Optional[str] = ..., rows: _Optional[_Iterable[_Union[TableRow, _Mapping]]] = ...) -> None: ...

class TableRow(_message.Message):
    __slots__ = ("key", "value", "created", "changed")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: bytes
    created: int
    changed: int
    def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ..., created: _Optional[int] = ..., changed: _Optional[int] = ...) -> None: ...

class TableSnapshotAnswers(_message.Message):
    __slots__ = ("answers",)
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    answers: _containers.RepeatedCompositeFieldContainer[TableAnswer]
    def __init__(self, answers: _Optional[_Iterable[_Union[TableAnswer, _Mapping]]] = ...) -> None: ...

class TableAnswer(_message.Message):
    __slots__ = ("request", "result")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    request: TableRequest
    result: TableResult
    def __init__(self, request: _Optional[_Union[TableRequest, _Mapping]] = ..., result: _Optional[_Union[TableResult, _Mapping]] = ...) -> None: ...

class TableSnapshotEnd(_message.Message):
    __slots__ = ("rows", "answers")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    rows: int
    answers: int
    def __init__(self, rows: _Optional[int] = ..., answers: _Optional[int] = ...) -> None: ...
