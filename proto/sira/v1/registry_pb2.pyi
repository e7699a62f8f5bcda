from sira.v1 import error_pb2 as _error_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AgentStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AGENT_STATUS_UNSPECIFIED: _ClassVar[AgentStatus]
    AGENT_STATUS_UP: _ClassVar[AgentStatus]
    AGENT_STATUS_SUSPECT: _ClassVar[AgentStatus]
    AGENT_STATUS_DOWN: _ClassVar[AgentStatus]
    AGENT_STATUS_DRAINING: _ClassVar[AgentStatus]
AGENT_STATUS_UNSPECIFIED: AgentStatus
AGENT_STATUS_UP: AgentStatus
AGENT_STATUS_SUSPECT: AgentStatus
AGENT_STATUS_DOWN: AgentStatus
AGENT_STATUS_DRAINING: AgentStatus

class CapabilityVector(_message.Message):
    __slots__ = ("embedder", "dims", "values")
    EMBEDDER_FIELD_NUMBER: _ClassVar[int]
    DIMS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    embedder: str
    dims: int
    values: bytes
    def __init__(self, embedder: _Optional[str] = ..., dims: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class Capability(_message.Message):
    __slots__ = ("name", "text", "examples", "takes", "gives", "params", "topic", "effects", "schema_in", "schema_out", "vectors")
    class TakesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class GivesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class ParamsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    TAKES_FIELD_NUMBER: _ClassVar[int]
    GIVES_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    EFFECTS_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_IN_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_OUT_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    name: str
    text: str
    examples: _containers.RepeatedScalarFieldContainer[str]
    takes: _containers.ScalarMap[str, str]
    gives: _containers.ScalarMap[str, str]
    params: _containers.ScalarMap[str, str]
    topic: str
    effects: str
    schema_in: str
    schema_out: str
    vectors: _containers.RepeatedCompositeFieldContainer[CapabilityVector]
    def __init__(self, name: _Optional[str] = ..., text: _Optional[str] = ..., examples: _Optional[_Iterable[str]] = ..., takes: _Optional[_Mapping[str, str]] = ..., gives: _Optional[_Mapping[str, str]] = ..., params: _Optional[_Mapping[str, str]] = ..., topic: _Optional[str] = ..., effects: _Optional[str] = ..., schema_in: _Optional[str] = ..., schema_out: _Optional[str] = ..., vectors: _Optional[_Iterable[_Union[CapabilityVector, _Mapping]]] = ...) -> None: ...

class Registration(_message.Message):
    __slots__ = ("name", "kind", "description", "labels", "capabilities", "capacity", "endpoints", "version", "requires", "digest", "signature", "extra", "instance", "max_in_flight")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class CapacityEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class ExtraEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUIRES_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    EXTRA_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    description: str
    labels: _containers.ScalarMap[str, str]
    capabilities: _containers.RepeatedCompositeFieldContainer[Capability]
    capacity: _containers.ScalarMap[str, float]
    endpoints: _containers.RepeatedScalarFieldContainer[str]
    version: str
    requires: _containers.RepeatedScalarFieldContainer[str]
    digest: bytes
    signature: bytes
    extra: _containers.ScalarMap[str, bytes]
    instance: str
    max_in_flight: int
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., description: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., capabilities: _Optional[_Iterable[_Union[Capability, _Mapping]]] = ..., capacity: _Optional[_Mapping[str, float]] = ..., endpoints: _Optional[_Iterable[str]] = ..., version: _Optional[str] = ..., requires: _Optional[_Iterable[str]] = ..., digest: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., extra: _Optional[_Mapping[str, bytes]] = ..., instance: _Optional[str] = ..., max_in_flight: _Optional[int] = ...) -> None: ...

class RegisterRequest(_message.Message):
    __slots__ = ("registrations",)
    REGISTRATIONS_FIELD_NUMBER: _ClassVar[int]
    registrations: _containers.RepeatedCompositeFieldContainer[Registration]
    def __init__(self, registrations: _Optional[_Iterable[_Union[Registration, _Mapping]]] = ...) -> None: ...

class Registered(_message.Message):
    __slots__ = ("name", "generation", "revision", "beat_ms", "lease_ms", "topics", "error")
    NAME_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    BEAT_MS_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    TOPICS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    name: str
    generation: int
    revision: int
    beat_ms: int
    lease_ms: int
    topics: _containers.RepeatedScalarFieldContainer[str]
    error: _error_pb2.Error
    def __init__(self, name: _Optional[str] = ..., generation: _Optional[int] = ..., revision: _Optional[int] = ..., beat_ms: _Optional[int] = ..., lease_ms: _Optional[int] = ..., topics: _Optional[_Iterable[str]] = ..., error: _Optional[_Union[_error_pb2.Error, _Mapping]] = ...) -> None: ...

class RegisterResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[Registered]
    def __init__(self, results: _Optional[_Iterable[_Union[Registered, _Mapping]]] = ...) -> None: ...

class Beat(_message.Message):
    __slots__ = ("name", "generation", "in_flight", "waiting", "lag_ms", "draining")
    NAME_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    LAG_MS_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    name: str
    generation: int
    in_flight: int
    waiting: int
    lag_ms: int
    draining: bool
    def __init__(self, name: _Optional[str] = ..., generation: _Optional[int] = ..., in_flight: _Optional[int] = ..., waiting: _Optional[int] = ..., lag_ms: _Optional[int] = ..., draining: _Optional[bool] = ...) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("beats",)
    BEATS_FIELD_NUMBER: _ClassVar[int]
    beats: _containers.RepeatedCompositeFieldContainer[Beat]
    def __init__(self, beats: _Optional[_Iterable[_Union[Beat, _Mapping]]] = ...) -> None: ...

class HeartbeatResponse(_message.Message):
    __slots__ = ("lost",)
    LOST_FIELD_NUMBER: _ClassVar[int]
    lost: _containers.RepeatedCompositeFieldContainer[Registered]
    def __init__(self, lost: _Optional[_Iterable[_Union[Registered, _Mapping]]] = ...) -> None: ...

class DeregisterRequest(_message.Message):
    __slots__ = ("name", "generation")
    NAME_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    name: str
    generation: int
    def __init__(self, name: _Optional[str] = ..., generation: _Optional[int] = ...) -> None: ...

class DeregisterResponse(_message.Message):
    __slots__ = ("existed", "revision")
    EXISTED_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    existed: bool
    revision: int
    def __init__(self, existed: _Optional[bool] = ..., revision: _Optional[int] = ...) -> None: ...

class AgentState(_message.Message):
    __slots__ = ("status", "reason", "since_ms", "beat_age_ms", "in_flight", "waiting", "lag_ms")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    BEAT_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    LAG_MS_FIELD_NUMBER: _ClassVar[int]
    status: AgentStatus
    reason: str
    since_ms: int
    beat_age_ms: int
    in_flight: int
    waiting: int
    lag_ms: int
    def __init__(self, status: _Optional[_Union[AgentStatus, str]] = ..., reason: _Optional[str] = ..., since_ms: _Optional[int] = ..., beat_age_ms: _Optional[int] = ..., in_flight: _Optional[int] = ..., waiting: _Optional[int] = ..., lag_ms: _Optional[int] = ...) -> None: ...

class Agent(_message.Message):
    __slots__ = ("registration", "generation", "revision", "principal", "state")
    REGISTRATION_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    registration: Registration
    generation: int
    revision: int
    principal: str
    state: AgentState
    def __init__(self, registration: _Optional[_Union[Registration, _Mapping]] = ..., generation: _Optional[int] = ..., revision: _Optional[int] = ..., principal: _Optional[str] = ..., state: _Optional[_Union[AgentState, _Mapping]] = ...) -> None: ...

class DiscoverRequest(_message.Message):
    __slots__ = ("text", "capability", "vector", "k", "labels", "takes", "kind", "version", "exclude", "any_status")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class TakesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CAPABILITY_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    TAKES_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_FIELD_NUMBER: _ClassVar[int]
    ANY_STATUS_FIELD_NUMBER: _ClassVar[int]
    text: str
    capability: str
    vector: CapabilityVector
    k: int
    labels: _containers.ScalarMap[str, str]
    takes: _containers.ScalarMap[str, str]
    kind: str
    version: str
    exclude: _containers.RepeatedScalarFieldContainer[str]
    any_status: bool
    def __init__(self, text: _Optional[str] = ..., capability: _Optional[str] = ..., vector: _Optional[_Union[CapabilityVector, _Mapping]] = ..., k: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., takes: _Optional[_Mapping[str, str]] = ..., kind: _Optional[str] = ..., version: _Optional[str] = ..., exclude: _Optional[_Iterable[str]] = ..., any_status: _Optional[bool] = ...) -> None: ...

class Reason(_message.Message):
    __slots__ = ("part", "value", "text")
    PART_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    part: str
    value: float
    text: str
    def __init__(self, part: _Optional[str] = ..., value: _Optional[float] = ..., text: _Optional[str] = ...) -> None: ...

class Match(_message.Message):
    __slots__ = ("agent", "kind", "capability", "topic", "score", "confidence", "reasons", "state", "version", "generation", "twin", "max_in_flight", "effects", "weighed")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    CAPABILITY_FIELD_NUMBER: _ClassVar[int]
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    TWIN_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    EFFECTS_FIELD_NUMBER: _ClassVar[int]
    WEIGHED_FIELD_NUMBER: _ClassVar[int]
    agent: str
    kind: str
    capability: str
    topic: str
    score: float
    confidence: float
    reasons: _containers.RepeatedCompositeFieldContainer[Reason]
    state: AgentState
    version: str
    generation: int
    twin: int
    max_in_flight: int
    effects: str
    weighed: Weighed
    def __init__(self, agent: _Optional[str] = ..., kind: _Optional[str] = ..., capability: _Optional[str] = ..., topic: _Optional[str] = ..., score: _Optional[float] = ..., confidence: _Optional[float] = ..., reasons: _Optional[_Iterable[_Union[Reason, _Mapping]]] = ..., state: _Optional[_Union[AgentState, _Mapping]] = ..., version: _Optional[str] = ..., generation: _Optional[int] = ..., twin: _Optional[int] = ..., max_in_flight: _Optional[int] = ..., effects: _Optional[str] = ..., weighed: _Optional[_Union[Weighed, _Mapping]] = ...) -> None: ...

class Weighed(_message.Message):
    __slots__ = ("range", "weight")
    RANGE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    range: str
    weight: float
    def __init__(self, range: _Optional[str] = ..., weight: _Optional[float] = ...) -> None: ...

class DiscoverResponse(_message.Message):
    __slots__ = ("matches", "no_match", "reason", "runners_up", "revision", "embedder", "is_shortlist")
    MATCHES_FIELD_NUMBER: _ClassVar[int]
    NO_MATCH_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RUNNERS_UP_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    EMBEDDER_FIELD_NUMBER: _ClassVar[int]
    IS_SHORTLIST_FIELD_NUMBER: _ClassVar[int]
    matches: _containers.RepeatedCompositeFieldContainer[Match]
    no_match: bool
    reason: str
    runners_up: _containers.RepeatedCompositeFieldContainer[Match]
    revision: int
    embedder: str
    is_shortlist: bool
    def __init__(self, matches: _Optional[_Iterable[_Union[Match, _Mapping]]] = ..., no_match: _Optional[bool] = ..., reason: _Optional[str] = ..., runners_up: _Optional[_Iterable[_Union[Match, _Mapping]]] = ..., revision: _Optional[int] = ..., embedder: _Optional[str] = ..., is_shortlist: _Optional[bool] = ...) -> None: ...

class RateRequest(_message.Message):
    __slots__ = ("agent", "capability", "query", "ok", "reset", "outcome")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    CAPABILITY_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    OK_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    agent: str
    capability: str
    query: str
    ok: bool
    reset: bool
    outcome: str
    def __init__(self, agent: _Optional[str] = ..., capability: _Optional[str] = ..., query: _Optional[str] = ..., ok: _Optional[bool] = ..., reset: _Optional[bool] = ..., outcome: _Optional[str] = ...) -> None: ...

class RateResponse(_message.Message):
    __slots__ = ("shift",)
    SHIFT_FIELD_NUMBER: _ClassVar[int]
    shift: float
    def __init__(self, shift: _Optional[float] = ...) -> None: ...

class RegistryWatchRequest(_message.Message):
    __slots__ = ("since", "kind", "revisions_only")
    SINCE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    REVISIONS_ONLY_FIELD_NUMBER: _ClassVar[int]
    since: int
    kind: str
    revisions_only: bool
    def __init__(self, since: _Optional[int] = ..., kind: _Optional[str] = ..., revisions_only: _Optional[bool] = ...) -> None: ...

class RegistryWatchResponse(_message.Message):
    __slots__ = ("revision", "put", "removed", "snapshot_end", "restart", "state_version")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    PUT_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_END_FIELD_NUMBER: _ClassVar[int]
    RESTART_FIELD_NUMBER: _ClassVar[int]
    STATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    put: Agent
    removed: Agent
    snapshot_end: bool
    restart: bool
    state_version: int
    def __init__(self, revision: _Optional[int] = ..., put: _Optional[_Union[Agent, _Mapping]] = ..., removed: _Optional[_Union[Agent, _Mapping]] = ..., snapshot_end: _Optional[bool] = ..., restart: _Optional[bool] = ..., state_version: _Optional[int] = ...) -> None: ...

class ListAgentsRequest(_message.Message):
    __slots__ = ("kind", "labels", "limit", "page_token", "name")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    KIND_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    kind: str
    labels: _containers.ScalarMap[str, str]
    limit: int
    page_token: str
    name: str
    def __init__(self, kind: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., limit: _Optional[int] = ..., page_token: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class ListAgentsResponse(_message.Message):
    __slots__ = ("agents", "next_page_token", "revision")
    AGENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    agents: _containers.RepeatedCompositeFieldContainer[Agent]
    next_page_token: str
    revision: int
    def __init__(self, agents: _Optional[_Iterable[_Union[Agent, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., revision: _Optional[int] = ...) -> None: ...

class LearnedRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Learned(_message.Message):
    __slots__ = ("kind", "version", "capabilities", "examples", "held_out", "right", "trained_ns", "took_ms", "embedder")
    KIND_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_FIELD_NUMBER: _ClassVar[int]
    RIGHT_FIELD_NUMBER: _ClassVar[int]
    TRAINED_NS_FIELD_NUMBER: _ClassVar[int]
    TOOK_MS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDER_FIELD_NUMBER: _ClassVar[int]
    kind: str
    version: str
    capabilities: int
    examples: int
    held_out: int
    right: float
    trained_ns: int
    took_ms: int
    embedder: str
    def __init__(self, kind: _Optional[str] = ..., version: _Optional[str] = ..., capabilities: _Optional[int] = ..., examples: _Optional[int] = ..., held_out: _Optional[int] = ..., right: _Optional[float] = ..., trained_ns: _Optional[int] = ..., took_ms: _Optional[int] = ..., embedder: _Optional[str] = ...) -> None: ...

class LearnedResponse(_message.Message):
    __slots__ = ("learned",)
    LEARNED_FIELD_NUMBER: _ClassVar[int]
    learned: _containers.RepeatedCompositeFieldContainer[Learned]
    def __init__(self, learned: _Optional[_Iterable[_Union[Learned, _Mapping]]] = ...) -> None: ...

class Outcomes(_message.Message):
    __slots__ = ("agent", "capability", "worked", "failed", "late")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    CAPABILITY_FIELD_NUMBER: _ClassVar[int]
    WORKED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    agent: str
    capability: str
    worked: int
    failed: int
    late: int
    def __init__(self, agent: _Optional[str] = ..., capability: _Optional[str] = ..., worked: _Optional[int] = ..., failed: _Optional[int] = ..., late: _Optional[int] = ...) -> None: ...

class ReportRequest(_message.Message):
    __slots__ = ("outcomes",)
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[Outcomes]
    def __init__(self, outcomes: _Optional[_Iterable[_Union[Outcomes, _Mapping]]] = ...) -> None: ...

class ReportResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
