"""What a connection has proved: a principal, what narrows it, what can revoke it, when it ends."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from sira.kernel.identity import Principal


class Scope(Protocol):
    """What a token says its holder may do, beside the policy: both must allow. Pure."""

    def denies(self, action: str, resource: str, now_s: float) -> str | None:
        """Return None where the scope allows, else the check that fails, for people.

        Args:
            action: one of `sira.kernel.authorize.ACTIONS`.
            resource: topic name, pattern, or method's full name.
            now_s: wall clock, s since 1970.
        """
        ...

    def readable(self, pattern: str) -> tuple[str, ...] | None:
        """Return the patterns inside a checked `pattern` that may be subscribed to; () is none.

        None: it cannot be said, so only `denies` on each name tells. What is returned may be more
        than what `denies` allows, never less: each match is asked again.
        """
        ...


@dataclass(frozen=True, slots=True)
class Credential:
    """Who a call speaks for, and on what ground.

    Attributes:
        principal: who acts.
        kind: `anonymous`, `certificate`, `token` (a Biscuit), `jwt`, `uid` (a user of this
            machine, of whom the kernel told), or `node` for the node itself.
        ids: what a revocation may name: `cert:<serial, hex>`, `biscuit:<revocation id, hex>` of
            each block, `jwt:<jti>`, `jwt:sha256-<hex>` (of what a JWT's issuer signed).
        expires_s: wall clock, s since 1970, from which on it proves nothing.
        scope: what narrows it; None: nothing.
        grounds: what the node believed to believe this: a key, an issuer with its key, an authority
            (`grounds` of the verifiers). When one is believed no more, this proves nothing.
    """

    principal: Principal
    kind: str = "anonymous"
    ids: tuple[str, ...] = ()
    expires_s: float = math.inf
    scope: Scope | None = None
    grounds: tuple[str, ...] = ()

    def revoked_by(self, revoked: Collection[str]) -> str | None:
        """Return the first of `ids` that is in `revoked` (a set); None: it stands."""
        for each in self.ids:
            if each in revoked:
                return each
        return None
