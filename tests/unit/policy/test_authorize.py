"""The two policies that need no file."""

from __future__ import annotations

import pytest

from sira.kernel.access import Access
from sira.kernel.authorize import (
    ACTIONS,
    Allow,
    Deny,
    Readable,
    allow_all,
    authorize,
    deny_all,
)
from sira.kernel.errors import Denied
from sira.kernel.identity import Principal
from sira.kernel.trust.credential import Credential

BOB = Principal("c", "default", "user", "bob")


@pytest.mark.parametrize("action", ACTIONS)
def test_allow_all_allows_and_deny_all_says_that_it_is_deny_all(action: str) -> None:
    assert authorize(BOB, action, "a.b") == Allow()
    decision = authorize(BOB, action, "a.b", policy=deny_all)
    assert decision == Deny("DENIED", "the policy is deny_all")
    assert isinstance(decision, Deny)
    with pytest.raises(Denied) as caught:
        Access(deny_all).may(Credential(BOB), action, "a.b")
    error = caught.value
    assert error.details == {"action": action, "resource": "a.b", "rule": "the policy is deny_all"}
    assert str(error) == f"{BOB} may not {action} a.b: the policy is deny_all"


def test_all_is_readable_under_allow_all_and_nothing_under_deny_all() -> None:
    assert allow_all.readable(BOB, "a.>") == Readable(("a.>",), ())
    assert deny_all.readable(BOB, "a.>") == Readable((), ())


def test_an_action_that_no_door_has_is_our_bug() -> None:
    with pytest.raises(AssertionError):
        authorize(BOB, "dance", "a.b")
