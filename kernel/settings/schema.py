"""The settings themselves: the only list of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from sira.kernel.errors import BadSetting
from sira.kernel.settings.services import ServiceSpec
from sira.kernel.settings.spec import Spec, Value


def _s(default: Value, unit: str, reason: str, breaks: str, **limits: Any) -> Any:
    """Declare a setting; a callable default is asked when the settings are loaded."""
    return field(default=default, metadata={"spec": (unit, reason, breaks, limits)})


_MIB = 1 << 20
_GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings in force. Immutable; `origins` says where each came from."""

    # ---- the node ----
    listen: str = _s(
        "127.0.0.1:7700", "", "address of the gRPC edge, HOST:PORT; port 0 takes a free one; "
        "plain without tls_cert, else TLS with tokens",
        "taken by another process: the node does not start; not loopback: strangers reach it",
    )  # fmt: skip
    listen_mtls: str = _s(
        "", "", "second address of the gRPC edge, where clients prove themselves by a certificate",
        "without tls_cert, tls_key and tls_client_ca the node does not start",
    )  # fmt: skip
    http: str = _s(
        "", "", "address of the HTTP listener (metrics, health, publish and request); empty: none",
        "taken by another process: the node does not start",
    )  # fmt: skip
    data_dir: str = _s(
        "", "", "folder of what the node keeps; empty: SIRA_HOME, else the XDG data folder",
        "shared by two nodes: the second refuses to start",
    )  # fmt: skip
    node_name: str = _s(
        "", "", "name of the node in principals, logs, ledgers; empty: the host's",
        "equal on two nodes: their ledger rows cannot be told apart",
    )  # fmt: skip
    cluster_name: str = _s(
        "local", "", "first part of every principal", "differs between nodes: they do not join",
    )  # fmt: skip
    drain_s: float = _s(
        30.0, "s", "how long a stopping node waits until accepted messages are taken",
        "too short: accepted messages are dropped as NODE_DRAINING; too long: restarts hang",
        maximum=3_600,
    )  # fmt: skip
    restart_s_min: float = _s(
        0.1, "s", "wait before a node or service that died is started again; doubles each time",
        "too long: a needless gap; too short: one that cannot run takes all CPU",
        minimum=0.01, maximum=3_600,
    )  # fmt: skip
    restart_s_max: float = _s(
        30.0, "s", "longest such wait; who serves so long begins anew with the shortest",
        "too long: back late when the cause is gone; too short: a log full of restarts",
        minimum=0.01, maximum=3_600,
    )  # fmt: skip
    # ---- who may come in, and what they may do ----
    tls_cert: str = _s(
        "", "", "PEM file of the node's certificate and what signed it; read again when it changes",
        "of another name than clients connect to: they refuse the node",
    )  # fmt: skip
    tls_key: str = _s(
        "", "", "PEM file of its key (ECDSA P-256), mode 0600",
        "not of that certificate: the node does not start, or keeps the old pair",
    )  # fmt: skip
    tls_client_ca: str = _s(
        "", "", "PEM file of the authorities whose certificates clients may show",
        "of another cluster: its clients are refused",
    )  # fmt: skip
    insecure: bool = _s(
        False, "", "listen beyond loopback without TLS",
        "true on a network: whoever reaches the port reads and writes everything",
    )  # fmt: skip
    anonymous: str = _s(
        "allow", "", "on a plain listener: whether a call may come without a token",
        "allow: whoever reaches the port is user `anonymous` of tenant `default`",
        choices=("allow", "refuse"),
    )  # fmt: skip
    token_keys: str = _s(
        "", "", "file of the public keys whose Biscuit tokens are believed",
        "without the right key every token is UNAUTHENTICATED",
    )  # fmt: skip
    jwt_issuers: str = _s(
        "", "", "TOML file of the issuers whose JWTs are believed, and how their claims are read",
        "too wide an audience: tokens made for others open this node",
    )  # fmt: skip
    revocations: str = _s(
        "", "", "file of revoked certificates and tokens; empty: revocations.toml in data_dir",
        "out of date: what was withdrawn still opens the node",
    )  # fmt: skip
    policy: str = _s(
        "allow_all", "", "allow_all, deny_all, or a file: rules (.toml), Cedar policies (.cedar)",
        "too wide: rights nobody meant to give; with an error in it the old rules stay",
    )  # fmt: skip
    limits_file: str = _s(
        "", "", "TOML file of limits per tenant, principal and topic; empty: none",
        "too small: RATE_LIMITED, QUOTA_EXCEEDED; none: one tenant can fill the node",
    )  # fmt: skip
    reload_s: float = _s(
        0.5, "s", "how often the files above are looked at for changes",
        "too long: a withdrawn right holds so much longer; too short: needless work",
        minimum=0.01, maximum=3_600,
    )  # fmt: skip
    tenants_max: int = _s(
        1_000, "tenants", "tenants with a world of their own on this node, about 100 KiB each",
        "too small: QUOTA_EXCEEDED for the next one; too large: memory",
        minimum=1, maximum=1 << 20,
    )  # fmt: skip
    # ---- messages and queues ----
    message_bytes_max: int = _s(
        16 * _GIB, "bytes", "longest message, by its announced size",
        "too small: MESSAGE_TOO_LARGE; it costs no memory before the bytes come",
        minimum=1_024, maximum=1 << 44,
    )  # fmt: skip
    unary_bytes_max: int = _s(
        2 * _MIB, "bytes", "longest message or reply of a unary Request; streams take any",
        "above what gRPC takes (grpc_message_bytes_max): the call fails with no typed error",
        minimum=1_024, maximum=1 << 30,
    )  # fmt: skip
    queue_messages_max: int = _s(
        8_192, "messages", "messages waiting for one subscription before its overflow rule applies",
        "too small: bursts block publishers; too large: a slow subscriber holds memory",
        minimum=1, maximum=1 << 24,
    )  # fmt: skip
    queue_bytes_max: int = _s(
        64 * _MIB, "bytes", "bytes waiting for one subscription before its overflow rule applies",
        "smaller than one message: that message goes alone; too large: memory",
        minimum=4_096, maximum=1 << 40,
    )  # fmt: skip
    window_messages: int = _s(
        2_048, "messages", "sent to a subscription and not yet taken, where it does not say",
        "too small: a round trip for every few messages; too large: order by priority comes late",
        minimum=1, maximum=1 << 20,
    )  # fmt: skip
    window_bytes: int = _s(
        64 * _MIB, "bytes", "sent to a subscription and not yet taken, where it does not say",
        "too small: large messages go one by one; too large: memory of the subscriber",
        minimum=4_096, maximum=1 << 40,
    )  # fmt: skip
    transfer_window_bytes: int = _s(
        8 * _MIB, "bytes", "chunks of one large message on their way through the node",
        "too small: large messages wait for round trips; too large: memory for each of them",
        minimum=2 * _MIB, maximum=1 << 34,
    )  # fmt: skip
    transfers_per_stream_max: int = _s(
        1_024, "messages", "large messages of one publisher under way or waiting for room",
        "too small: QUOTA_EXCEEDED for honest bursts; too large: one client holds a window of each",
        minimum=16, maximum=1 << 20,
    )  # fmt: skip
    publish_held_messages_max: int = _s(
        4_096, "messages", "of one publisher waiting for room; past it, it is not read",
        "too small: one blocked topic holds up a publisher's others; too large: memory",
        minimum=16, maximum=1 << 20,
    )  # fmt: skip
    publish_held_bytes_max: int = _s(
        16 * _MIB, "bytes", "of one publisher waiting for room or to be sent on; the same",
        "too small: large messages go one by one; too large: memory for each publisher",
        minimum=2 * _MIB, maximum=1 << 40,
    )  # fmt: skip
    publish_block_s: float = _s(
        5.0, "s", "how long a publish waits, unless it says, while nothing before it finds room",
        "too short: QUEUE_FULL in bursts; too long: publishers hang on a slow subscriber",
        maximum=3_600,
    )  # fmt: skip
    stall_s: float = _s(
        10.0, "s", "a subscriber that takes nothing for so long is dropped to until it takes again",
        "too short: pauses lose messages; too long: one stopped process holds up its publishers",
        minimum=0.05, maximum=3_600,
    )  # fmt: skip
    # ---- topics ----
    topics_max: int = _s(
        500_000, "topics", "topics at once, about 1 KiB each",
        "too small: QUOTA_EXCEEDED; too large: a publisher of made-up names fills memory",
        minimum=1,
    )  # fmt: skip
    topics_owned_per_client_max: int = _s(
        200_000, "topics", "topics one client may own",
        "too small: QUOTA_EXCEEDED; too large: one client fills topics_max",
    )  # fmt: skip
    topic_idle_s: float = _s(
        600.0, "s", "a topic nobody declared is forgotten when unused so long; its counts are kept",
        "too short: rows of slow topics are folded early; too long: names pile up",
        minimum=0.1,
    )  # fmt: skip
    # ---- clients ----
    clients_max: int = _s(
        20_000, "clients", "clients with a stream at once, about 64 KiB each",
        "too small: QUOTA_EXCEEDED; too large: memory, file descriptors",
        minimum=1,
    )  # fmt: skip
    streams_per_client_max: int = _s(
        64, "streams", "Publish and Subscribe streams of one client",
        "too small: QUOTA_EXCEEDED; too large: one client takes what clients_max guards",
        minimum=1,
    )  # fmt: skip
    subscriptions_per_client_max: int = _s(
        10_000, "subscriptions", "subscriptions of one client",
        "too small: QUOTA_EXCEEDED; too large: each publish to a wide pattern pays for them",
        minimum=1,
    )  # fmt: skip
    requests_in_flight_max: int = _s(
        10_000, "calls", "unary Request calls waiting for their reply at once",
        "too small: QUOTA_EXCEEDED under load; too large: memory, 10 KiB each",
        minimum=1,
    )  # fmt: skip
    retry_window_s: float = _s(
        60.0, "s", "how long receipts of a lost client are kept for its retries",
        "too short: a retry ends as OUTCOME_UNKNOWN; too long: memory",
        maximum=3_600,
    )  # fmt: skip
    retry_messages_max: int = _s(
        4_096, "messages", "receipts kept for the retries of one client, 64 bytes each",
        "smaller than a publisher's window: a retry ends as OUTCOME_UNKNOWN",
        minimum=1, maximum=1 << 20,
    )  # fmt: skip
    # ---- agents ----
    agents_max: int = _s(
        20_000, "agents", "registrations of one tenant",
        "too small: QUOTA_EXCEEDED for the next; too large: a few KiB of memory each",
        minimum=1, maximum=1 << 20,
    )  # fmt: skip
    agent_beat_s: float = _s(
        5.0, "s", "how often agents are asked to say that they live",
        "too long: silent ones are noticed late; too short: CPU for nothing",
        minimum=0.1, maximum=600,
    )  # fmt: skip
    agent_suspect_s: float = _s(
        10.0, "s", "an agent that is silent for so long is offered after all others",
        "shorter than two beats: one lost beat makes it suspect", minimum=0.2, maximum=1_800,
    )  # fmt: skip
    agent_lease_s: float = _s(
        15.0, "s", "an agent that is silent for so long is down, and not offered",
        "too long: calls go to the dead; too short: a pause takes an agent out",
        minimum=0.3, maximum=3_600,
    )  # fmt: skip
    agent_forget_s: float = _s(
        3_600.0, "s", "an agent that has been down for so long is registered no more",
        "too short: what was learned of it goes while it restarts", minimum=1, maximum=86_400 * 365,
    )  # fmt: skip
    embedder_dir: str = _s(
        "", "", "folder with model.onnx and tokenizer.json (extra `onnx`): requests and agents are "
        "compared by its vectors, too; empty: by words and hashed features alone",
        "of another model than agents bring vectors of: those are not used",
    )  # fmt: skip
    qdrant_url: str = _s(
        "", "", "Qdrant server that holds the index of capabilities; empty: the embedded engine",
        "gone: searches are exact and local until it is back; written by two nodes: each takes "
        "out what the other put in",
    )  # fmt: skip
    index_graph_min: int = _s(
        131_072, "vectors", "of a kind of agents of one tenant, from which on the embedded Qdrant "
        "makes a graph of them; fewer are scanned",
        "too small: slower than the scan, and some are not found; too large: the scan is slower",
        minimum=500, maximum=1 << 40,
    )  # fmt: skip
    learn_interval_s: float = _s(
        300.0, "s", "how often a head is learned of one kind of agents from its examples, at most; "
        "a failure doubles it, up to 64 times; 0: nothing is learned",
        "too long: new examples count late; too short: CPU of a process beside the node",
        maximum=86_400 * 30,
    )  # fmt: skip
    learn_examples_min: int = _s(
        50, "examples", "of all agents of a kind of one tenant, before anything is learned",
        "too small: what was learned says little; too large: nothing is learned",
        minimum=2, maximum=1 << 20,
    )  # fmt: skip
    learn_s_max: float = _s(
        600.0, "s", "one training, by the clock and of CPU; then it is ended, and tried later",
        "too short: of many agents nothing is learned; too long: one that hangs holds up others",
        minimum=1, maximum=86_400,
    )  # fmt: skip
    redis_url: str = _s(
        "", "", "Redis by which nodes of a cluster share who is alive: redis://, rediss:// (TLS), "
        "unix://; its password: REDIS_PASSWORD in the environment; empty: each knows its own",
        "gone: each node goes on from memory, and thinks others' agents suspect after a lease",
        schemes=("redis", "rediss", "unix"),
        options=("db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"),
    )  # fmt: skip
    # ---- services in processes of their own ----
    attached_max: int = _s(
        64, "services", "services attached to the node at once, of all tenants",
        "too small: QUOTA_EXCEEDED for the next; too large: each may hold attach_held_bytes_max",
        minimum=1, maximum=1 << 16,
    )  # fmt: skip
    attach_offer_bytes_max: int = _s(
        128 << 10, "bytes", "longest FileDescriptorSet of a service",
        "too small: MESSAGE_TOO_LARGE; too large: reading it holds up the node",
        minimum=1_024, maximum=1 << 20,
    )  # fmt: skip
    attach_calls_max: int = _s(
        1_024, "calls", "calls of one attached service under way at once",
        "too small: QUEUE_FULL in bursts; too large: memory, for one that does not answer",
        minimum=1, maximum=1 << 20,
    )  # fmt: skip
    attach_held_bytes_max: int = _s(
        16 * _MIB, "bytes", "requests and replies of one attached service waiting on the node",
        "too small: QUEUE_FULL; too large: memory, for one side that does not read",
        minimum=4 * _MIB, maximum=1 << 34,
    )  # fmt: skip
    # ---- admission ----
    principal_messages_per_s_max: float = _s(
        0.0, "messages/s", "publishes of one principal; 0: unlimited", "too small: RATE_LIMITED",
    )  # fmt: skip
    principal_bytes_per_s_max: float = _s(
        0.0, "bytes/s", "bytes published by one principal; 0: unlimited", "too small: RATE_LIMITED",
    )  # fmt: skip
    # ---- connections ----
    grpc_message_bytes_max: int = _s(
        4 * _MIB, "bytes", "longest gRPC message either way; frames are at most 2 MiB",
        "below 2 MiB: frames are refused; above: memory before anything is checked",
        minimum=64 << 10, maximum=1 << 30,
    )  # fmt: skip
    metadata_bytes_max: int = _s(
        16_384, "bytes", "headers of one call",
        "too small: calls with long tokens or traces fail; too large: memory of every call",
        minimum=1_024, maximum=1 << 20,
    )  # fmt: skip
    stream_window_bytes: int = _s(
        256 << 10, "bytes", "under way from a client and not yet read by the node, per stream",
        "too small: rate is this over the round trip; too large: small waits behind large messages",
        minimum=64 << 10, maximum=64 * _MIB,
    )  # fmt: skip
    streams_per_connection_max: int = _s(
        100, "calls", "calls at once on one connection; more wait at the client",
        "too small: calls wait without a word; too large: one connection keeps others waiting",
        minimum=1,
    )  # fmt: skip
    resets_per_connection_s_max: float = _s(
        100.0, "calls/s", "calls that one connection takes back before their answer, after twice "
        "as many at once; one that goes on is closed; 0: unlimited",
        "too small: who cancels much is cut off; too large: one connection keeps others waiting",
    )  # fmt: skip
    stray_bytes_per_connection_s_max: float = _s(
        8.0 * _MIB, "bytes/s", "bytes on one connection that are part of no call (settings, pings, "
        "frames of no stream); one that goes on is closed; 0: unlimited",
        "too small: who sends very many small messages is cut off; too large: a flood of such "
        "frames keeps others waiting",
    )  # fmt: skip
    reset_hold_s: float = _s(
        10.0, "s", "a connection past such a limit is held still, then closed; 0: closed at once, "
        "and empty_per_address_s_max holds nobody",
        "too short: it comes back as fast as it can; too long: descriptors, 256 at most",
    )  # fmt: skip
    empty_per_address_s_max: float = _s(
        10.0, "connections/s", "from one address (of IPv6: one /64) that make calls and never send "
        "a request, after twice as many at once; past it none is let in for reset_hold_s; "
        "0: unlimited",
        "too small: many callers with short deadlines behind one proxy wait; too large: a flood of "
        "such connections keeps others waiting",
    )  # fmt: skip
    strangers_per_address_max: int = _s(
        256, "connections", "from one address (of IPv6: one /64) on which nobody has shown who he "
        "is; past it none is let in until they are half as many; 0: unlimited",
        "too small: many that connect at once through one proxy wait a second; too large: one "
        "stranger holds descriptors and memory, 40 KiB each",
    )  # fmt: skip
    strangers_max: int = _s(
        1_024, "connections", "the same of all addresses: past it none is let in from those with "
        "the most; never over half of what the process may open; 0: unlimited",
        "too small: newcomers wait during a flood; too large: descriptors and memory",
    )  # fmt: skip
    handshake_s: float = _s(
        10.0, "s", "a connection that has not spoken HTTP/2 by then is closed",
        "too short: slow links fail to connect; too long: silent strangers hold descriptors",
        minimum=0.1,
    )  # fmt: skip
    keepalive_s: float = _s(
        120.0, "s", "a connection silent for so long is asked whether it lives",
        "too short: a thousand idle clients cost CPU; too long: a cut cable is noticed late",
        minimum=1,
    )  # fmt: skip
    keepalive_timeout_s: float = _s(
        20.0, "s", "and closed when it has not answered by then",
        "too short: a busy client is cut off; too long: a cut cable is noticed late",
        minimum=1,
    )  # fmt: skip
    socket_mode: str = _s(
        "0600", "", "who may open the Unix socket sira.sock in data_dir: its file mode; none: no "
        "socket",
        "wider: other users of the machine reach the node, each as user `uid-N`",
        choices=("0600", "0660", "0666", "none"),
    )  # fmt: skip
    socket_connections_max: int = _s(
        8_192, "connections", "connections at once by the Unix socket; more are closed unheard",
        "too small: local clients are cut off; too large: memory, two file descriptors each",
        minimum=1, maximum=1 << 20,
    )  # fmt: skip
    socket_held_bytes_max: int = _s(
        64 * _MIB, "bytes", "messages of one such connection that no stream has taken yet",
        "too small: QUOTA_EXCEEDED for many streams at once; too large: one client fills memory",
        minimum=16 * _MIB, maximum=1 << 34,
    )  # fmt: skip
    lent_segments_max: int = _s(
        256, "segments", "pieces of shared memory that one such connection lends at once, a file "
        "descriptor each; of all an eighth of those that the process may open; 0: none",
        "too small: publishers on many topics copy; too large: one client takes descriptors",
        minimum=0, maximum=1 << 16,
    )  # fmt: skip
    lent_bytes_max: int = _s(
        4 * _GIB, "bytes", "the same in bytes; an SDK lends 1 GiB (SIRA_SHM_BYTES_MAX)",
        "too small: large tensors are copied; too large: memory, for as long as it is looked at",
        minimum=1 << 18, maximum=1 << 44,
    )  # fmt: skip
    lent_bytes_node_max: int = _s(
        16 * _GIB, "bytes", "the same of all connections",
        "too small: large tensors are copied; too large: memory that nobody can be told to free",
        minimum=1 << 18, maximum=1 << 44,
    )  # fmt: skip
    links_max: int = _s(
        4_096, "links", "memory shared by two local clients, by which messages go past the node, a "
        "file descriptor each; an eighth of those that the process may open at most; 0: none",
        "too small: pairs go by the node; too large: descriptors, 300 KiB each when used",
        minimum=0, maximum=1 << 16,
    )  # fmt: skip
    links_per_connection_max: int = _s(
        128, "links", "such memory of one connection, whichever end of it",
        "too small: who talks to many goes by the node; too large: one client takes descriptors, "
        "three for each",
        minimum=1, maximum=1 << 16,
    )  # fmt: skip
    # ---- the HTTP listener, a process of its own ----
    http_mounts: str = _s(
        "", "", "ASGI applications that services bring: /PATH=package.module:app, joined by "
        "commas; in a file also a table [http_mounts]",
        "not importable: `sira up` does not start",
    )  # fmt: skip
    http_connections_max: int = _s(
        1_024, "connections", "connections at once; more are closed unheard",
        "too small: honest callers are cut off; too large: memory, file descriptors",
        minimum=1, maximum=1 << 16,
    )  # fmt: skip
    http_clients_max: int = _s(
        256, "callers", "callers (tokens) with a client on the node at once, two streams each",
        "too small: QUOTA_EXCEEDED; too large: uses up clients_max",
        minimum=1, maximum=1 << 16,
    )  # fmt: skip
    http_streams_per_principal_max: int = _s(
        64, "streams", "streams of server-sent events of one principal",
        "too small: QUOTA_EXCEEDED; too large: one caller takes http_connections_max",
        minimum=1, maximum=1 << 16,
    )  # fmt: skip
    http_header_bytes_max: int = _s(
        16_384, "bytes", "path, query and headers of one call",
        "too small: long tokens are refused (431); too large: memory of every connection",
        minimum=1_024, maximum=1 << 20,
    )  # fmt: skip
    http_body_bytes_max: int = _s(
        16 * _MIB, "bytes", "longest body of a call; gRPC takes any size",
        "too small: MESSAGE_TOO_LARGE; too large: memory, several times over for JSON",
        minimum=1_024, maximum=1 << 30,
    )  # fmt: skip
    http_held_bytes_max: int = _s(
        256 * _MIB, "bytes", "bodies of all calls that are being read or handled",
        "too small: QUOTA_EXCEEDED under load; too large: memory",
        minimum=1_024, maximum=1 << 40,
    )  # fmt: skip
    http_header_s: float = _s(
        10.0, "s", "from the first byte of a call, or from connecting, to the end of its headers",
        "too short: slow links fail; too long: who dribbles holds a connection",
        minimum=0.05, maximum=3_600,
    )  # fmt: skip
    http_body_s: float = _s(
        60.0, "s", "from the end of the headers to the end of the body",
        "too short: large bodies over slow links fail; too long: who dribbles holds a connection",
        minimum=0.05, maximum=86_400,
    )  # fmt: skip
    http_write_s: float = _s(
        30.0, "s", "a caller that reads nothing of its answer for so long is cut off",
        "too short: pauses end streams of events; too long: who never reads holds memory",
        minimum=0.05, maximum=3_600,
    )  # fmt: skip
    http_idle_s: float = _s(
        60.0, "s", "a connection without a call is closed after so long",
        "too short: callers connect again and again; too long: idle ones hold descriptors",
        minimum=0.05, maximum=86_400,
    )  # fmt: skip
    http_heartbeat_s: float = _s(
        15.0, "s", "a comment in each stream of events, so that nobody in between closes it",
        "too short: needless bytes; too long: proxies cut quiet streams",
        minimum=0.05, maximum=3_600,
    )  # fmt: skip
    # ---- what the node says ----
    events_per_s_max: float = _s(
        200.0, "events/s", "events of one kind on sira.>; what is left out is counted in the next",
        "too small: detail is lost; too large: a storm of events slows the bus",
        minimum=1,
    )  # fmt: skip
    events_queue_max: int = _s(
        1_000, "events", "events waiting to be published on sira.>",
        "too small: detail is lost; too large: memory", minimum=1,
    )  # fmt: skip
    log_level: str = _s(
        "info", "", "least severe log line that is written", "debug is slow",
        choices=("debug", "info", "warning", "error"),
    )  # fmt: skip
    log_queue_max: int = _s(
        10_000, "lines", "log lines waiting for a slow reader of stderr; more are only counted",
        "too small: lines are lost in bursts; too large: memory", minimum=1,
    )  # fmt: skip
    otlp_endpoint: str = _s(
        "", "", "where OpenTelemetry spans go; empty: OTEL_EXPORTER_OTLP_ENDPOINT, else nowhere",
        "nobody listens there: spans are dropped",
    )  # fmt: skip

    origins: Mapping[str, str] = field(default_factory=dict)
    services: tuple[ServiceSpec, ...] = ()  # of the file alone: [services.NAME]

    @property
    def data_path(self) -> Path:
        """The data folder."""
        return Path(self.data_dir)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to listen on. Raises BadSetting: `listen` is not HOST:PORT."""
        return self.host_port("listen")

    def host_port(self, name: str) -> tuple[str, int]:
        """Return host and port of a setting that is an address.

        Raises:
            BadSetting: it is not HOST:PORT.
        """
        text: str = getattr(self, name)
        host, colon, port = text.rpartition(":")
        if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
            raise BadSetting(
                f"{name} = {text[:80]!r} is not HOST:PORT",
                details={"setting": name, "origin": self.origins.get(name, "default")},
            )
        return host, int(port)

    def limits(self) -> dict[str, int]:
        """Return the limits that a client should know, by name; the unit is in the name."""
        names = (
            "message_bytes_max", "unary_bytes_max", "grpc_message_bytes_max", "queue_messages_max",
            "queue_bytes_max", "window_messages", "window_bytes", "transfer_window_bytes",
            "topics_max", "topics_owned_per_client_max", "streams_per_client_max",
            "subscriptions_per_client_max", "retry_messages_max", "metadata_bytes_max",
            "lent_segments_max", "lent_bytes_max",
        )  # fmt: skip
        seconds = ("publish_block_s", "stall_s", "retry_window_s", "topic_idle_s")
        return {name: int(getattr(self, name)) for name in names} | {
            f"{name.removesuffix('_s')}_ms": round(getattr(self, name) * 1e3) for name in seconds
        }


def _schema() -> dict[str, Spec]:
    kinds: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool}
    specs = {}
    for each in dataclasses.fields(Settings):
        if "spec" in each.metadata:
            unit, reason, breaks, limits = each.metadata["spec"]
            kind, default = kinds[str(each.type)], cast("Value", each.default)
            specs[each.name] = Spec(each.name, kind, default, unit, reason, breaks, **limits)
    return specs


SCHEMA: dict[str, Spec] = _schema()
