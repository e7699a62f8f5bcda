"""May the holder of this credential do this? Policy, scope, expiry and revocation together."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from sira.kernel.authorize import NOTHING, Allow, Deny, Policy, Readable, allow_all, authorize
from sira.kernel.errors import Denied, Revoked, SiraError, Unauthenticated
from sira.kernel.policy.patterns import meet
from sira.kernel.topics import is_pattern
from sira.kernel.trust.credential import Credential

_NO_CONTEXT: Mapping[str, str] = {}


class Access:
    """The rules in force on a node, shared by its worlds. `version` moves with every change."""

    def __init__(
        self, policy: Policy = allow_all, *, clock_s: Callable[[], float] = time.time
    ) -> None:
        """Begin with a policy and nothing revoked. `clock_s` is the wall clock, s since 1970."""
        self.policy = policy
        self.revoked: frozenset[str] = frozenset()
        self.grounds: frozenset[str] = frozenset()
        self.version = 0
        self._clock_s = clock_s

    def change(
        self,
        *,
        policy: Policy | None = None,
        revoked: frozenset[str] | None = None,
        grounds: frozenset[str] | None = None,
    ) -> None:
        """Put other rules in force. Whoever keeps decisions asks again when `version` has moved.

        Args:
            policy: who may do what.
            revoked: ids of credentials that prove nothing any more.
            grounds: what is believed of those that stand on something.
        """
        self.policy = policy or self.policy
        self.revoked = self.revoked if revoked is None else revoked
        self.grounds = self.grounds if grounds is None else grounds
        self.version += 1

    def decide(self, who: Credential, action: str, resource: str) -> Allow | Deny:
        """Decide on one action on a topic name, a pattern or a method's full name."""
        over = self.over(who)
        return self._ask(who, action, resource) if over is None else Deny(over.code, str(over))

    def _ask(self, who: Credential, action: str, resource: str) -> Allow | Deny:
        """Ask policy and scope. Requires: the credential stands."""
        decision = authorize(who.principal, action, resource, _NO_CONTEXT, policy=self.policy)
        if isinstance(decision, Allow) and who.scope is not None:
            failing = who.scope.denies(action, resource, self._clock_s())
            if failing is not None:
                return Deny("DENIED", f"the token's check: {failing}")
        return decision

    def may(self, who: Credential, action: str, resource: str) -> Allow:
        """Ask.

        Raises:
            Denied, Revoked, Unauthenticated: no; it says by which rule.
        """
        over = self.over(who)
        if over is not None:
            raise over
        decision = self._ask(who, action, resource)
        if isinstance(decision, Allow):
            return decision
        raise Denied(
            f"{who.principal} may not {action} {resource}: {decision.reason}",
            details={"action": action, "resource": resource, "rule": decision.reason},
            code=decision.code,
        )

    def reads(self, who: Credential, pattern: str) -> Deny | None:
        """Say why nothing of a topic or pattern may be subscribed to; None: some of it may."""
        if is_pattern(pattern) and self.readable(who, pattern).allowed:
            return None
        decision = self.decide(who, "subscribe", pattern)
        if isinstance(decision, Deny):
            return decision
        return Deny("DENIED", "no rule leaves any of it") if is_pattern(pattern) else None

    def readable(self, who: Credential, pattern: str) -> Readable:
        """Return which part of a pattern may be subscribed to.

        A token that cannot say leaves the policy's answer: each match is asked again anyway.
        """
        if self.over(who) is not None:
            return NOTHING
        found = self.policy.readable(who.principal, pattern)
        narrowed = who.scope.readable(pattern) if who.scope is not None else None
        if narrowed is None or pattern in narrowed:
            return found
        allowed = dict.fromkeys(
            small
            for policy_part in found.allowed
            for token_part in narrowed
            if (small := meet(policy_part, token_part)) is not None
        )
        return Readable(tuple(allowed), found.cut, found.exact)

    def over(self, who: Credential) -> SiraError | None:
        """Return why a credential proves nothing any more; None: it stands."""
        if self._clock_s() >= who.expires_s:
            return Unauthenticated("the credential has expired", details={"reason": "expired"})
        if self.revoked and who.revoked_by(self.revoked) is not None:
            return Revoked("the credential was revoked", details={"reason": "revoked"})
        if not self.grounds.issuperset(who.grounds):
            return Revoked(
                "the key, issuer or authority of the credential is believed no more",
                details={"reason": "revoked"},
            )
        return None
