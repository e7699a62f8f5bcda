"""Policy, scope, expiry and revocation: all must allow."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from sira.kernel.access import Access
from sira.kernel.authorize import Allow, Deny, Readable, deny_all
from sira.kernel.errors import Denied, Revoked, Unauthenticated
from sira.kernel.identity import Principal
from sira.kernel.policy.rules import parse
from sira.kernel.trust.credential import Credential

BOB = Principal("c", "default", "user", "bob")
RULES = """
format = "sira-policy 1"
default = "deny"
[[rule]]
name = "lab"
effect = "allow"
principals = ["*"]
actions = ["subscribe", "publish"]
topics = ["lab.>"]
[[rule]]
name = "secret"
effect = "deny"
principals = ["*"]
actions = ["*"]
topics = ["lab.secret.>"]
"""


@dataclass(frozen=True)
class OnlyReads:
    """A scope that allows subscriptions to some patterns and nothing else."""

    patterns: tuple[str, ...]

    def denies(self, action: str, resource: str, now_s: float) -> str | None:
        del now_s
        return None if action == "subscribe" and resource in self.patterns else "reads only"

    def readable(self, pattern: str) -> tuple[str, ...] | None:
        del pattern
        return self.patterns


def access(now_s: float = 1_000.0) -> Access:
    return Access(parse(RULES), clock_s=lambda: now_s)


def test_a_refusal_names_the_rule() -> None:
    with pytest.raises(Denied) as caught:
        access().may(Credential(BOB), "publish", "lab.secret.x")
    assert "secret" in caught.value.details["rule"]
    assert isinstance(access().decide(Credential(BOB), "publish", "lab.open"), Allow)


def test_a_scope_narrows_and_never_widens() -> None:
    narrow = Credential(BOB, "token", scope=OnlyReads(("lab.a", "other.b")))
    rules = access()
    assert isinstance(rules.decide(narrow, "subscribe", "lab.a"), Allow)
    refused = rules.decide(narrow, "publish", "lab.a")
    assert isinstance(refused, Deny) and "reads only" in refused.reason
    assert isinstance(rules.decide(narrow, "subscribe", "other.b"), Deny), "the policy denies it"


def test_a_wildcard_is_cut_to_what_policy_and_scope_both_allow() -> None:
    rules = access()
    assert rules.readable(Credential(BOB), ">") == Readable(("lab.>",), ("lab.secret.>",))
    narrow = Credential(BOB, "token", scope=OnlyReads(("lab.a.>", "other.>")))
    found = rules.readable(narrow, ">")
    assert found.allowed == ("lab.a.>",)
    assert rules.reads(narrow, ">") is None
    elsewhere = Credential(BOB, "token", scope=OnlyReads(("other.>",)))
    assert isinstance(rules.reads(elsewhere, ">"), Deny)


def test_an_expired_credential_proves_nothing() -> None:
    who = Credential(BOB, "token", expires_s=1_000.0)
    with pytest.raises(Unauthenticated, match="expired"):
        access(1_000.0).may(who, "publish", "lab.a")
    assert isinstance(access(999.9).decide(who, "publish", "lab.a"), Allow)
    assert access(1_000.0).readable(who, "lab.>").allowed == ()


def test_a_revoked_credential_proves_nothing_whichever_of_its_ids_is_named() -> None:
    who = Credential(BOB, "token", ids=("biscuit:aa", "biscuit:bb"))
    rules = access()
    version = rules.version
    rules.change(revoked=frozenset({"biscuit:bb"}))
    assert rules.version > version
    with pytest.raises(Revoked):
        rules.may(who, "publish", "lab.a")
    assert isinstance(rules.decide(Credential(BOB), "publish", "lab.a"), Allow)


def test_a_change_keeps_what_it_does_not_name() -> None:
    rules = access()
    rules.change(revoked=frozenset({"cert:1"}))
    rules.change(policy=deny_all)
    assert rules.revoked == {"cert:1"}
    rules.change(revoked=frozenset())
    assert rules.policy is deny_all
