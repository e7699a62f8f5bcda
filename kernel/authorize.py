"""May this principal do this? One pure function, asked at every door.

Doors: each RPC method (`call`), each publish (`publish`), each match of a subscription
(`subscribe`), each topic made or removed (`create_topic`, `delete_topic`), each look at what others
do (`inspect`), each service that brings methods of its own (`attach`), each change of the node
itself (`administer`), each lease taken (`lease`), each key of the configuration set (`configure`;
who may `inspect` it reads it). The policy decides; here are only `allow_all` and `deny_all`, and
`sira.kernel.policy` has those that are written in files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from sira.kernel.identity import Principal

ACTIONS = (
    "call", "publish", "subscribe", "create_topic", "delete_topic", "inspect", "attach",
    "administer", "lease", "configure",
)  # fmt: skip
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


@dataclass(frozen=True, slots=True)
class Readable:
    """What of a pattern may be read: names that one of `allowed` matches and none of `cut`.

    Attributes:
        allowed: patterns inside the one asked about; empty: nothing of it.
        cut: patterns of what is denied all the same; each has names in common with `allowed`.
        exact: False: it may be less; only the decision on each name says.
    """

    allowed: tuple[str, ...]
    cut: tuple[str, ...] = ()
    exact: bool = True


class Policy(Protocol):
    """Decides. Pure: the same arguments give the same answer."""

    def __call__(
        self, principal: Principal, action: str, resource: str, context: Mapping[str, str]
    ) -> Allow | Deny:
        """Decide on one action, one of ACTIONS, on a topic, a pattern or a method's full name.

        A pattern is allowed when each name that it matches is: `readable` says which part would be.
        """
        ...

    def readable(self, principal: Principal, pattern: str) -> Readable:
        """Return what of a checked pattern the principal may subscribe to."""
        ...


ALLOW = Allow()
NOTHING = Readable(())


@dataclass(frozen=True, slots=True)
class AllowAll:
    """Allow everything: the policy of a node that listens on loopback for its own user."""

    name: str = "allow_all"

    def __call__(
        self, principal: Principal, action: str, resource: str, context: Mapping[str, str]
    ) -> Allow | Deny:
        """Allow it."""
        del principal, action, resource, context
        return ALLOW

    def readable(self, principal: Principal, pattern: str) -> Readable:
        """Return all of it."""
        del principal
        return Readable((pattern,))


@dataclass(frozen=True, slots=True)
class DenyAll:
    """Deny everything: a node that takes nobody's word, while its rules are being written."""

    name: str = "deny_all"

    def __call__(
        self, principal: Principal, action: str, resource: str, context: Mapping[str, str]
    ) -> Allow | Deny:
        """Deny it."""
        del principal, action, resource, context
        return Deny("DENIED", "the policy is deny_all")

    def readable(self, principal: Principal, pattern: str) -> Readable:
        """Return nothing."""
        del principal, pattern
        return NOTHING


allow_all, deny_all = AllowAll(), DenyAll()


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
