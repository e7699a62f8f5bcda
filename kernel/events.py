"""What the node says about itself on `sira.>`: names, schemas, and the way out of the node.

Emitting never blocks and never fails: facts wait in a bounded queue; one kind may say so many a
second, and what was left out is counted in the next of its kind (`suppressed`). A fact that nobody
subscribed to costs nothing and stands in no ledger.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Row = Mapping[str, str | int | float | bool]
Field = str | int | float | bool | Sequence[Row] | None
_LEVELS = {
    "sira.stalled": "warning",
    "sira.limit": "warning",
    "sira.connection.closed": "warning",
    "sira.address.held": "warning",
    "sira.service.attached": "info",
    "sira.service.gone": "info",
    "sira.child.ended": "warning",
    "sira.child.started": "info",
    "sira.resumed": "info",
    "sira.config": "info",
    "sira.config.refused": "error",
    "sira.tables.failed": "error",
    "sira.registry.trained": "info",
    "sira.registry.untrained": "warning",
    "sira.live.unshared": "warning",
    "sira.live.shared": "info",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fact: its topic, what it means, its fields (name to JSON type and meaning).

    `level` is that of the log line that says the same.
    """

    topic: str
    summary: str
    fields: Mapping[str, tuple[str, str]]

    @property
    def level(self) -> str:
        """Severity of the fact in the log."""
        return _LEVELS.get(self.topic, "debug")

    def json_schema(self) -> str:
        """Return the JSON Schema of the body."""
        properties = {
            name: {"type": kind, "description": text} for name, (kind, text) in self.fields.items()
        }
        properties["tenant"] = {"type": "string", "description": "whose world it happened in"}
        properties["suppressed"] = {
            "type": "integer",
            "description": "facts of this kind left out before this one",
        }
        schema = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": self.topic,
            "description": self.summary,
            "type": "object",
            "properties": properties,
            "required": [*self.fields, "tenant"],
        }
        return json.dumps(schema)


def _kind(topic: str, summary: str, /, **fields: tuple[str, str]) -> tuple[str, Kind]:
    return topic, Kind(topic, summary, fields)


_CLIENT = ("string", "id of the client, hex")
_PRINCIPAL = ("string", "who it speaks for")
_TOPIC = ("string", "name, or pattern of a class")
_PATTERN = ("string", "what the subscription asked for")
_REASON = ("string", "stable code")
_GROUP = ("string", "queue group, or empty")
_WHO = ("string", "principal that did it, or tried")
_SERVICE = ("string", "name of the service")
_CHILD = ("string", "node, or the name of a service")
_ENDED = ("string", "how its last life ended, for people")
_EXIT = ("integer", "exit code of that life; negative: the signal that ended it")
_RESTARTS = ("integer", "how often it was started again")
_NUMBER = ("integer", "which snapshot: facts of one have the same")
_ROWS = ("array", "objects, at most 200")
_WHY_STATUS = ("string", "why it is not up; for people")
_GENERATION = ("integer", "which instance of the name")
_LEASE = ("string", "name of the lease")
_TOKEN = ("integer", "its fencing token")
_LEFT_OUT = ("integer", "rows past these")

KINDS: dict[str, Kind] = dict(
    [
        _kind("sira.client.connected", "a client opened its first stream",
              client=_CLIENT, principal=_PRINCIPAL, peer=("string", "address")),
        _kind("sira.client.gone", "the last stream of a client ended",
              client=_CLIENT, principal=_PRINCIPAL, reason=_REASON),
        _kind("sira.connection.closed", "a connection passed a limit, and the node closed it",
              peer=("string", "address"), setting=("string", "name of the limit"),
              limit=("number", "where it stands")),
        _kind("sira.address.held", "connections from an address that prove or ask nothing are too "
              "many: none is let in for a while",
              address=("string", "IPv4, or a /64 of IPv6"), setting=("string", "name of the limit"),
              limit=("number", "where it stands"),
              count=("integer", "its connections, or those of late that asked nothing")),
        _kind("sira.topic.created", "a topic or a class was declared",
              topic=_TOPIC, kind=("string", "volatile or latest"),
              owned=("boolean", "dies with its client"), principal=_PRINCIPAL),
        _kind("sira.topic.dropped", "a declared topic or class is no more",
              topic=_TOPIC, reason=_REASON),
        _kind("sira.subscription.opened", "a subscription is live",
              client=_CLIENT, pattern=_PATTERN, group=_GROUP,
              overflow=("string", "block, drop or latest")),
        _kind("sira.subscription.ended", "a subscription is no more",
              client=_CLIENT, pattern=_PATTERN, group=_GROUP, reason=_REASON),
        _kind("sira.refused", "the node refused something",
              principal=_PRINCIPAL, action=("string", "publish, subscribe, call, ..."),
              resource=("string", "topic, pattern or method"), reason=_REASON),
        _kind("sira.dropped", "deliveries were dropped since the last such fact",
              reason=_REASON, count=("integer", "deliveries")),
        _kind("sira.stalled", "a subscriber takes nothing and is dropped to",
              client=_CLIENT, pattern=_PATTERN, group=_GROUP),
        _kind("sira.resumed", "a stalled subscriber takes again",
              client=_CLIENT, pattern=_PATTERN, group=_GROUP),
        _kind("sira.limit", "a named limit was reached; once for all messages of a frame",
              setting=("string", "name of the limit"), value=("number", "where it stands"),
              principal=("string", "principal, tenant or topic whose limit it is")),
        _kind("sira.audit", "an administrative call, a refusal of a right, or a change of rights",
              principal=_WHO, action=("string", "what was asked for, one of the actions of rules"),
              resource=("string", "topic, pattern, method or setting"),
              intent=("string", "id of the intent it was done under, hex, or empty"),
              result=("string", "ok, or the code of the refusal"),
              rule=("string", "the rule that refused, or empty")),
        _kind("sira.config", "a setting or a policy changed",
              setting=("string", "name"), value=("string", "new value"), principal=_PRINCIPAL),
        _kind("sira.config.refused",
              "a file that holds was changed to what cannot be used; the old one stays in force",
              setting=("string", "name of the setting that names the file"),
              reason=("string", "what is wrong; for tenants its code alone")),
        _kind("sira.service.attached", "a service brought methods into the table",
              service=_SERVICE, principal=_PRINCIPAL, methods=("integer", "how many")),
        _kind("sira.service.gone", "and they are gone with it",
              service=_SERVICE, principal=_PRINCIPAL, reason=_REASON),
        _kind("sira.child.ended", "a process beside this node, or its last life, ended unasked",
              child=_CHILD, reason=_ENDED, exit=_EXIT, restarts=_RESTARTS),
        _kind("sira.child.started", "and serves again",
              child=_CHILD, reason=_ENDED, exit=_EXIT, restarts=_RESTARTS),
        _kind("sira.lease.granted", "somebody holds a lease",
              lease=_LEASE, token=_TOKEN, principal=_PRINCIPAL),
        _kind("sira.lease.ended", "and holds it no more",
              lease=_LEASE, token=_TOKEN, principal=_PRINCIPAL,
              reason=("string", "RELEASED or EXPIRED")),
        _kind("sira.tables.failed", "the disk failed: the tables can be read and not changed",
              reason=_REASON, error=("string", "what the disk said")),
        _kind("sira.load.node", "what is going on, each second while somebody listens",
              number=_NUMBER, node=("string", "name of the node"),
              uptime_ns=("integer", "since its start"),
              interval_s=("number", "what the rates are of"),
              rate=("number", "messages a second on all topics"),
              topics=("integer", "topics in use"), clients=("integer", "clients"),
              subscriptions=("integer", "subscriptions")),
        _kind("sira.load.topics", "the busiest topics of that second",
              number=_NUMBER, rows=_ROWS, left_out=_LEFT_OUT),
        _kind("sira.load.clients", "the busiest clients of that second",
              number=_NUMBER, rows=_ROWS, left_out=_LEFT_OUT),
        _kind("sira.load.subscriptions", "the fullest and busiest subscriptions of that second",
              number=_NUMBER, rows=_ROWS, left_out=_LEFT_OUT),
        _kind("sira.agent.changed", "an agent was registered, or what is thought of it has changed",
              agent=("string", "its name"), kind=("string", "agent, tool, device, ..."),
              status=("string", "up, suspect, down, draining"), reason=_WHY_STATUS,
              generation=_GENERATION, principal=_PRINCIPAL),
        _kind("sira.agent.removed", "an agent is registered no more",
              agent=("string", "its name"), kind=("string", "agent, tool, device, ..."),
              generation=_GENERATION),
        _kind("sira.registry.trained", "agents of a kind are ranked by a new head",
              kind=("string", "agent, tool, device, ..."),
              version=("string", "digest of the head; reasons name it by its first eight digits"),
              entries=("integer", "capabilities that it was learned from"),
              examples=("integer", "and their examples"),
              held_out=("integer", "examples kept back to see what it is worth"),
              right=("number", "share of those that were answered right, 0 to 1"),
              took_s=("number", "by the clock")),
        _kind("sira.registry.untrained", "learning failed; agents are ranked by what there was",
              kind=("string", "agent, tool, device, ..."), reason=("string", "for people"),
              failures=("integer", "in a row; the next try waits twice as long")),
        _kind("sira.live.unshared",
              "who is alive is not shared by Redis: the node goes on from memory",
              reason=("string", "UNREACHABLE, SLOW, FULL, REFUSED, NAME_TAKEN or FAILED")),
        _kind("sira.live.shared", "and is shared"),
        _kind("sira.node.draining", "the node takes nothing new and ends when its queues are empty",
              node=("string", "name of the node"), drain_s=("number", "how long it waits")),
    ]
)  # fmt: skip


@dataclass(slots=True)
class _Meter:
    """Token bucket of one kind, a second's worth deep."""

    tokens: float
    at_ns: int
    suppressed: int = 0


class Events:
    """The way out. `publish(topic, body)` is called for facts somebody listens to, in order."""

    def __init__(
        self,
        *,
        tenant: str = "default",
        listened: Callable[[str], bool],
        publish: Callable[[str, bytes], None],
        clock_ns: Callable[[], int],
        wake: Callable[[], None] | None = None,
        log: Callable[[Kind, Mapping[str, Field]], None] | None = None,
        tell: Callable[[str, Mapping[str, Field]], None] | None = None,
        per_s_max: float,
        queue_max: int,
    ) -> None:
        """Make the way out.

        Args:
            tenant: whose world the facts are of; it stands in each.
            listened: whether any subscription matches a topic.
            publish: sends one fact; must not be called from inside the data plane, so facts wait
                in the queue until `flush`.
            clock_ns: CLOCK_MONOTONIC, ns.
            wake: told when the queue is no longer empty; None: the owner flushes by itself.
            log: gets each fact, listened to or not; None: nobody keeps a log.
            tell: gets each fact, for a world that hears of all others.
            per_s_max: facts of one kind a second.
            queue_max: facts waiting; the newest are left out when it is full.
        """
        self._listened, self._publish, self._clock_ns = listened, publish, clock_ns
        self._wake, self._log, self._tell = wake, log, tell
        self._tenant = tenant
        self._per_s_max, self._queue_max = per_s_max, queue_max
        self._queue: deque[tuple[str, bytes]] = deque()
        self._meters: dict[str, _Meter] = {}
        self.emitted = 0
        self.suppressed = 0

    def emit(self, topic: str, /, **fields: Field) -> None:
        """Say one fact of a known kind."""
        assert topic in KINDS, topic
        assert fields.keys() == KINDS[topic].fields.keys(), (topic, fields)
        fields["tenant"] = self._tenant
        self._say(topic, fields)
        if self._tell is not None:
            self._tell(topic, fields)

    def repeat(self, topic: str, fields: Mapping[str, Field]) -> None:
        """Say a fact of another world."""
        self._say(topic, dict(fields), log=False)

    def _say(self, topic: str, fields: dict[str, Field], *, log: bool = True) -> None:
        logged = self._log if log else None
        heard = self._listened(topic)
        if not heard and logged is None:
            return
        meter = self._meter(topic)
        if meter.tokens < 1 or len(self._queue) >= self._queue_max:
            meter.suppressed += 1
            self.suppressed += 1
            return
        meter.tokens -= 1
        if meter.suppressed:
            fields["suppressed"] = meter.suppressed
            meter.suppressed = 0
        if logged is not None:
            logged(KINDS[topic], fields)
        if not heard:
            return
        self.emitted += 1
        self._queue.append((topic, json.dumps(fields).encode()))
        if len(self._queue) == 1 and self._wake is not None:
            self._wake()

    def is_heard(self, topic: str) -> bool:
        """Whether anybody subscribes to a fact."""
        return self._listened(topic)

    def flush(self) -> None:
        """Publish what waits. Call it from the loop, never from inside the data plane."""
        for _ in range(len(self._queue)):
            self._publish(*self._queue.popleft())

    def _meter(self, topic: str) -> _Meter:
        """Return the bucket of a kind, filled up to now."""
        now_ns = self._clock_ns()
        meter = self._meters.get(topic)
        if meter is None:
            meter = self._meters[topic] = _Meter(self._per_s_max, now_ns)
        passed_s = max(0, now_ns - meter.at_ns) / 1e9
        meter.tokens = min(self._per_s_max, meter.tokens + passed_s * self._per_s_max)
        meter.at_ns = now_ns
        return meter
