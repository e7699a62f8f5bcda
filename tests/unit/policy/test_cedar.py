"""Cedar policies: who may what, why not, and which files are refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sira.kernel.admission import limits
from sira.kernel.authorize import ACTIONS, Allow, Deny, Readable, allow_all, deny_all
from sira.kernel.errors import BadSetting
from sira.kernel.identity import Principal
from sira.kernel.policy import cedar, rules
from sira.kernel.policy.cedar import CedarPolicy
from sira.kernel.policy.load import is_file, load
from tests.docs_blocks import DOCS, blocks

CAM = Principal("local", "lab", "agent", "cam-7")
BOB = Principal("local", "shop", "user", "bob")
TEXT = """
@id("lab-reads")
permit (principal in Tenant::"lab", action == Action::"subscribe", resource in Topic::"lab");

@id("no-secret")
forbid (principal, action, resource) when { context.tokens.contains("secret") };

@id("cameras")
permit (principal in Kind::"agent", action in [Action::"publish", Action::"create_topic"], resource)
when { resource.name like "lab.cam.*" && principal.name like "cam-*" };

@id("calls")
permit (principal, action == Action::"call", resource in Service::"/sira.v1.Bus");
"""


def test_a_decision_follows_the_policies_and_a_refusal_names_one() -> None:
    policy = CedarPolicy(TEXT)
    nobody = Deny("DENIED", "no policy permits it")
    for _ in range(2):  # the second time what was kept
        assert policy(CAM, "subscribe", "lab.x.y", {}) == Allow()
        assert policy(CAM, "subscribe", "lab", {}) == Allow()
        assert policy(CAM, "subscribe", "labs.x", {}) == nobody
        assert policy(BOB, "subscribe", "lab.x", {}) == nobody
        assert policy(CAM, "publish", "lab.cam.raw", {}) == Allow()
        assert policy(BOB, "publish", "lab.cam.raw", {}) == nobody
        assert policy(CAM, "call", "/sira.v1.Bus/Publish", {}) == Allow()
        assert policy(CAM, "call", "/sira.v1.Kernel/Stats", {}) == nobody
        secret = Deny("DENIED", "policy no-secret forbids it")
        assert policy(CAM, "subscribe", "lab.secret.x", {}) == secret
    for action in ACTIONS:
        assert isinstance(CedarPolicy("")(CAM, action, "a", {}), Deny)
        everything = CedarPolicy("permit (principal, action, resource);")
        assert everything(CAM, action, "a.b", {}) == Allow()


def test_a_pattern_may_be_subscribed_to_where_a_policy_could_permit_some_of_it() -> None:
    policy = CedarPolicy(TEXT)
    assert policy.readable(CAM, "lab.>") == Readable(("lab.>",), exact=False)
    assert policy(CAM, "subscribe", ">", {}) == Allow()
    assert policy.readable(CAM, "lab.x") == Readable(("lab.x",))
    assert policy.readable(BOB, "lab.>") == Readable(())
    assert policy(BOB, "subscribe", "lab.>", {}) == Deny(
        "DENIED", "no policy could permit any of it"
    )
    banned = CedarPolicy(
        TEXT
        + '@id("banned") forbid (principal, action, resource) when { principal.name == "bob" };'
    )
    assert banned(BOB, "subscribe", ">", {}) == Deny("DENIED", "policy banned forbids it")


def test_a_policy_that_fails_denies() -> None:
    """Cedar leaves it out; a `forbid` left out would allow."""
    policy = CedarPolicy(
        "permit (principal, action, resource);"
        "forbid (principal, action, resource)"
        " when { 9223372036854775807 + (if principal.name == \"bob\" then 1 else 0) == 0 };"
    )  # fmt: skip
    assert policy(CAM, "publish", "a", {}) == Allow()
    decision = policy(BOB, "publish", "a", {})
    assert isinstance(decision, Deny) and "a policy fails: " in decision.reason


PERMIT = "permit (principal, action, resource) when { %s };"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("permit (principal", "is no Cedar"),
        (PERMIT % 'resource.nam == "x"', "policy policy0"),
        ('@id("mine")' + PERMIT % 'principal in Group::"x"', "policy mine"),
        ('permit (principal == ?principal, action, resource);', "templates"),
        (PERMIT % ("(" * 1_000), "nests brackets"),
        ("permit (principal, action, resource);\n" + PERMIT % ("[" * 40), "from line 1 on nests"),
        ("// (((\n" + PERMIT % ("{" * 40), "nests brackets 41 deep"),
        (PERMIT % (")" * 50 + "(" * 50), "nests brackets 50 deep"),
        (PERMIT % ("if true then true else " * 65 + "true"), "65 times `if`"),
        (PERMIT % ("true && " * 3_000 + "true"), "longer than 16384"),
        ("//" + "x" * (1 << 20), "longer than 1048576"),
        ("permit (principal, action, resource);" * 1_001, "1001 policies, at most 1000"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_policy_is_refused(text: str, says: str) -> None:
    with pytest.raises(BadSetting) as caught:
        CedarPolicy(text, file="door.cedar")
    assert str(caught.value).startswith("door.cedar: ") and says in str(caught.value)
    assert caught.value.details["file"] == "door.cedar"


def test_the_deepest_policy_that_is_taken_is_evaluated() -> None:
    depth = cedar.NESTING_MAX - 1
    nested = "(" * depth + "true && " * 1_500 + "true" + ")" * depth
    policy = CedarPolicy(PERMIT % ("if true then true else " * cedar.IFS_MAX + nested))
    assert policy(CAM, "publish", "a", {}) == Allow()


def test_brackets_in_text_and_comments_do_not_count() -> None:
    text = "// " + "(" * 99 + "\n" + PERMIT % ('resource.name == "' + "(" * 99 + '\\"("')
    assert isinstance(CedarPolicy(text)(CAM, "publish", "a", {}), Deny)


def test_a_setting_names_a_policy(tmp_path: Path) -> None:
    assert load("allow_all") is allow_all and load("deny_all") is deny_all
    table, policies = tmp_path / "p.toml", tmp_path / "p.cedar"
    table.write_text(f'format = "{rules.FORMAT}"\ndefault = "allow"\n')
    policies.write_text(TEXT)
    assert load(str(table))(BOB, "publish", "a", {}) == Allow()
    assert isinstance(load(str(policies)), CedarPolicy)
    assert is_file(str(table)) and is_file(str(policies)) and not is_file("allow_all")
    with pytest.raises(BadSetting, match="neither allow_all nor deny_all"):
        load("allow_some")
    with pytest.raises(BadSetting, match="cannot be read: No such file"):
        load(str(tmp_path / "gone.toml"))
    table.write_bytes(b"\xff")
    with pytest.raises(BadSetting, match="not UTF-8 at byte 0"):
        load(str(table))


def test_the_examples_of_the_docs_are_read_and_mean_what_is_said_of_them() -> None:
    (_, table_text), (_, limits_text) = blocks(DOCS / "policy.md", "toml")
    ((_, cedar_text),) = blocks(DOCS / "policy.md", "cedar")
    table = rules.parse(table_text)
    assert table.readable(CAM, ">") == Readable(("lab.>",), ("*.keys.>",))
    assert table(CAM, "publish", "lab.cam.raw", {}) == Allow((("rate", "100.0"),))
    assert CedarPolicy(cedar_text)(CAM, "publish", "lab.cam.raw", {}) == Allow()
    assert [limit.name for limit in limits.parse(limits_text)] == ["cameras", "each-tenant"]


def test_without_cedarpy_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cedarpy", None)
    with pytest.raises(BadSetting, match=r"sira-kernel\[cedar\]"):
        CedarPolicy(TEXT)
