"""What a limit says and whom it holds for, as a TOML file says it. Pure.

    format = "sira-limits 1"

    [[limit]]
    name = "cameras"                      # a refusal names the limit
    scope = "principal"                   # each "tenant", "principal" or "topic" has its own
    pattern = "sira://*/lab/agent/cam-*"  # which; left out: all
    messages_per_s = 200
    bytes_per_s = 50_000_000
    burst_s = 2                           # saved up while nothing comes: seconds of the rates
    held_bytes = 1_000_000_000            # of messages that wait on the node
    topics = 100                          # made by the principal, or by all of the tenant
    connections = 10                      # clients at once

What is left out is not limited. A message passes when every limit that holds for it has room.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from sira import _native
from sira.kernel import toml_table
from sira.kernel.identity import Principal
from sira.kernel.policy.principals import PrincipalPattern

FORMAT = "sira-limits 1"
# Name of the limit that the settings of this form make; none of a file can have it.
OF_SETTINGS = "principal_*_per_s_max"
LIMITS_MAX = 1_000  # each is looked at when a publisher first speaks on a topic
SCOPES = ("tenant", "principal", "topic")
COUNTS = ("topics", "connections")
BURST_S_MAX = 3_600.0
_FILE_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Limit:
    """One named limit. It holds for each tenant, principal or topic that `pattern` fits.

    Attributes:
        name: as told in refusals.
        scope: `tenant`, `principal` or `topic`: what gets buckets and counters of its own.
        pattern: which; `>` means all. A tenant's name, a principal with wildcards, a topic pattern
            (but for `>` it leaves out what a subscription to it would).
        messages_per_s, bytes_per_s: 0: unlimited. A message larger than the burst waits for a full
            bucket.
        burst_s: how much may be saved up, in seconds of the rates.
        held_bytes: payload on the node at once that this one published; 0: unlimited.
        topics, connections: how many at once; 0: unlimited.
    """

    name: str
    scope: str
    pattern: str = ">"
    messages_per_s: float = 0.0
    bytes_per_s: float = 0.0
    burst_s: float = 1.0
    held_bytes: int = 0
    topics: int = 0
    connections: int = 0

    def __post_init__(self) -> None:
        """Refuse what could never be obeyed: our bug, `parse` has said so to people."""
        assert self.scope in SCOPES, self.scope
        assert self.messages_per_s >= 0 and self.bytes_per_s >= 0 and self.held_bytes >= 0, self
        assert 0 < self.burst_s <= BURST_S_MAX, self.burst_s
        assert self.scope != "topic" or not (self.topics or self.connections), self

    @property
    def value(self) -> float:
        """What it allows, for people: the largest of its numbers."""
        return max(
            self.messages_per_s, self.bytes_per_s, self.held_bytes, self.topics, self.connections
        )

    def count(self, what: str) -> int:
        """Return how many of COUNTS are allowed at once; 0: unlimited."""
        return self.topics if what == "topics" else self.connections

    def key(self, principal: Principal, topic: str = "") -> str | None:
        """Return whose buckets a message belongs to; None: the limit does not hold for it.

        Args:
            principal: who publishes, calls or connects.
            topic: name; "" where there is none, and no limit of scope `topic` holds.
        """
        everything = self.pattern == ">"
        if self.scope == "topic":
            fits = topic and (everything or _native.topic_match(self.pattern, topic))
            return topic if fits else None
        if self.scope == "tenant":
            return principal.tenant if everything or self.pattern == principal.tenant else None
        if everything or _principals(self.pattern).matches(principal):
            return str(principal)
        return None


def parse(text: str, *, file: str = "limits.toml") -> tuple[Limit, ...]:
    """Read a file of limits.

    Raises:
        BadSetting: with `file`, `limit` and `field` in its details.
    """
    if len(text) > _FILE_BYTES_MAX:
        raise toml_table.bad(file, f"is longer than {_FILE_BYTES_MAX} characters")
    table = toml_table.parse(text, file=file, form=FORMAT)
    limits = tuple(_limit(entry) for entry in table.entries("limit", count_max=LIMITS_MAX))
    table.end()
    return limits


def _limit(entry: toml_table.Table) -> Limit:
    scope = entry.choice("scope", SCOPES)
    checks: dict[str, Callable[[str], object]] = {
        "tenant": _check_tenant,
        "principal": PrincipalPattern.parse,
        "topic": _native.check_pattern,
    }
    pattern = entry.text("pattern", ">")
    if pattern != ">":
        entry.checked("pattern", (pattern,), checks[scope])
    for count in COUNTS:
        if scope == "topic" and entry.has(count):
            raise entry.bad(count, "is counted for a tenant or a principal, not for a topic")
    limit = Limit(
        entry.text("name"),
        scope,
        pattern,
        messages_per_s=entry.number("messages_per_s"),
        bytes_per_s=entry.number("bytes_per_s"),
        burst_s=_burst(entry),
        held_bytes=entry.whole("held_bytes"),
        topics=entry.whole("topics"),
        connections=entry.whole("connections"),
    )
    entry.end()
    rated = limit.messages_per_s or limit.bytes_per_s
    if entry.has("burst_s") and not rated:
        raise entry.bad("burst_s", "needs messages_per_s or bytes_per_s")
    if not (rated or limit.held_bytes or limit.topics or limit.connections):
        raise entry.bad("messages_per_s", "is missing, and all else that it could limit")
    return limit


def _burst(entry: toml_table.Table) -> float:
    burst_s = entry.number("burst_s", 1.0)
    if burst_s > BURST_S_MAX:
        raise entry.bad("burst_s", f"is {burst_s:g}, at most {BURST_S_MAX:g}")
    return burst_s


def _check_tenant(text: str) -> None:
    """Refuse what is no part of a principal."""
    Principal("c", text, "user", "n")


_principals = lru_cache(maxsize=LIMITS_MAX)(PrincipalPattern.parse)
