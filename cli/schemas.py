"""JSON Schemas of what verbs put into `item` and `result`. Keys carry their unit."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": ["number", "string"], "description": "nan, inf and -inf are text"}
BOOLEAN: Schema = {"type": "boolean"}
COUNTS: Schema = {"type": "object", "additionalProperties": COUNT}
STRINGS: Schema = {"type": "object", "additionalProperties": STRING}
NUMBERS: Schema = {"type": "object", "additionalProperties": NUMBER}


def maybe(schema: Schema) -> Schema:
    """`schema`, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def listed(schema: Schema) -> Schema:
    """A list of `schema`."""
    return {"type": "array", "items": schema}


def one_of(*words: str) -> Schema:
    """One of `words`."""
    return {"enum": list(words)}


def record(**properties: Schema) -> Schema:
    """An object in which all these are present."""
    return {"type": "object", "properties": properties, "required": list(properties)}


COUNTED = record(count=COUNT)
UP = record(node=STRING, address=STRING, data_dir=STRING)
STATUS = record(
    url=STRING,
    node=STRING,
    version=STRING,
    uptime_ns=COUNT,
    principal=STRING,
    tenant=STRING,
    lanes=listed(STRING),
    features=COUNTS,
    clients=COUNT,
    subscriptions=COUNT,
    topics=COUNT,
    balanced=BOOLEAN,
    values=NUMBERS,
)
TOPIC = record(
    name=STRING,
    kind=one_of("volatile", "latest", "durable"),
    contract=STRINGS,
    owned=BOOLEAN,
    class_name=STRING,
    declared=BOOLEAN,
    published=COUNT,
    subscriptions=COUNT,
)
SERVICE_VERB = record(
    name=STRING,
    summary=STRING,
    method=STRING,
    effects=one_of("read", "idempotent", "once"),
    streams=BOOLEAN,
    request_schema={"type": "object"},
    response_schema={"type": "object"},
)
DELETED = record(name=STRING)
_TOP_TOPIC = record(
    name=STRING, published=COUNT, rate=NUMBER, delivered=COUNT, pending=COUNT, lost=COUNT
)
_TOP_CLIENT = record(
    id=STRING,
    principal=STRING,
    peer=STRING,
    published=COUNT,
    delivered=COUNT,
    publish_rate=NUMBER,
    deliver_rate=NUMBER,
    queued_bytes=COUNT,
)
_TOP_SUBSCRIPTION = record(
    client=STRING,
    pattern=STRING,
    group=STRING,
    overflow=STRING,
    rate=NUMBER,
    pending=COUNT,
    in_flight=COUNT,
    delivered=COUNT,
    dropped=COUNT,
    stalled=BOOLEAN,
)
TOP = record(
    node=STRING,
    uptime_ns=COUNT,
    interval_s=NUMBER,
    rate=NUMBER,
    left_out=COUNTS,
    topics=listed(_TOP_TOPIC),
    clients=listed(_TOP_CLIENT),
    subscriptions=listed(_TOP_SUBSCRIPTION),
)
TOP_RESULT = record(pictures=COUNT)
RECEIPT = record(
    id=STRING,
    matched=COUNT,
    grade=STRING,
    lanes=listed(STRING),
    copies=COUNT,
    bytes=COUNT,
    nodes=COUNT,
    spooled=BOOLEAN,
    offset=maybe(COUNT),
)
PUB_RESULT = record(
    topic=STRING,
    accepted=COUNT,
    refused=COUNT,
    unknown=COUNT,
    matched=COUNT,
    bytes=COUNT,
    seconds=NUMBER,
)
TENSOR = record(
    dtype=STRING,
    shape=listed(COUNT),
    bytes=COUNT,
    min=maybe(NUMBER),
    mean=maybe(NUMBER),
    max=maybe(NUMBER),
    nan_count=COUNT,
)
MESSAGE = record(
    topic=STRING,
    id=STRING,
    source=STRING,
    time_ns=COUNT,
    headers=STRINGS,
    content_type=STRING,
    priority=COUNT,
    payload_bytes=COUNT,
    tensors={"type": "object", "additionalProperties": TENSOR},
    text=maybe(STRING),
    saved=maybe(STRING),
)
SUB_RESULT = record(pattern=STRING, messages=COUNT, payload_bytes=COUNT, seconds=NUMBER)
REQUEST_RESULT = record(topic=STRING, replies=COUNT, round_trip_ns=COUNT)
LEDGER_ROW = record(
    topic=STRING,
    node=STRING,
    published=COUNT,
    owed=COUNT,
    received=COUNT,
    delivered=COUNT,
    forwarded=COUNT,
    pending=COUNT,
    retained=COUNT,
    superseded=COUNT,
    expired=COUNT,
    dropped=COUNTS,
    dead_lettered=COUNT,
    unknown=COUNTS,
    redelivered=COUNT,
    refused=COUNTS,
    class_row=BOOLEAN,
    balanced=BOOLEAN,
)
LEDGER_RESULT = record(rows=COUNT, balanced=BOOLEAN, unexplained=COUNT, moved=COUNT)
_MEM_PARTY = record(client=STRING, peer=STRING, tenant=STRING, gone=BOOLEAN)
_MEM_HOLDER = record(
    party=_MEM_PARTY,
    leases=COUNT,
    bytes=COUNT,
    held_ns=COUNT,
    link=COUNT,
    reads=BOOLEAN,
    waiting=COUNT,
)
_MEM_SEGMENT = record(
    kind=one_of("segment"),
    number=COUNT,
    topic=STRING,
    bytes=COUNT,
    age_ns=COUNT,
    state=one_of("open", "stopped", "ended"),
    owner=_MEM_PARTY,
    leases=COUNT,
    holders=listed(_MEM_HOLDER),
)
_MEM_CELL = record(
    topic=STRING,
    publisher=STRING,
    subscriber=STRING,
    pattern=STRING,
    pending=COUNT,
    delivered=COUNT,
    open=BOOLEAN,
)
_MEM_LINK = record(
    kind=one_of("link"),
    number=COUNT,
    bytes=COUNT,
    age_ns=COUNT,
    state=one_of("open", "ended"),
    writer=_MEM_PARTY,
    reader=_MEM_PARTY,
    cells=listed(_MEM_CELL),
)
MEM: Schema = {"anyOf": [_MEM_SEGMENT, _MEM_LINK]}
MEM_RESULT = record(segments=COUNT, links=COUNT, bytes=COUNT, held=COUNT, left_out=COUNT)
_EXPLAIN_MATCH = record(
    client=STRING,
    pattern=STRING,
    group=STRING,
    lane=STRING,
    lane_reason=STRING,
    pending=COUNT,
    state=STRING,
)
EXPLAIN = record(
    topic=STRING,
    action=STRING,
    principal=STRING,
    decision=one_of("allow", "deny"),
    reasons=listed(STRING),
    rule=STRING,
    readable=listed(STRING),
    cut=listed(STRING),
    obligations=listed(STRING),
    kind=STRING,
    contract=STRINGS,
    matches=listed(_EXPLAIN_MATCH),
    publishers=listed(
        record(client=STRING, lane=STRING, path=one_of("direct", "node"), why=STRING)
    ),
)
EVENT = record(
    topic=STRING,
    time_ns=COUNT,
    tenant=STRING,
    suppressed=COUNT,
    fields={"type": "object", "description": "as the fact's own schema says (Introspect)"},
)
EVENTS_RESULT = record(pattern=STRING, facts=COUNT)
_VERDICTS = ("no baseline", "same", "faster", "slower", "not comparable")
BENCH = record(
    machine=record(cpu=STRING, cores=COUNT, memory_bytes=COUNT, kernel=STRING, python=STRING),
    pattern=one_of("pub", "request"),
    lane_asked=one_of("auto", "grpc", "socket", "shm", "direct"),
    lane=STRING,
    lanes=COUNTS,
    payload=record(dtype=STRING, shape=listed(COUNT), bytes=COUNT),
    rate_target=maybe(NUMBER),
    rate_achieved=NUMBER,
    messages=COUNT,
    seconds=NUMBER,
    latency_us=record(p50=NUMBER, p90=NUMBER, p99=NUMBER, p99_9=NUMBER, max=NUMBER),
    gb_per_s=NUMBER,
    copies=COUNT,
    time_us=NUMBERS,
    cpu_s=NUMBERS,
    lost=INTEGER,
    broken=COUNT,
    ledger=record(published=COUNT, delivered=COUNT, unexplained=COUNT, balanced=BOOLEAN),
    verdict=record(state=one_of(*_VERDICTS), reasons=listed(STRING)),
)
CHECK = record(
    name=STRING, state=one_of("ok", "warning", "failed"), found=STRING, why=STRING, help=STRING
)
DOCTOR_RESULT = record(ok=COUNT, warnings=COUNT, failed=COUNT)
SETTING = record(
    name=STRING,
    value=STRING,
    unit=STRING,
    origin=STRING,
    reason=STRING,
    schema={"type": "object"},
)
CONFIG_GOT = record(key=STRING, value={})
CONFIG_VALUE = record(
    key=STRING,
    value={},
    version=COUNT,
    principal=STRING,
    time_ns=COUNT,
    rolled_back_to=COUNT,
)
VERSION = record(
    sira=STRING, native=STRING, protocol=COUNT, python=STRING, grpcio=STRING, numpy=STRING
)
TLS_INIT = record(
    dir=STRING,
    cluster=STRING,
    principal=STRING,
    files=listed(STRING),
    dns=listed(STRING),
    ips=listed(STRING),
    expires_ns=COUNT,
    token_key=STRING,
)
TLS_ISSUE = record(principal=STRING, id=STRING, files=listed(STRING), expires_ns=COUNT)
CERTIFICATE = record(
    principal=maybe(STRING),
    id=STRING,
    uris=listed(STRING),
    dns=listed(STRING),
    ips=listed(STRING),
    issuer=STRING,
    subject=STRING,
    begins_ns=INTEGER,
    expires_ns=INTEGER,
    authority=BOOLEAN,
    valid_now=BOOLEAN,
)
TOKEN = record(
    token=maybe(STRING),
    file=maybe(STRING),
    principal=STRING,
    id=STRING,
    expires_ns=maybe(INTEGER),
)
_RIGHT = record(actions=listed(STRING), topics=listed(STRING))
TOKEN_BLOCK = record(
    block=COUNT, id=STRING, expires_ns=maybe(INTEGER), rights=listed(listed(_RIGHT)), source=STRING
)
TOKEN_SHOWN = record(principal=STRING, expires_ns=maybe(INTEGER), blocks=COUNT, verified=BOOLEAN)
REVOKED = record(ids=listed(STRING), new=COUNT, file=STRING)
ERROR = record(
    code=STRING,
    message=STRING,
    retryable=BOOLEAN,
    details=STRINGS,
    help=STRING,
    exit_code=COUNT,
)
WARNING = record(message=STRING)
PROGRESS = record(message=STRING, done=maybe(NUMBER))


def envelope(kind: str, data: Schema) -> Schema:
    """An envelope of type `kind` that carries `data`."""
    return {
        "type": "object",
        "properties": {
            "v": {"const": 1},
            "type": {"const": kind},
            "seq": COUNT,
            "time": {"type": "number", "description": "Unix time, seconds"},
            "data": data,
        },
        "required": ["v", "type", "seq", "time", "data"],
        "additionalProperties": False,
    }
