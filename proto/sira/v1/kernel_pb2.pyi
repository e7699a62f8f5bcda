from sira.v1 import error_pb2 as _error_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TopicClassKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TOPIC_CLASS_KIND_UNSPECIFIED: _ClassVar[TopicClassKind]
    TOPIC_CLASS_KIND_USER: _ClassVar[TopicClassKind]
    TOPIC_CLASS_KIND_RESERVED: _ClassVar[TopicClassKind]
    TOPIC_CLASS_KIND_EVENT: _ClassVar[TopicClassKind]
TOPIC_CLASS_KIND_UNSPECIFIED: TopicClassKind
TOPIC_CLASS_KIND_USER: TopicClassKind
TOPIC_CLASS_KIND_RESERVED: TopicClassKind
TOPIC_CLASS_KIND_EVENT: TopicClassKind

class Feature(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class NegotiateRequest(_message.Message):
    __slots__ = ("client", "protocol_min", "protocol_max", "lanes")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_MIN_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_MAX_FIELD_NUMBER: _ClassVar[int]
    LANES_FIELD_NUMBER: _ClassVar[int]
    client: str
    protocol_min: int
    protocol_max: int
    lanes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, client: _Optional[str] = ..., protocol_min: _Optional[int] = ..., protocol_max: _Optional[int] = ..., lanes: _Optional[_Iterable[str]] = ...) -> None: ...

class NegotiateResponse(_message.Message):
    __slots__ = ("protocol", "node", "version", "epoch", "features", "lanes", "limits", "principal", "tenant")
    class LimitsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    LANES_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    node: str
    version: str
    epoch: bytes
    features: _containers.RepeatedCompositeFieldContainer[Feature]
    lanes: _containers.RepeatedScalarFieldContainer[str]
    limits: _containers.ScalarMap[str, int]
    principal: str
    tenant: str
    def __init__(self, protocol: _Optional[int] = ..., node: _Optional[str] = ..., version: _Optional[str] = ..., epoch: _Optional[bytes] = ..., features: _Optional[_Iterable[_Union[Feature, _Mapping]]] = ..., lanes: _Optional[_Iterable[str]] = ..., limits: _Optional[_Mapping[str, int]] = ..., principal: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...

class IntrospectRequest(_message.Message):
    __slots__ = ("service",)
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    service: str
    def __init__(self, service: _Optional[str] = ...) -> None: ...

class Method(_message.Message):
    __slots__ = ("name", "effects", "request_schema", "response_schema", "summary", "request_stream", "response_stream")
    NAME_FIELD_NUMBER: _ClassVar[int]
    EFFECTS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_STREAM_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_STREAM_FIELD_NUMBER: _ClassVar[int]
    name: str
    effects: str
    request_schema: str
    response_schema: str
    summary: str
    request_stream: bool
    response_stream: bool
    def __init__(self, name: _Optional[str] = ..., effects: _Optional[str] = ..., request_schema: _Optional[str] = ..., response_schema: _Optional[str] = ..., summary: _Optional[str] = ..., request_stream: _Optional[bool] = ..., response_stream: _Optional[bool] = ...) -> None: ...

class Service(_message.Message):
    __slots__ = ("name", "methods")
    NAME_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    name: str
    methods: _containers.RepeatedCompositeFieldContainer[Method]
    def __init__(self, name: _Optional[str] = ..., methods: _Optional[_Iterable[_Union[Method, _Mapping]]] = ...) -> None: ...

class Setting(_message.Message):
    __slots__ = ("name", "value", "unit", "reason", "source", "schema")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    unit: str
    reason: str
    source: str
    schema: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ..., unit: _Optional[str] = ..., reason: _Optional[str] = ..., source: _Optional[str] = ..., schema: _Optional[str] = ...) -> None: ...

class TopicClass(_message.Message):
    __slots__ = ("pattern", "kind", "summary")
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    pattern: str
    kind: TopicClassKind
    summary: str
    def __init__(self, pattern: _Optional[str] = ..., kind: _Optional[_Union[TopicClassKind, str]] = ..., summary: _Optional[str] = ...) -> None: ...

class Verb(_message.Message):
    __slots__ = ("name", "summary", "method")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    name: str
    summary: str
    method: str
    def __init__(self, name: _Optional[str] = ..., summary: _Optional[str] = ..., method: _Optional[str] = ...) -> None: ...

class IntrospectResponse(_message.Message):
    __slots__ = ("services", "settings", "topic_classes", "verbs", "event_schemas", "topic_classes_left_out")
    class EventSchemasEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    TOPIC_CLASSES_FIELD_NUMBER: _ClassVar[int]
    VERBS_FIELD_NUMBER: _ClassVar[int]
    EVENT_SCHEMAS_FIELD_NUMBER: _ClassVar[int]
    TOPIC_CLASSES_LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    services: _containers.RepeatedCompositeFieldContainer[Service]
    settings: _containers.RepeatedCompositeFieldContainer[Setting]
    topic_classes: _containers.RepeatedCompositeFieldContainer[TopicClass]
    verbs: _containers.RepeatedCompositeFieldContainer[Verb]
    event_schemas: _containers.ScalarMap[str, str]
    topic_classes_left_out: int
    def __init__(self, services: _Optional[_Iterable[_Union[Service, _Mapping]]] = ..., settings: _Optional[_Iterable[_Union[Setting, _Mapping]]] = ..., topic_classes: _Optional[_Iterable[_Union[TopicClass, _Mapping]]] = ..., verbs: _Optional[_Iterable[_Union[Verb, _Mapping]]] = ..., event_schemas: _Optional[_Mapping[str, str]] = ..., topic_classes_left_out: _Optional[int] = ...) -> None: ...

class StatsRequest(_message.Message):
    __slots__ = ("prometheus",)
    PROMETHEUS_FIELD_NUMBER: _ClassVar[int]
    prometheus: bool
    def __init__(self, prometheus: _Optional[bool] = ...) -> None: ...

class Histogram(_message.Message):
    __slots__ = ("name", "labels", "bounds_ns", "counts", "sum_ns")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    BOUNDS_NS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    SUM_NS_FIELD_NUMBER: _ClassVar[int]
    name: str
    labels: _containers.ScalarMap[str, str]
    bounds_ns: _containers.RepeatedScalarFieldContainer[int]
    counts: _containers.RepeatedScalarFieldContainer[int]
    sum_ns: int
    def __init__(self, name: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., bounds_ns: _Optional[_Iterable[int]] = ..., counts: _Optional[_Iterable[int]] = ..., sum_ns: _Optional[int] = ...) -> None: ...

class StatsResponse(_message.Message):
    __slots__ = ("node", "uptime_ns", "values", "histograms", "clients", "subscriptions", "prometheus")
    class ValuesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NODE_FIELD_NUMBER: _ClassVar[int]
    UPTIME_NS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    HISTOGRAMS_FIELD_NUMBER: _ClassVar[int]
    CLIENTS_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTIONS_FIELD_NUMBER: _ClassVar[int]
    PROMETHEUS_FIELD_NUMBER: _ClassVar[int]
    node: str
    uptime_ns: int
    values: _containers.ScalarMap[str, float]
    histograms: _containers.RepeatedCompositeFieldContainer[Histogram]
    clients: _containers.RepeatedCompositeFieldContainer[ClientStats]
    subscriptions: _containers.RepeatedCompositeFieldContainer[SubscriptionStats]
    prometheus: str
    def __init__(self, node: _Optional[str] = ..., uptime_ns: _Optional[int] = ..., values: _Optional[_Mapping[str, float]] = ..., histograms: _Optional[_Iterable[_Union[Histogram, _Mapping]]] = ..., clients: _Optional[_Iterable[_Union[ClientStats, _Mapping]]] = ..., subscriptions: _Optional[_Iterable[_Union[SubscriptionStats, _Mapping]]] = ..., prometheus: _Optional[str] = ...) -> None: ...

class ClientStats(_message.Message):
    __slots__ = ("id", "principal", "peer", "published", "delivered", "queued_bytes", "connected_ns")
    ID_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_FIELD_NUMBER: _ClassVar[int]
    QUEUED_BYTES_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_NS_FIELD_NUMBER: _ClassVar[int]
    id: str
    principal: str
    peer: str
    published: int
    delivered: int
    queued_bytes: int
    connected_ns: int
    def __init__(self, id: _Optional[str] = ..., principal: _Optional[str] = ..., peer: _Optional[str] = ..., published: _Optional[int] = ..., delivered: _Optional[int] = ..., queued_bytes: _Optional[int] = ..., connected_ns: _Optional[int] = ...) -> None: ...

class SubscriptionStats(_message.Message):
    __slots__ = ("client", "pattern", "group", "overflow", "pending", "in_flight", "delivered", "dropped", "stalled")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    OVERFLOW_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    STALLED_FIELD_NUMBER: _ClassVar[int]
    client: str
    pattern: str
    group: str
    overflow: str
    pending: int
    in_flight: int
    delivered: int
    dropped: int
    stalled: bool
    def __init__(self, client: _Optional[str] = ..., pattern: _Optional[str] = ..., group: _Optional[str] = ..., overflow: _Optional[str] = ..., pending: _Optional[int] = ..., in_flight: _Optional[int] = ..., delivered: _Optional[int] = ..., dropped: _Optional[int] = ..., stalled: _Optional[bool] = ...) -> None: ...

class LedgerRequest(_message.Message):
    __slots__ = ("pattern", "page_rows", "page_token")
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    PAGE_ROWS_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    pattern: str
    page_rows: int
    page_token: bytes
    def __init__(self, pattern: _Optional[str] = ..., page_rows: _Optional[int] = ..., page_token: _Optional[bytes] = ...) -> None: ...

class LedgerRow(_message.Message):
    __slots__ = ("topic", "node", "published", "owed", "received", "delivered", "forwarded", "pending", "retained", "superseded", "expired", "dropped", "dead_lettered", "unknown", "redelivered", "refused", "class_row")
    class DroppedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class UnknownEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class RefusedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    OWED_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_FIELD_NUMBER: _ClassVar[int]
    FORWARDED_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    RETAINED_FIELD_NUMBER: _ClassVar[int]
    SUPERSEDED_FIELD_NUMBER: _ClassVar[int]
    EXPIRED_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTERED_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    REDELIVERED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    CLASS_ROW_FIELD_NUMBER: _ClassVar[int]
    topic: str
    node: str
    published: int
    owed: int
    received: int
    delivered: int
    forwarded: int
    pending: int
    retained: int
    superseded: int
    expired: int
    dropped: _containers.ScalarMap[str, int]
    dead_lettered: int
    unknown: _containers.ScalarMap[str, int]
    redelivered: int
    refused: _containers.ScalarMap[str, int]
    class_row: bool
    def __init__(self, topic: _Optional[str] = ..., node: _Optional[str] = ..., published: _Optional[int] = ..., owed: _Optional[int] = ..., received: _Optional[int] = ..., delivered: _Optional[int] = ..., forwarded: _Optional[int] = ..., pending: _Optional[int] = ..., retained: _Optional[int] = ..., superseded: _Optional[int] = ..., expired: _Optional[int] = ..., dropped: _Optional[_Mapping[str, int]] = ..., dead_lettered: _Optional[int] = ..., unknown: _Optional[_Mapping[str, int]] = ..., redelivered: _Optional[int] = ..., refused: _Optional[_Mapping[str, int]] = ..., class_row: _Optional[bool] = ...) -> None: ...

class LedgerResponse(_message.Message):
    __slots__ = ("rows", "balanced", "epoch", "next", "moved")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    BALANCED_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    MOVED_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[LedgerRow]
    balanced: bool
    epoch: bytes
    next: bytes
    moved: int
    def __init__(self, rows: _Optional[_Iterable[_Union[LedgerRow, _Mapping]]] = ..., balanced: _Optional[bool] = ..., epoch: _Optional[bytes] = ..., next: _Optional[bytes] = ..., moved: _Optional[int] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("topic", "principal", "action", "client")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    topic: str
    principal: str
    action: str
    client: str
    def __init__(self, topic: _Optional[str] = ..., principal: _Optional[str] = ..., action: _Optional[str] = ..., client: _Optional[str] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("decision", "reasons", "matches", "kind", "contract", "rule", "readable", "cut", "obligations", "matches_left_out", "publishers")
    class ContractEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    DECISION_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    MATCHES_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    READABLE_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    OBLIGATIONS_FIELD_NUMBER: _ClassVar[int]
    MATCHES_LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    PUBLISHERS_FIELD_NUMBER: _ClassVar[int]
    decision: str
    reasons: _containers.RepeatedScalarFieldContainer[str]
    matches: _containers.RepeatedCompositeFieldContainer[ExplainMatch]
    kind: str
    contract: _containers.ScalarMap[str, str]
    rule: str
    readable: _containers.RepeatedScalarFieldContainer[str]
    cut: _containers.RepeatedScalarFieldContainer[str]
    obligations: _containers.RepeatedScalarFieldContainer[str]
    matches_left_out: int
    publishers: _containers.RepeatedCompositeFieldContainer[ExplainPublisher]
    def __init__(self, decision: _Optional[str] = ..., reasons: _Optional[_Iterable[str]] = ..., matches: _Optional[_Iterable[_Union[ExplainMatch, _Mapping]]] = ..., kind: _Optional[str] = ..., contract: _Optional[_Mapping[str, str]] = ..., rule: _Optional[str] = ..., readable: _Optional[_Iterable[str]] = ..., cut: _Optional[_Iterable[str]] = ..., obligations: _Optional[_Iterable[str]] = ..., matches_left_out: _Optional[int] = ..., publishers: _Optional[_Iterable[_Union[ExplainPublisher, _Mapping]]] = ...) -> None: ...

class ExplainPublisher(_message.Message):
    __slots__ = ("client", "lane", "path", "why")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    client: str
    lane: str
    path: str
    why: str
    def __init__(self, client: _Optional[str] = ..., lane: _Optional[str] = ..., path: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...

class ExplainMatch(_message.Message):
    __slots__ = ("client", "pattern", "group", "lane", "lane_reason", "pending", "state")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    LANE_REASON_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    client: str
    pattern: str
    group: str
    lane: str
    lane_reason: str
    pending: int
    state: str
    def __init__(self, client: _Optional[str] = ..., pattern: _Optional[str] = ..., group: _Optional[str] = ..., lane: _Optional[str] = ..., lane_reason: _Optional[str] = ..., pending: _Optional[int] = ..., state: _Optional[str] = ...) -> None: ...

class MemoryRequest(_message.Message):
    __slots__ = ("pattern",)
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    pattern: str
    def __init__(self, pattern: _Optional[str] = ...) -> None: ...

class MemoryParty(_message.Message):
    __slots__ = ("client", "peer", "tenant", "gone")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    client: str
    peer: str
    tenant: str
    gone: bool
    def __init__(self, client: _Optional[str] = ..., peer: _Optional[str] = ..., tenant: _Optional[str] = ..., gone: _Optional[bool] = ...) -> None: ...

class MemoryHolder(_message.Message):
    __slots__ = ("party", "leases", "bytes", "held_ns", "link", "reads", "waiting")
    PARTY_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    HELD_NS_FIELD_NUMBER: _ClassVar[int]
    LINK_FIELD_NUMBER: _ClassVar[int]
    READS_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    party: MemoryParty
    leases: int
    bytes: int
    held_ns: int
    link: int
    reads: bool
    waiting: int
    def __init__(self, party: _Optional[_Union[MemoryParty, _Mapping]] = ..., leases: _Optional[int] = ..., bytes: _Optional[int] = ..., held_ns: _Optional[int] = ..., link: _Optional[int] = ..., reads: _Optional[bool] = ..., waiting: _Optional[int] = ...) -> None: ...

class MemorySegment(_message.Message):
    __slots__ = ("segment", "topic", "bytes", "age_ns", "state", "owner", "leases", "holders")
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    AGE_NS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    segment: int
    topic: str
    bytes: int
    age_ns: int
    state: str
    owner: MemoryParty
    leases: int
    holders: _containers.RepeatedCompositeFieldContainer[MemoryHolder]
    def __init__(self, segment: _Optional[int] = ..., topic: _Optional[str] = ..., bytes: _Optional[int] = ..., age_ns: _Optional[int] = ..., state: _Optional[str] = ..., owner: _Optional[_Union[MemoryParty, _Mapping]] = ..., leases: _Optional[int] = ..., holders: _Optional[_Iterable[_Union[MemoryHolder, _Mapping]]] = ...) -> None: ...

class MemoryCell(_message.Message):
    __slots__ = ("topic", "publisher", "subscriber", "pattern", "pending", "delivered", "open")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    PUBLISHER_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIBER_FIELD_NUMBER: _ClassVar[int]
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    topic: str
    publisher: str
    subscriber: str
    pattern: str
    pending: int
    delivered: int
    open: bool
    def __init__(self, topic: _Optional[str] = ..., publisher: _Optional[str] = ..., subscriber: _Optional[str] = ..., pattern: _Optional[str] = ..., pending: _Optional[int] = ..., delivered: _Optional[int] = ..., open: _Optional[bool] = ...) -> None: ...

class MemoryLink(_message.Message):
    __slots__ = ("link", "bytes", "age_ns", "state", "writer", "reader", "cells")
    LINK_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    AGE_NS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    WRITER_FIELD_NUMBER: _ClassVar[int]
    READER_FIELD_NUMBER: _ClassVar[int]
    CELLS_FIELD_NUMBER: _ClassVar[int]
    link: int
    bytes: int
    age_ns: int
    state: str
    writer: MemoryParty
    reader: MemoryParty
    cells: _containers.RepeatedCompositeFieldContainer[MemoryCell]
    def __init__(self, link: _Optional[int] = ..., bytes: _Optional[int] = ..., age_ns: _Optional[int] = ..., state: _Optional[str] = ..., writer: _Optional[_Union[MemoryParty, _Mapping]] = ..., reader: _Optional[_Union[MemoryParty, _Mapping]] = ..., cells: _Optional[_Iterable[_Union[MemoryCell, _Mapping]]] = ...) -> None: ...

class MemoryResponse(_message.Message):
    __slots__ = ("segments", "links", "left_out", "bytes")
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    segments: _containers.RepeatedCompositeFieldContainer[MemorySegment]
    links: _containers.RepeatedCompositeFieldContainer[MemoryLink]
    left_out: int
    bytes: int
    def __init__(self, segments: _Optional[_Iterable[_Union[MemorySegment, _Mapping]]] = ..., links: _Optional[_Iterable[_Union[MemoryLink, _Mapping]]] = ..., left_out: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class AttachRequest(_message.Message):
    __slots__ = ("offer", "reply", "leave")
    OFFER_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    LEAVE_FIELD_NUMBER: _ClassVar[int]
    offer: AttachOffer
    reply: AttachReply
    leave: AttachLeave
    def __init__(self, offer: _Optional[_Union[AttachOffer, _Mapping]] = ..., reply: _Optional[_Union[AttachReply, _Mapping]] = ..., leave: _Optional[_Union[AttachLeave, _Mapping]] = ...) -> None: ...

class AttachResponse(_message.Message):
    __slots__ = ("accepted", "call", "credit", "cancel")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    accepted: AttachAccepted
    call: AttachCall
    credit: AttachCredit
    cancel: AttachCancel
    def __init__(self, accepted: _Optional[_Union[AttachAccepted, _Mapping]] = ..., call: _Optional[_Union[AttachCall, _Mapping]] = ..., credit: _Optional[_Union[AttachCredit, _Mapping]] = ..., cancel: _Optional[_Union[AttachCancel, _Mapping]] = ...) -> None: ...

class AttachOffer(_message.Message):
    __slots__ = ("name", "descriptors", "methods", "topic_classes", "settings", "verbs")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTORS_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    TOPIC_CLASSES_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    VERBS_FIELD_NUMBER: _ClassVar[int]
    name: str
    descriptors: bytes
    methods: _containers.RepeatedCompositeFieldContainer[AttachMethod]
    topic_classes: _containers.RepeatedCompositeFieldContainer[TopicClass]
    settings: _containers.RepeatedCompositeFieldContainer[Setting]
    verbs: _containers.RepeatedCompositeFieldContainer[Verb]
    def __init__(self, name: _Optional[str] = ..., descriptors: _Optional[bytes] = ..., methods: _Optional[_Iterable[_Union[AttachMethod, _Mapping]]] = ..., topic_classes: _Optional[_Iterable[_Union[TopicClass, _Mapping]]] = ..., settings: _Optional[_Iterable[_Union[Setting, _Mapping]]] = ..., verbs: _Optional[_Iterable[_Union[Verb, _Mapping]]] = ...) -> None: ...

class AttachMethod(_message.Message):
    __slots__ = ("name", "effects", "summary")
    NAME_FIELD_NUMBER: _ClassVar[int]
    EFFECTS_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    name: str
    effects: str
    summary: str
    def __init__(self, name: _Optional[str] = ..., effects: _Optional[str] = ..., summary: _Optional[str] = ...) -> None: ...

class AttachAccepted(_message.Message):
    __slots__ = ("name", "tenant", "calls_max", "held_bytes_max")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    CALLS_MAX_FIELD_NUMBER: _ClassVar[int]
    HELD_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    name: str
    tenant: str
    calls_max: int
    held_bytes_max: int
    def __init__(self, name: _Optional[str] = ..., tenant: _Optional[str] = ..., calls_max: _Optional[int] = ..., held_bytes_max: _Optional[int] = ...) -> None: ...

class AttachCall(_message.Message):
    __slots__ = ("call", "method", "principal", "tenant", "timeout_ms", "metadata", "request", "window")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CALL_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    call: int
    method: str
    principal: str
    tenant: str
    timeout_ms: int
    metadata: _containers.ScalarMap[str, str]
    request: bytes
    window: int
    def __init__(self, call: _Optional[int] = ..., method: _Optional[str] = ..., principal: _Optional[str] = ..., tenant: _Optional[str] = ..., timeout_ms: _Optional[int] = ..., metadata: _Optional[_Mapping[str, str]] = ..., request: _Optional[bytes] = ..., window: _Optional[int] = ...) -> None: ...

class AttachReply(_message.Message):
    __slots__ = ("call", "response", "end", "error")
    CALL_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    call: int
    response: bytes
    end: bool
    error: _error_pb2.Error
    def __init__(self, call: _Optional[int] = ..., response: _Optional[bytes] = ..., end: _Optional[bool] = ..., error: _Optional[_Union[_error_pb2.Error, _Mapping]] = ...) -> None: ...

class AttachLeave(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AttachCredit(_message.Message):
    __slots__ = ("call", "replies")
    CALL_FIELD_NUMBER: _ClassVar[int]
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    call: int
    replies: int
    def __init__(self, call: _Optional[int] = ..., replies: _Optional[int] = ...) -> None: ...

class AttachCancel(_message.Message):
    __slots__ = ("call", "code")
    CALL_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    call: int
    code: str
    def __init__(self, call: _Optional[int] = ..., code: _Optional[str] = ...) -> None: ...
