"""A table of rules: principals x actions x topics or methods, as a TOML file says it. Pure.

    format = "sira-policy 1"
    default = "deny"                      # what holds where no rule speaks; "allow" is the other

    [[rule]]
    name = "cameras"                      # a refusal names the rule
    effect = "allow"                      # or "deny", which wins over every allow
    principals = ["sira://*/lab/agent/cam-*"]      # "*": everybody
    actions = ["publish", "create_topic"]          # of ACTIONS; "*": all
    topics = ["lab.cam.>"]                # for `call`: methods = ["/sira.v1.Bus/*"]
    tap = "lab.audit"                     # obligations, of rules that allow to publish: who gets a
    rate = 100                            # copy (below), messages a second of a principal,
    path = "node"                         # "direct" or "node"

Topics match as subscriptions do: a wildcard in the first place leaves out `sira` and what begins
with `_`, so a rule for everything names `[">", "sira.>"]`. Nobody asks about reply topics: they
are private.

A tap is a topic whose subscribers with overflow `block` get a copy of every message that the rule
lets through; where there is none, the publish is refused: a tap has no gaps.

Of several allow rules that speak, all oblige: each tap, the lowest rate, `node` before `direct`.
The refusal names the first deny rule in the file.

A decision finds the rules of a principal by his parts (once; remembered) and those of a topic in a
tree by its tokens: its time does not grow with the rules, but for those that do speak of this
principal and this topic with another wildcard each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from sira import _native
from sira.kernel import toml_table
from sira.kernel.authorize import ACTIONS, ALLOW, NOTHING, Allow, Deny, Readable
from sira.kernel.errors import BadRequest
from sira.kernel.identity import Principal
from sira.kernel.policy.patterns import PatternTree, subtract
from sira.kernel.policy.principals import PrincipalIndex, PrincipalPattern
from sira.kernel.topics import is_pattern

FORMAT = "sira-policy 1"
RULES_MAX = 100_000
# A rule stands in the index once for each of its principals with each of its topics.
CELLS_MAX = 500_000  # up to 1 KiB each
ENTRIES_MAX = 10_000  # of one list
READABLE_MAX = 1_000  # patterns weighed for one answer, 10 ms; more is told to nobody anyway
TAPS_MAX = 64  # of one file: each is one more copy of a message
_REMEMBERED_MAX = 10_000  # principals whose rules were looked up
_METHOD_CHARS_MAX = 255

Obligations = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, checked."""

    name: str
    allow: bool
    principals: tuple[PrincipalPattern, ...]
    actions: frozenset[str]
    topics: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    obligations: Obligations = ()


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What the rules of one principal pattern, action and topic pattern say together."""

    deny: Rule | None = None  # the first in the file
    deny_at: int = -1
    allow: bool = False
    obligations: Obligations = ()

    def also(self, rule: Rule, at: int) -> _Verdict:
        """Return it with a later rule added."""
        if rule.allow:
            obligations = merged(self.obligations, rule.obligations)
            return replace(self, allow=True, obligations=obligations)
        return self if self.deny is not None else replace(self, deny=rule, deny_at=at)


_Cell = dict[str, _Verdict]  # by action


@dataclass(slots=True)
class _Group:
    """All that is said of one principal pattern."""

    topics: PatternTree[_Cell] = field(default_factory=PatternTree)
    methods: dict[str, _Cell] = field(default_factory=dict)


class RuleTable:
    """A policy: the rules of one file, compiled. Immutable but for what it remembers."""

    def __init__(self, rules: tuple[Rule, ...], *, default_allow: bool, name: str) -> None:
        """Compile.

        Args:
            rules: in the order of the file, at most RULES_MAX.
            default_allow: what holds where no rule speaks.
            name: of the policy, for people.
        """
        self.name, self.rules, self.default_allow = name, rules, default_allow
        self._groups: PrincipalIndex[_Group] = PrincipalIndex()
        self._remembered: dict[Principal, tuple[_Group, ...]] = {}
        for at, rule in enumerate(rules):
            topics = partial(_with, rule, at, _cell(rule, at, rule.actions - {"call"}))
            methods = partial(_with, rule, at, _cell(rule, at, rule.actions & {"call"}))
            for principals in rule.principals:
                group = self._groups.get(principals)
                if group is None:
                    group = _Group()
                    self._groups.put(principals, group)
                for topic in rule.topics:
                    group.topics.put(topic, topics)
                for method in rule.methods:
                    group.methods[method] = methods(group.methods.get(method))

    def __call__(
        self, principal: Principal, action: str, resource: str, context: Mapping[str, str]
    ) -> Allow | Deny:
        """Decide; a pattern is allowed when all of it is."""
        del context
        if is_pattern(resource) and action != "call":
            return self._decide_pattern(principal, action, resource)
        deny, deny_at, allowed = None, len(self.rules), self.default_allow
        obligations: Obligations = ()
        for cell in self._cells(principal, action, resource):
            verdict = cell.get(action)
            if verdict is None:
                continue
            if verdict.deny is not None and verdict.deny_at < deny_at:
                deny, deny_at = verdict.deny, verdict.deny_at
            if verdict.allow:
                allowed = True
                if verdict.obligations:
                    obligations = merged(obligations, verdict.obligations)
        return _decision(deny, allowed, obligations)

    def readable(self, principal: Principal, pattern: str) -> Readable:
        """Return what of a pattern may be read; not `exact` past READABLE_MAX rules about it."""
        allowed = [pattern] if self.default_allow else []
        cut: list[str] = []
        for group in self._of(principal):
            for common, cell in group.topics.meeting(pattern):
                verdict = cell.get("subscribe")
                if verdict is None:
                    continue
                if verdict.allow:
                    allowed.append(common)
                if verdict.deny is not None:
                    cut.append(common)
                if len(allowed) + len(cut) > READABLE_MAX:
                    return Readable((pattern,), exact=False)
        left, holes = subtract(allowed, cut)
        return Readable(left, holes) if left else NOTHING

    def _decide_pattern(self, principal: Principal, action: str, pattern: str) -> Allow | Deny:
        """Decide on all the names of a pattern together: one rule must allow them all."""
        deny, deny_at, allowed = None, len(self.rules), self.default_allow
        obligations: Obligations = ()
        for group in self._of(principal):
            for common, cell in group.topics.meeting(pattern):
                verdict = cell.get(action)
                if verdict is None:
                    continue
                if verdict.deny is not None and verdict.deny_at < deny_at:
                    deny, deny_at = verdict.deny, verdict.deny_at
                if verdict.allow:
                    allowed = allowed or common == pattern
                    obligations = merged(obligations, verdict.obligations)
        return _decision(deny, allowed, obligations)

    def _cells(self, principal: Principal, action: str, resource: str) -> Iterator[_Cell]:
        groups = self._of(principal)
        if action != "call":
            for group in groups:
                yield from group.topics.match(resource)
            return
        service = resource.rpartition("/")[0] + "/*"
        for group in groups:
            for method in (resource, service, "*"):
                cell = group.methods.get(method)
                if cell is not None:
                    yield cell

    def _of(self, principal: Principal) -> tuple[_Group, ...]:
        groups = self._remembered.get(principal)
        if groups is None:
            if len(self._remembered) >= _REMEMBERED_MAX:
                self._remembered.clear()  # strangers come by the thousand: who stays is found again
            groups = self._remembered[principal] = self._groups.of(principal)
        return groups


def merged(one: Obligations, other: Obligations) -> Obligations:
    """Return what obliges where both do: every tap, the lowest rate, `node` before `direct`."""
    if one == other or not other:
        return one
    if not one:
        return other
    both = (*one, *other)
    taps = sorted({("tap", value) for key, value in both if key == "tap"})
    rates = [float(value) for key, value in both if key == "rate"]
    paths = {value for key, value in both if key == "path"}
    rate = [("rate", str(min(rates)))] if rates else []
    path = [("path", "node" if "node" in paths else "direct")] if paths else []
    return (*path, *rate, *taps)


def parse(text: str, *, file: str = "policy.toml") -> RuleTable:
    """Read a rule file.

    Raises:
        BadSetting: with `file`, `rule` and `field` in its details.
    """
    table = toml_table.parse(text, file=file, form=FORMAT)
    default = table.choice("default", ("deny", "allow"))
    rules: list[Rule] = []
    taps: set[str] = set()
    cells = 0
    for entry in table.entries("rule", count_max=RULES_MAX):
        rule = _rule(entry)
        cells += len(rule.principals) * (len(rule.topics) + len(rule.methods))
        if cells > CELLS_MAX:
            raise entry.bad(
                "principals", f"with the rules before it makes {cells} entries, at most {CELLS_MAX}"
            )
        taps.update(value for key, value in rule.obligations if key == "tap")
        if len(taps) > TAPS_MAX:
            raise entry.bad("tap", f"makes more than {TAPS_MAX} taps in this file")
        rules.append(rule)
    table.end()
    return RuleTable(tuple(rules), default_allow=default == "allow", name=file)


def _rule(entry: toml_table.Table) -> Rule:
    name = entry.text("name")
    allow = entry.choice("effect", ("allow", "deny")) == "allow"
    principals = entry.texts("principals", count_max=ENTRIES_MAX)
    if not principals:
        raise entry.bad("principals", "is missing: name them, or write `*`")
    actions = _actions(entry)
    topics = entry.texts("topics", count_max=ENTRIES_MAX)
    methods = entry.texts("methods", count_max=ENTRIES_MAX)
    every = actions == set(ACTIONS)  # then a rule of one kind of resource speaks of that kind
    if methods and "call" not in actions:
        raise entry.bad("methods", "is for the action `call`, which the rule does not name")
    if topics and actions == {"call"}:
        raise entry.bad("topics", "is not asked for `call`: write `methods`")
    if not methods and "call" in actions and not (every and topics):
        raise entry.bad("methods", "is missing")
    if not topics and actions != {"call"} and not (every and methods):
        raise entry.bad("topics", "is missing")
    made = Rule(
        name,
        allow,
        entry.checked("principals", principals, PrincipalPattern.parse),
        actions,
        entry.checked("topics", topics, _topic),
        entry.checked("methods", methods, _method),
        _obligations(entry, allow, actions),
    )
    entry.end()
    return made


def _actions(entry: toml_table.Table) -> frozenset[str]:
    texts = entry.texts("actions", count_max=ENTRIES_MAX)
    if not texts:
        raise entry.bad("actions", "is missing: name them, or write `*`")
    if texts == ("*",):
        return frozenset(ACTIONS)
    for index, text in enumerate(texts):
        if text not in ACTIONS:
            raise entry.bad(
                f"actions[{index}]", f"is {text[:40]!r}, and may be {', '.join(ACTIONS)}"
            )
    return frozenset(texts)


def _obligations(entry: toml_table.Table, allow: bool, actions: frozenset[str]) -> Obligations:
    made: list[tuple[str, str]] = []
    for key in ("path", "rate", "tap"):
        if entry.has(key) and not allow:
            raise entry.bad(key, "obliges nobody: a deny rule lets nothing through")
        if entry.has(key) and "publish" not in actions:
            raise entry.bad(key, "obliges publishers, and the rule does not name `publish`")
    if entry.has("path"):
        made.append(("path", entry.choice("path", ("direct", "node"))))
    if entry.has("rate"):
        made.append(("rate", str(entry.number("rate"))))
    taps = entry.texts("tap", count_max=ENTRIES_MAX)
    made.extend(("tap", tap) for tap in sorted(set(entry.checked("tap", taps, _tap))))
    return tuple(made)


def _topic(text: str) -> str:
    _native.check_pattern(text)
    return text


def _tap(text: str) -> str:
    _native.check_topic(text)
    return text


def _method(text: str) -> str:
    if text == "*":
        return text
    service, slash, method = text[1:].rpartition("/")
    fits = (
        text.startswith("/")
        and slash
        and 0 < len(text) <= _METHOD_CHARS_MAX
        and service.replace(".", "").replace("_", "").isalnum()
        and (method == "*" or method.replace("_", "").isalnum())
    )
    if not fits:
        raise BadRequest(
            f"{text[:80]!r} is no `/package.Service/Method`, `/package.Service/*`, `*`"
        )
    return text


def _cell(rule: Rule, at: int, actions: frozenset[str]) -> _Cell:
    """Return what one rule says; shared by all the places where nobody else says anything."""
    return dict.fromkeys(actions, _Verdict().also(rule, at))


def _with(rule: Rule, at: int, alone: _Cell, before: _Cell | None) -> _Cell:
    """Return what holds where `before` did and the rule speaks too."""
    if before is None:
        return alone
    return before | {
        action: verdict.also(rule, at) if (verdict := before.get(action)) else alone[action]
        for action in alone
    }


def _decision(deny: Rule | None, allowed: bool, obligations: Obligations) -> Allow | Deny:
    if deny is not None:
        return Deny("DENIED", f"rule {deny.name} denies it")
    if not allowed:
        return Deny("DENIED", "no rule allows it")
    return Allow(obligations) if obligations else ALLOW
