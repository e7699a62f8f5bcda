from sira.v1 import error_pb2 as _error_pb2
from sira.v1 import message_pb2 as _message_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Grade(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GRADE_UNSPECIFIED: _ClassVar[Grade]
    GRADE_ACCEPTED: _ClassVar[Grade]
    GRADE_DISK: _ClassVar[Grade]
    GRADE_REPLICATED: _ClassVar[Grade]
    GRADE_CONSUMED: _ClassVar[Grade]

class Lane(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LANE_UNSPECIFIED: _ClassVar[Lane]
    LANE_GRPC: _ClassVar[Lane]
    LANE_SHM: _ClassVar[Lane]
    LANE_SOCKET: _ClassVar[Lane]

class Overflow(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OVERFLOW_UNSPECIFIED: _ClassVar[Overflow]
    OVERFLOW_BLOCK: _ClassVar[Overflow]
    OVERFLOW_DROP: _ClassVar[Overflow]
    OVERFLOW_LATEST: _ClassVar[Overflow]

class TopicKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TOPIC_KIND_UNSPECIFIED: _ClassVar[TopicKind]
    TOPIC_KIND_VOLATILE: _ClassVar[TopicKind]
    TOPIC_KIND_LATEST: _ClassVar[TopicKind]
    TOPIC_KIND_DURABLE: _ClassVar[TopicKind]
GRADE_UNSPECIFIED: Grade
GRADE_ACCEPTED: Grade
GRADE_DISK: Grade
GRADE_REPLICATED: Grade
GRADE_CONSUMED: Grade
LANE_UNSPECIFIED: Lane
LANE_GRPC: Lane
LANE_SHM: Lane
LANE_SOCKET: Lane
OVERFLOW_UNSPECIFIED: Overflow
OVERFLOW_BLOCK: Overflow
OVERFLOW_DROP: Overflow
OVERFLOW_LATEST: Overflow
TOPIC_KIND_UNSPECIFIED: TopicKind
TOPIC_KIND_VOLATILE: TopicKind
TOPIC_KIND_LATEST: TopicKind
TOPIC_KIND_DURABLE: TopicKind

class Frame(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Item]
    def __init__(self, items: _Optional[_Iterable[_Union[Item, _Mapping]]] = ...) -> None: ...

class Item(_message.Message):
    __slots__ = ("message", "head", "chunk", "abort", "credit", "ack", "receipt", "open", "opened", "close", "ended", "aside", "ask", "cell_open", "cell_end", "subscriptions", "quiet", "wait_ms", "grade")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    ABORT_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    OPENED_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    ASIDE_FIELD_NUMBER: _ClassVar[int]
    ASK_FIELD_NUMBER: _ClassVar[int]
    CELL_OPEN_FIELD_NUMBER: _ClassVar[int]
    CELL_END_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTIONS_FIELD_NUMBER: _ClassVar[int]
    QUIET_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    GRADE_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    head: _message_pb2.Message
    chunk: Chunk
    abort: Abort
    credit: Credit
    ack: Ack
    receipt: Receipt
    open: Open
    opened: Opened
    close: Close
    ended: Ended
    aside: Frame
    ask: RouteAsk
    cell_open: CellOpen
    cell_end: CellEnd
    subscriptions: _containers.RepeatedScalarFieldContainer[int]
    quiet: bool
    wait_ms: int
    grade: Grade
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., head: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., abort: _Optional[_Union[Abort, _Mapping]] = ..., credit: _Optional[_Union[Credit, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ..., receipt: _Optional[_Union[Receipt, _Mapping]] = ..., open: _Optional[_Union[Open, _Mapping]] = ..., opened: _Optional[_Union[Opened, _Mapping]] = ..., close: _Optional[_Union[Close, _Mapping]] = ..., ended: _Optional[_Union[Ended, _Mapping]] = ..., aside: _Optional[_Union[Frame, _Mapping]] = ..., ask: _Optional[_Union[RouteAsk, _Mapping]] = ..., cell_open: _Optional[_Union[CellOpen, _Mapping]] = ..., cell_end: _Optional[_Union[CellEnd, _Mapping]] = ..., subscriptions: _Optional[_Iterable[int]] = ..., quiet: _Optional[bool] = ..., wait_ms: _Optional[int] = ..., grade: _Optional[_Union[Grade, str]] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("message_id", "tensor", "offset", "lent", "data")
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    message_id: bytes
    tensor: int
    offset: int
    lent: Lent
    data: bytes
    def __init__(self, message_id: _Optional[bytes] = ..., tensor: _Optional[int] = ..., offset: _Optional[int] = ..., lent: _Optional[_Union[Lent, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class Lent(_message.Message):
    __slots__ = ("segment", "offset", "bytes", "lease")
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    segment: int
    offset: int
    bytes: int
    lease: int
    def __init__(self, segment: _Optional[int] = ..., offset: _Optional[int] = ..., bytes: _Optional[int] = ..., lease: _Optional[int] = ...) -> None: ...

class Abort(_message.Message):
    __slots__ = ("message_id", "error")
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    message_id: bytes
    error: _error_pb2.Error
    def __init__(self, message_id: _Optional[bytes] = ..., error: _Optional[_Union[_error_pb2.Error, _Mapping]] = ...) -> None: ...

class Credit(_message.Message):
    __slots__ = ("subscription", "taken", "message_id", "bytes", "total")
    SUBSCRIPTION_FIELD_NUMBER: _ClassVar[int]
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    subscription: int
    taken: int
    message_id: bytes
    bytes: int
    total: int
    def __init__(self, subscription: _Optional[int] = ..., taken: _Optional[int] = ..., message_id: _Optional[bytes] = ..., bytes: _Optional[int] = ..., total: _Optional[int] = ...) -> None: ...

class RouteAsk(_message.Message):
    __slots__ = ("ask", "topic")
    ASK_FIELD_NUMBER: _ClassVar[int]
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    ask: int
    topic: str
    def __init__(self, ask: _Optional[int] = ..., topic: _Optional[str] = ...) -> None: ...

class CellOpen(_message.Message):
    __slots__ = ("subscription", "link", "cell", "topic", "stamp")
    SUBSCRIPTION_FIELD_NUMBER: _ClassVar[int]
    LINK_FIELD_NUMBER: _ClassVar[int]
    CELL_FIELD_NUMBER: _ClassVar[int]
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    STAMP_FIELD_NUMBER: _ClassVar[int]
    subscription: int
    link: int
    cell: int
    topic: str
    stamp: bytes
    def __init__(self, subscription: _Optional[int] = ..., link: _Optional[int] = ..., cell: _Optional[int] = ..., topic: _Optional[str] = ..., stamp: _Optional[bytes] = ...) -> None: ...

class CellEnd(_message.Message):
    __slots__ = ("link", "cell")
    LINK_FIELD_NUMBER: _ClassVar[int]
    CELL_FIELD_NUMBER: _ClassVar[int]
    link: int
    cell: int
    def __init__(self, link: _Optional[int] = ..., cell: _Optional[int] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("subscription", "message_id", "negative", "delay_ms")
    SUBSCRIPTION_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_FIELD_NUMBER: _ClassVar[int]
    DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    subscription: int
    message_id: bytes
    negative: bool
    delay_ms: int
    def __init__(self, subscription: _Optional[int] = ..., message_id: _Optional[bytes] = ..., negative: _Optional[bool] = ..., delay_ms: _Optional[int] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("id", "matched", "grade", "offset", "lanes", "copies", "bytes", "nodes", "spooled", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    MATCHED_FIELD_NUMBER: _ClassVar[int]
    GRADE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LANES_FIELD_NUMBER: _ClassVar[int]
    COPIES_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    SPOOLED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    matched: int
    grade: Grade
    offset: int
    lanes: _containers.RepeatedScalarFieldContainer[Lane]
    copies: int
    bytes: int
    nodes: int
    spooled: bool
    error: _error_pb2.Error
    def __init__(self, id: _Optional[bytes] = ..., matched: _Optional[int] = ..., grade: _Optional[_Union[Grade, str]] = ..., offset: _Optional[int] = ..., lanes: _Optional[_Iterable[_Union[Lane, str]]] = ..., copies: _Optional[int] = ..., bytes: _Optional[int] = ..., nodes: _Optional[int] = ..., spooled: _Optional[bool] = ..., error: _Optional[_Union[_error_pb2.Error, _Mapping]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("subscription", "pattern", "group", "overflow", "window_messages", "window_bytes", "contract", "start", "ack_wait_ms", "max_deliver")
    class ContractEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SUBSCRIPTION_FIELD_NUMBER: _ClassVar[int]
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    OVERFLOW_FIELD_NUMBER: _ClassVar[int]
    WINDOW_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    WINDOW_BYTES_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    ACK_WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_DELIVER_FIELD_NUMBER: _ClassVar[int]
    subscription: int
    pattern: str
    group: str
    overflow: Overflow
    window_messages: int
    window_bytes: int
    contract: _containers.ScalarMap[str, str]
    start: str
    ack_wait_ms: int
    max_deliver: int
    def __init__(self, subscription: _Optional[int] = ..., pattern: _Optional[str] = ..., group: _Optional[str] = ..., overflow: _Optional[_Union[Overflow, str]] = ..., window_messages: _Optional[int] = ..., window_bytes: _Optional[int] = ..., contract: _Optional[_Mapping[str, str]] = ..., start: _Optional[str] = ..., ack_wait_ms: _Optional[int] = ..., max_deliver: _Optional[int] = ...) -> None: ...

class Opened(_message.Message):
    __slots__ = ("subscription", "cut", "readable")
    SUBSCRIPTION_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    READABLE_FIELD_NUMBER: _ClassVar[int]
    subscription: int
    cut: _containers.RepeatedScalarFieldContainer[str]
    readable: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, subscription: _Optional[int] = ..., cut: _Optional[_Iterable[str]] = ..., readable: _Optional[_Iterable[str]] = ...) -> None: ...

class Close(_message.Message):
    __slots__ = ("subscription",)
    SUBSCRIPTION_FIELD_NUMBER: _ClassVar[int]
    subscription: int
    def __init__(self, subscription: _Optional[int] = ...) -> None: ...

class Ended(_message.Message):
    __slots__ = ("subscription", "error")
    SUBSCRIPTION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    subscription: int
    error: _error_pb2.Error
    def __init__(self, subscription: _Optional[int] = ..., error: _Optional[_Union[_error_pb2.Error, _Mapping]] = ...) -> None: ...

class Topic(_message.Message):
    __slots__ = ("name", "kind", "contract", "owned", "class_name", "declared", "published", "subscriptions", "keep_s", "keep_bytes")
    class ContractEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    OWNED_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    DECLARED_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTIONS_FIELD_NUMBER: _ClassVar[int]
    KEEP_S_FIELD_NUMBER: _ClassVar[int]
    KEEP_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: TopicKind
    contract: _containers.ScalarMap[str, str]
    owned: bool
    class_name: str
    declared: bool
    published: int
    subscriptions: int
    keep_s: int
    keep_bytes: int
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[_Union[TopicKind, str]] = ..., contract: _Optional[_Mapping[str, str]] = ..., owned: _Optional[bool] = ..., class_name: _Optional[str] = ..., declared: _Optional[bool] = ..., published: _Optional[int] = ..., subscriptions: _Optional[int] = ..., keep_s: _Optional[int] = ..., keep_bytes: _Optional[int] = ...) -> None: ...

class CreateTopicRequest(_message.Message):
    __slots__ = ("name", "kind", "contract", "owned", "keep_s", "keep_bytes")
    class ContractEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    OWNED_FIELD_NUMBER: _ClassVar[int]
    KEEP_S_FIELD_NUMBER: _ClassVar[int]
    KEEP_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: TopicKind
    contract: _containers.ScalarMap[str, str]
    owned: bool
    keep_s: int
    keep_bytes: int
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[_Union[TopicKind, str]] = ..., contract: _Optional[_Mapping[str, str]] = ..., owned: _Optional[bool] = ..., keep_s: _Optional[int] = ..., keep_bytes: _Optional[int] = ...) -> None: ...

class ListTopicsRequest(_message.Message):
    __slots__ = ("pattern", "after", "count_max")
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    COUNT_MAX_FIELD_NUMBER: _ClassVar[int]
    pattern: str
    after: str
    count_max: int
    def __init__(self, pattern: _Optional[str] = ..., after: _Optional[str] = ..., count_max: _Optional[int] = ...) -> None: ...

class ListTopicsResponse(_message.Message):
    __slots__ = ("topics", "next")
    TOPICS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    topics: _containers.RepeatedCompositeFieldContainer[Topic]
    next: str
    def __init__(self, topics: _Optional[_Iterable[_Union[Topic, _Mapping]]] = ..., next: _Optional[str] = ...) -> None: ...

class DeleteTopicRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteTopicResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("topic", "start", "count_max")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    COUNT_MAX_FIELD_NUMBER: _ClassVar[int]
    topic: str
    start: str
    count_max: int
    def __init__(self, topic: _Optional[str] = ..., start: _Optional[str] = ..., count_max: _Optional[int] = ...) -> None: ...

class TraceRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    def __init__(self, id: _Optional[bytes] = ...) -> None: ...
