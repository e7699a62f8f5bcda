"""The rule table against ten lines that say what it means, and what it refuses to read."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sira import _native
from sira.kernel.authorize import ACTIONS, Allow, Deny, Readable
from sira.kernel.errors import BadSetting
from sira.kernel.identity import Principal
from sira.kernel.policy import rules
from sira.kernel.policy.patterns import PatternTree, covers, meet, subtract
from sira.kernel.policy.principals import PrincipalPattern
from sira.kernel.policy.rules import Rule, RuleTable

PRINCIPALS = [
    Principal(*parts)
    for parts in itertools.product(
        ["c"], ["lab", "shop"], ["agent", "user"], ["cam-1", "cam-2", "bob"]
    )
]
TOKENS = ["a", "b", "sira", "_r"]
# Every name of up to three tokens, and one that no rule names.
NAMES = [
    ".".join(t) for n in (1, 2, 3) for t in itertools.product([*TOKENS, "z"], repeat=n)
]  # fmt: skip
METHODS = ["/x.Bus/Publish", "/x.Bus/Topics", "/x.Kernel/Stats"]

names = st.lists(st.sampled_from(TOKENS), min_size=1, max_size=3).map(".".join)
patterns = st.tuples(
    st.lists(st.sampled_from([*TOKENS, "*"]), min_size=0, max_size=3), st.booleans()
).filter(lambda p: p[0] or p[1]).map(lambda p: ".".join([*p[0], *[">"] * p[1]]))  # fmt: skip
principal_patterns = st.builds(
    PrincipalPattern,
    st.sampled_from(["c", "*"]),
    st.sampled_from(["lab", "shop", "*"]),
    st.sampled_from(["agent", "user", "*"]),
    st.sampled_from(["cam-1", "bob", "cam-*", "cam-1*", "*"]),
)
obligations = st.sampled_from(
    [(), (("rate", "2.0"),), (("rate", "1.0"),), (("path", "direct"),),
     (("path", "node"), ("tap", "a")), (("tap", "b"),)]
)  # fmt: skip


@st.composite
def rule_lists(draw: st.DrawFn) -> tuple[Rule, ...]:
    made = []
    for index in range(draw(st.integers(0, 6))):
        allow = draw(st.booleans())
        made.append(
            Rule(
                f"r{index}",
                allow,
                tuple(draw(st.lists(principal_patterns, min_size=1, max_size=2))),
                frozenset(draw(st.sets(st.sampled_from(ACTIONS), min_size=1, max_size=4))),
                tuple(draw(st.lists(patterns, max_size=3))),
                tuple(draw(st.lists(st.sampled_from([*METHODS, "/x.Bus/*", "*"]), max_size=2))),
                draw(obligations) if allow else (),
            )
        )
    return tuple(made)


def meant(
    table: tuple[Rule, ...], default: bool, who: Principal, action: str, name: str
) -> Allow | Deny:
    """Return what the rules mean for one name, the slow way."""
    spoken = [
        rule
        for rule in table
        if action in rule.actions
        and any(p.matches(who) for p in rule.principals)
        and (
            any(m in ("*", name, name.rpartition("/")[0] + "/*") for m in rule.methods)
            if action == "call"
            else any(_native.topic_match(t, name) for t in rule.topics)
        )
    ]
    for rule in spoken:
        if not rule.allow:
            return Deny("DENIED", f"rule {rule.name} denies it")
    if not spoken and not default:
        return Deny("DENIED", "no rule allows it")
    said = [o for rule in spoken for o in rule.obligations]
    rates = [float(v) for k, v in said if k == "rate"]
    paths = sorted((v for k, v in said if k == "path"), reverse=True)
    taps = sorted({v for k, v in said if k == "tap"})
    return Allow(
        (
            *[("path", p) for p in paths[:1]],
            *([("rate", str(min(rates)))] if rates else []),
            *[("tap", t) for t in taps],
        )
    )


@settings(max_examples=120, deadline=None)
@given(rule_lists(), st.booleans(), st.sampled_from(PRINCIPALS), st.sampled_from(ACTIONS))
def test_a_decision_is_what_the_rules_mean(
    table: tuple[Rule, ...], default: bool, who: Principal, action: str
) -> None:
    compiled = RuleTable(table, default_allow=default, name="t")
    for name in METHODS if action == "call" else NAMES:
        assert compiled(who, action, name, {}) == meant(table, default, who, action, name), name


@settings(max_examples=150, deadline=None)
@given(rule_lists(), st.booleans(), st.sampled_from(PRINCIPALS), patterns)
def test_readable_is_exact_for_every_name_of_the_pattern(
    table: tuple[Rule, ...], default: bool, who: Principal, pattern: str
) -> None:
    got = RuleTable(table, default_allow=default, name="t").readable(who, pattern)
    for name in NAMES:
        inside = _native.topic_match(pattern, name)
        allowed = any(_native.topic_match(p, name) for p in got.allowed)
        cut = any(_native.topic_match(p, name) for p in got.cut)
        assert inside or not (allowed or cut), (name, got)
        if inside:
            may = isinstance(meant(table, default, who, "subscribe", name), Allow)
            assert may == (allowed and not cut), (name, got)
    for cut_pattern in got.cut:
        assert any(meet(cut_pattern, p) for p in got.allowed)
    assert subtract(got.allowed, got.cut) == (got.allowed, got.cut)  # nothing idle is said


@settings(max_examples=120, deadline=None)
@given(rule_lists(), st.booleans(), st.sampled_from(PRINCIPALS), patterns)
def test_a_pattern_is_allowed_only_when_all_its_names_are(
    table: tuple[Rule, ...], default: bool, who: Principal, pattern: str
) -> None:
    compiled = RuleTable(table, default_allow=default, name="t")
    decision = compiled(who, "subscribe", pattern, {})
    if isinstance(decision, Allow):
        for name in NAMES:
            if _native.topic_match(pattern, name):
                assert isinstance(meant(table, default, who, "subscribe", name), Allow), name
    readable = compiled.readable(who, pattern)
    if "*" in pattern or ">" in pattern:
        whole = readable.allowed == (pattern,) and not readable.cut
        assert isinstance(decision, Allow) == whole


@settings(max_examples=150, deadline=None)
@given(patterns, patterns)
def test_what_two_patterns_have_in_common_is_a_pattern(one: str, other: str) -> None:
    common = meet(one, other)
    assert common == meet(other, one)
    if common is not None:
        _native.check_pattern(common)
    for name in NAMES:
        both = _native.topic_match(one, name) and _native.topic_match(other, name)
        assert both == (common is not None and _native.topic_match(common, name)), name


@settings(max_examples=120, deadline=None)
@given(st.lists(patterns, max_size=8, unique=True), patterns, names)
def test_the_tree_finds_what_a_walk_over_all_patterns_finds(
    held: list[str], pattern: str, name: str
) -> None:
    tree: PatternTree[str] = PatternTree()
    for each in held:
        tree.put(each, lambda before, each=each: each)
    assert sorted(tree.match(name)) == sorted(p for p in held if _native.topic_match(p, name))
    assert sorted(tree.meeting(pattern)) == sorted((m, p) for p in held if (m := meet(p, pattern)))
    assert sorted(tree.covering(pattern)) == sorted((p, p) for p in held if covers(p, pattern))


LAB = Principal("local", "lab", "agent", "cam-7")
TEXT = """
format = "sira-policy 1"
default = "deny"

[[rule]]
name = "cameras"
effect = "allow"
principals = ["sira://*/lab/agent/cam-*"]
actions = ["publish", "subscribe"]
topics = ["lab.>"]
rate = 100
path = "node"
tap = "lab.audit"

[[rule]]
name = "no-secrets"
effect = "deny"
principals = "*"
actions = "*"
topics = ["*.secret.>"]

[[rule]]
name = "calls"
effect = "allow"
principals = ["sira://local/*/*/*"]
actions = ["call"]
methods = ["/sira.v1.Bus/*", "/sira.v1.Kernel/Negotiate"]
"""


def test_a_file_is_read_and_a_refusal_names_its_rule() -> None:
    table = rules.parse(TEXT)
    assert table(LAB, "publish", "lab.x", {}) == Allow(
        (("path", "node"), ("rate", "100.0"), ("tap", "lab.audit"))
    )
    assert table(LAB, "publish", "lab.secret.x", {}) == Deny("DENIED", "rule no-secrets denies it")
    assert table(LAB, "publish", "shop.x", {}) == Deny("DENIED", "no rule allows it")
    assert table(LAB, "administer", "lab.x", {}) == Deny("DENIED", "no rule allows it")
    assert table(LAB, "call", "/sira.v1.Bus/Publish", {}) == Allow()
    assert table(LAB, "call", "/sira.v1.Kernel/Stats", {}) == Deny("DENIED", "no rule allows it")
    assert table(LAB, "subscribe", "lab.>", {}) == Deny("DENIED", "rule no-secrets denies it")
    got = table.readable(LAB, ">")
    assert (got.allowed, got.cut) == (("lab.>",), ("*.secret.>",))
    assert table.readable(LAB, "*.secret.keys").allowed == ()


def _with(rule: str, head: str = 'format = "sira-policy 1"\ndefault = "deny"\n') -> str:
    return f'{head}[[rule]]\nname = "first"\n{rule}'


FINE = 'effect = "allow"\nprincipals = "*"\nactions = "publish"\ntopics = "a"\n'


@pytest.mark.parametrize(
    ("text", "field", "says"),
    [
        ("", "format", "missing"),
        ("format = 3", "format", "no text"),
        ('format = "sira-policy 2"', "format", "this node reads"),
        ('format = "sira-policy 1"', "default", "missing"),
        ('format = "sira-policy 1"\ndefault = "maybe"', "default", "deny or allow"),
        ('format = "sira-policy 1"\ndefault = "deny"\nruls = 1', "ruls", "is it 'rule'"),
        ('format = "sira-policy 1"\ndefault = "deny"\nrule = 1', "rule", "[[rule]]"),
        (_with(FINE.replace("allow", "let")), "effect", "allow or deny"),
        (_with(FINE.replace('"*"', '"sira://a/b/king/c"')), "principals[0]", "king"),
        (_with(FINE.replace('"*"', '["*", "sira://a/b"]')), "principals[1]", "sira://CLUSTER"),
        (_with(FINE.replace('"*"', '"sira://a*/b/user/c"')), "principals[0]", "no part"),
        (_with(FINE.replace('"*"', "[]")), "principals", "empty"),
        (_with(FINE.replace('"publish"', '["publish", "shout"]')), "actions[1]", "subscribe"),
        (_with(FINE.replace('"a"', '["a", "b..c"]')), "topics[1]", "wrong"),
        (_with(FINE.replace('"a"', '"a.b*"')), "topics[0]", "wrong"),
        (_with(FINE.replace('topics = "a"', "")), "topics", "missing"),
        (_with(FINE.replace("publish", "call")), "topics", "methods"),
        (_with(FINE + 'methods = "*"'), "methods", "call"),
        (_with(FINE.replace('"publish"', '["publish", "call"]')), "methods", "missing"),
        (
            _with('effect="allow"\nprincipals="*"\nactions="call"\nmethods="Publish"'),
            "methods[0]", "/package.Service/Method",
        ),
        (_with(FINE + "rate = -1"), "rate", "above 0"),
        (_with(FINE + "rate = nan"), "rate", "above 0"),
        (_with(FINE + 'rate = "much"'), "rate", "no number"),
        (_with(FINE + 'tap = "a.*"'), "tap[0]", "wrong"),
        (_with(FINE + 'path = "round"'), "path", "direct or node"),
        (_with(FINE.replace("allow", "deny") + "rate = 1"), "rate", "deny rule"),
        (_with(FINE + 'tops = "x"'), "tops", "is it 'topics'"),
        (_with(FINE + '[[rule]]\nname = "first"\n' + FINE), "name", "earlier"),
        (_with(FINE + '[[rule]]\nname = "a b"\n' + FINE), "name", "letters"),
        (_with(FINE + "[[rule]]\n" + FINE), "name", "missing"),
    ],
)  # fmt: skip
def test_an_error_names_file_rule_and_field(text: str, field: str, says: str) -> None:
    with pytest.raises(BadSetting) as caught:
        rules.parse(text, file="door.toml")
    error = caught.value
    assert error.details["file"] == "door.toml" and str(error).startswith("door.toml: ")
    assert error.details["field"] == field and field in str(error), str(error)
    assert says in str(error), str(error)
    if "[[rule]]\nname" in text:
        assert error.details["rule"] in ("first", "#2"), str(error)


def test_bombs_are_refused_before_they_are_compiled() -> None:
    with pytest.raises(BadSetting, match=r"nested too deep"):
        rules.parse("a = " + "[" * 100_000)
    with pytest.raises(BadSetting, match="no TOML"):
        rules.parse("a = " + "9" * 10_000)
    with pytest.raises(BadSetting, match="longer than"):
        rules.parse("#" * ((16 << 20) + 1))
    many = ", ".join(f'"sira://c/t/user/u{i}"' for i in range(1_000))
    topics = ", ".join(f'"t{i}"' for i in range(1_000))
    with pytest.raises(BadSetting, match="1000000 entries"):
        rules.parse(_with(FINE.replace('"*"', f"[{many}]").replace('"a"', f"[{topics}]")))
    with pytest.raises(BadSetting, match="at most 10000"):
        rules.parse(_with(FINE.replace('"a"', "[" + '"a", ' * 10_001 + "]")))
    with pytest.raises(BadSetting, match="more than 64 taps"):
        rules.parse(_with(FINE + "tap = [" + ", ".join(f'"t{i}"' for i in range(65)) + "]"))
    with pytest.raises(BadSetting, match="at most 100000"):
        rules.parse('format="sira-policy 1"\ndefault="deny"\nrule=[' + "{}," * 100_001 + "]")


def test_a_name_of_many_tokens_under_many_wildcards_visits_each_branch_once() -> None:
    """Sixteen tokens and a wildcard at every place: a walk that tried all would not end."""
    deep = ["*." * n + ">" for n in range(16)]
    wide = [".".join("*" if n >> i & 1 else "a" for i in range(16)) for n in range(1_000)]
    table = RuleTable(
        (Rule("r", False, (PrincipalPattern(),), frozenset({"publish"}), (*deep, *wide)),),
        default_allow=True,
        name="t",
    )
    assert table(LAB, "publish", ".".join("a" * 16), {}) == Deny("DENIED", "rule r denies it")


def test_past_a_thousand_rules_about_a_pattern_each_name_is_decided_by_itself() -> None:
    topics = tuple(f"a.t{i}" for i in range(rules.READABLE_MAX + 1))
    rule = Rule("r", True, (PrincipalPattern(),), frozenset({"subscribe"}), topics)
    table = RuleTable((rule,), default_allow=False, name="t")
    assert table.readable(LAB, "a.>") == Readable(("a.>",), exact=False)
    assert table.readable(LAB, "a.t7") == Readable(("a.t7",))
    assert table(LAB, "subscribe", "a.>", {}) == Deny("DENIED", "no rule allows it")
