"""Cedar policies (https://www.cedarpolicy.com) instead of a table: the extra `cedar`. Pure.

What a policy may speak of is fixed by SCHEMA, against which a file is validated when it is loaded:

- `Principal::"sira://CLUSTER/TENANT/KIND/NAME"`, in `Tenant::"TENANT"` and `Kind::"KIND"`;
- `Topic::"lab.cam.raw"`, in `Topic::"lab.cam"` and `Topic::"lab"`; `Method::"/sira.v1.Bus/Publish"`
  in `Service::"/sira.v1.Bus"`;
- `context.name` (of the topic or method) and `context.tokens`, the set of the name's tokens.

A refusal names the policy by its `@id("...")`, else as Cedar counts them (`policy0` is the first).
A policy that cannot be evaluated denies: Cedar itself would leave a failing `forbid` out.

No obligations: these are of the rule table. What Cedar policies let be read of a wildcard cannot
be computed. So `readable` gives the whole pattern (not `exact`) unless no policy could permit any
of it, a subscription to a pattern is allowed on the same terms, and each match decides. For other
actions a pattern is taken as the name of a topic.

A decision costs about 0.2 ms and more with the policies (Cedar looks at each); it is kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sira.kernel.authorize import ALLOW, NOTHING, Allow, Deny, Readable
from sira.kernel.errors import BadSetting
from sira.kernel.identity import Principal
from sira.kernel.toml_table import bad
from sira.kernel.topics import is_pattern

SCHEMA = """
entity Tenant;
entity Kind;
entity Principal in [Tenant, Kind] {
  cluster: String, tenant: String, kind: String, name: String,
};
entity Topic in [Topic] { name: String };
entity Service;
entity Method in [Service] { name: String };
type Asked = { name: String, tokens: Set<String> };
action "call" appliesTo { principal: Principal, resource: Method, context: Asked };
action "publish", "subscribe", "create_topic", "delete_topic", "inspect", "attach", "administer",
  "lease", "configure" appliesTo { principal: Principal, resource: Topic, context: Asked };
"""

FILE_BYTES_MAX = 1 << 20
POLICIES_MAX = 1_000  # each is looked at for each decision that is not kept
# The parser and the evaluator recurse and end the process where the stack does: at some 300
# brackets or some thousands of `if` with 8 MiB of it (tried).
NESTING_MAX = 32
IFS_MAX = 64
POLICY_CHARS_MAX = 16_384
_KEPT_MAX = 100_000
_NO_CODE = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*')


class CedarPolicy:
    """A policy: the Cedar policies of one file. Immutable but for the decisions it keeps."""

    def __init__(self, text: str, *, file: str = "policy.cedar") -> None:
        """Parse and validate.

        Raises:
            BadSetting: `cedarpy` is not installed; or the file is too long, nested too deep, no
                Cedar, or speaks of what SCHEMA does not have.
        """
        _check_size(text, file)
        try:
            import cedarpy
        except ImportError:
            raise bad(file, "needs cedarpy: pip install 'sira-kernel[cedar]'") from None
        self._cedar: Any = cedarpy
        self.name = file
        self._schema = cedarpy.Schema.from_str(SCHEMA)
        try:
            self._policies = cedarpy.PolicySet.from_str(text)
        except ValueError as error:
            raise bad(file, f"is no Cedar: {_one_line(error)}") from None
        if len(self._policies) > POLICIES_MAX:
            raise bad(file, f"has {len(self._policies)} policies, at most {POLICIES_MAX}")
        if self._policies.templates():
            raise bad(file, "has templates (`?principal`), and nothing here links them")
        checked = cedarpy.validate_policies(text, self._schema)
        if not checked.validation_passed:
            names = checked.id_annotations_by_policy_id
            first = checked.errors[0]
            rule = names.get(first.policy_id, first.policy_id)
            raise bad(file, f"policy {rule}: {_one_line(first.error)}", rule=rule)
        self._kept: dict[tuple[Principal, str, str], Allow | Deny] = {}

    def __call__(
        self, principal: Principal, action: str, resource: str, context: Mapping[str, str]
    ) -> Allow | Deny:
        """Decide; a subscription to a pattern is allowed where any policy could permit some."""
        del context  # of the door: a decision is kept for principal, action and resource
        asked = principal, action, resource
        decision = self._kept.get(asked)
        if decision is None:
            if len(self._kept) >= _KEPT_MAX:
                self._kept.clear()
            if action == "subscribe" and is_pattern(resource):
                decision = self._preview(principal, action)
            else:
                decision = self._decide(principal, action, resource)
            self._kept[asked] = decision
        return decision

    def readable(self, principal: Principal, pattern: str) -> Readable:
        """Return the whole pattern, not `exact`; nothing where it is denied outright.

        A name without a wildcard is decided.
        """
        decision = self(principal, "subscribe", pattern, {})
        if isinstance(decision, Deny):
            return NOTHING
        return Readable((pattern,), exact=not is_pattern(pattern))

    def _decide(self, principal: Principal, action: str, resource: str) -> Allow | Deny:
        kind = "Method" if action == "call" else "Topic"
        tokens = re.split("[./]", resource.lstrip("/")) if action == "call" else resource.split(".")
        try:
            answer = self._cedar.is_authorized(
                {
                    "principal": {"type": "Principal", "id": str(principal)},
                    "action": {"type": "Action", "id": action},
                    "resource": {"type": kind, "id": resource},
                    "context": {"name": resource, "tokens": tokens},
                },
                self._policies,
                [_principal(principal), _resource(kind, resource, tokens)],
                self._schema,
            )
        except ValueError as error:
            return Deny("DENIED", f"the policies cannot be asked: {_one_line(error)}")
        return self._answer(answer, "no policy permits it")

    def _preview(self, principal: Principal, action: str) -> Allow | Deny:
        """Ask with a resource that is not known yet: deny what no resource would change."""
        try:
            answer = self._cedar.is_authorized_partial(
                {"principal": f'Principal::"{principal}"', "action": f'Action::"{action}"'},
                self._policies,
                [_principal(principal)],
                self._schema,
            )
        except ValueError:
            return ALLOW  # a preview only: each match decides
        if answer.decision is not self._cedar.Decision.Deny:
            return ALLOW
        return self._answer(answer, "no policy could permit any of it")

    def _answer(self, answer: Any, otherwise: str) -> Allow | Deny:
        if answer.diagnostics.errors:
            return Deny("DENIED", f"a policy fails: {_one_line(answer.diagnostics.errors[0])}")
        if answer.allowed:
            return ALLOW
        ids = answer.diagnostics.id_annotations_by_reason
        rules = sorted(ids.get(reason, reason) for reason in answer.diagnostics.reasons)
        return Deny("DENIED", f"policy {', '.join(rules[:3])} forbids it" if rules else otherwise)


def _check_size(text: str, file: str) -> None:
    """Refuse what could take the process down before anybody can say why.

    Raises:
        BadSetting: a limit above is passed.
    """
    if len(text) > FILE_BYTES_MAX:
        raise bad(file, f"is longer than {FILE_BYTES_MAX} characters")
    line = 1
    for policy in re.split(";", _NO_CODE.sub(lambda m: '""' * m[0].startswith('"'), text)):
        if len(policy) > POLICY_CHARS_MAX:
            raise _too_much(file, line, f"is longer than {POLICY_CHARS_MAX} characters")
        depth = deepest = 0
        for char in policy:
            if char in "([{":
                depth += 1
                deepest = max(deepest, depth)
            elif char in ")]}":
                depth = max(0, depth - 1)
        if deepest > NESTING_MAX:
            raise _too_much(file, line, f"nests brackets {deepest} deep, at most {NESTING_MAX}")
        ifs = len(re.findall(r"\bif\b", policy))
        if ifs > IFS_MAX:
            raise _too_much(file, line, f"has {ifs} times `if`, at most {IFS_MAX}")
        line += policy.count("\n")


def _too_much(file: str, line: int, why: str) -> BadSetting:
    return bad(file, f"the policy from line {line} on {why}", line=str(line))


def _principal(principal: Principal) -> dict[str, Any]:
    return {
        "uid": {"type": "Principal", "id": str(principal)},
        "attrs": {
            "cluster": principal.cluster,
            "tenant": principal.tenant,
            "kind": principal.kind,
            "name": principal.name,
        },
        "parents": [
            {"type": "Tenant", "id": principal.tenant},
            {"type": "Kind", "id": principal.kind},
        ],
    }


def _resource(kind: str, resource: str, tokens: list[str]) -> dict[str, Any]:
    if kind == "Method":
        parents = [{"type": "Service", "id": resource.rpartition("/")[0]}]
    else:
        parents = [{"type": "Topic", "id": ".".join(tokens[:n])} for n in range(1, len(tokens))]
    return {
        "uid": {"type": kind, "id": resource},
        "attrs": {"name": resource},
        "parents": parents,
    }


def _one_line(error: object) -> str:
    """Return the first line of a foreign text, short enough to be told."""
    return " ".join(str(error).split())[:300]
