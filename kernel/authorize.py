"""May this principal do this? One pure function, asked at every door.

Doors: each RPC method (`call`), each publish (`publish`), each match of a subscription
(`subscribe`), each topic made or removed (`create_topic`, `delete_topic`), each look at what others
do (`inspect`). The policy decides; here is only `allow_all`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from sira.kernel.errors import Denied
from sira.kernel.identity import Principal

ACTIONS = ("call", "publish", "subscribe", "create_topic", "delete_topic", "inspect")
_NO_CONTEXT: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Allow:
    """Yes, and what comes with it: obligations by name (`tap`, `rate`, `path`)."""

    obligations: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Deny:
    """No: a stable code, and the rule for people."""

    code: str
    reason: str


class Policy(Protocol):
    """Decides. Pure: the same arguments give the same answer, nothing is remembered."""

    def __call__(
        self, principal: Principal, action: str, resource: str, context: Mapping[str, str]
    ) -> Allow | Deny:
        """Decide on one action, one of ACTIONS, on a topic, a pattern or a method's full name."""
        ...


ALLOW = Allow()


def allow_all(
    principal: Principal, action: str, resource: str, context: Mapping[str, str]
) -> Allow | Deny:
    """Allow everything: the policy of a node that listens on loopback for its own user."""
    del principal, action, resource, context
    return ALLOW


def authorize(
    principal: Principal,
    action: str,
    resource: str,
    context: Mapping[str, str] = _NO_CONTEXT,
    *,
    policy: Policy = allow_all,
) -> Allow | Deny:
    """Decide whether `principal` may do `action` on `resource`.

    Args:
        principal: who asks, as the node knows it.
        action: one of ACTIONS.
        resource: topic name, pattern, or method (`/sira.v1.Bus/Publish`).
        context: what else a rule may look at: lane, peer.
        policy: the rules in force.
    """
    assert action in ACTIONS, action  # a door that invents an action is our bug
    return policy(principal, action, resource, context)


def denied(decision: Deny, principal: Principal, action: str, resource: str) -> Denied:
    """Return the error that says who was refused what, and by which rule."""
    return Denied(
        f"{principal} may not {action} {resource}: {decision.reason}",
        details={"action": action, "resource": resource, "rule": decision.reason},
        code=decision.code,
    )
