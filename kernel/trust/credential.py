"""What a connection has proved: a principal, how, how far and for how long."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from sira.kernel.identity import Principal


class Scope(Protocol):
    """What a token narrows its holder to. Pure."""

    def denies(self, action: str, resource: str, now_s: float) -> str | None:
        """Return the check that fails, for people; None: nothing in the token stands against it."""
        ...

    def readable(self, pattern: str) -> tuple[str, ...] | None:
        """Return the patterns inside `pattern` that may be subscribed to; None: it cannot say."""
        ...


@dataclass(frozen=True, slots=True)
class Credential:
    """One proof. Immutable; the node asks it beside the policy, and both must allow.

    Attributes:
        principal: who.
        kind: `anonymous`, `certificate`, `token`, `jwt`, or `node` for the node itself.
        ids: what a revocation may name: `cert:SERIAL`, `biscuit:ID` of each block, `jwt:JTI`.
        expires_s: wall clock, seconds since 1970; it proves nothing from then on.
        scope: what it is narrowed to; None: to nothing.
    """

    principal: Principal
    kind: str = "anonymous"
    ids: tuple[str, ...] = ()
    expires_s: float = math.inf
    scope: Scope | None = None
