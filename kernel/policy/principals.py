"""Which principals a rule or a limit speaks of: `sira://CLUSTER/TENANT/KIND/NAME` with wildcards.

A part is itself or `*` (any); the name may also end in `*` (`cam-*`). `*` alone is everybody.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Generic, TypeVar

from sira.kernel.errors import BadRequest
from sira.kernel.identity import KINDS, Principal

V = TypeVar("V")

_SCHEME = "sira://"
_PART = re.compile(r"\*|[A-Za-z0-9][A-Za-z0-9._@:-]{0,127}")
_NAME = re.compile(r"\*|[A-Za-z0-9][A-Za-z0-9._@:-]{0,127}\*?")


@dataclass(frozen=True, slots=True)
class PrincipalPattern:
    """The principals whose four parts fit."""

    cluster: str = "*"
    tenant: str = "*"
    kind: str = "*"
    name: str = "*"

    @classmethod
    def parse(cls, text: str) -> PrincipalPattern:
        """Read `*` or a principal with wildcards.

        Raises:
            BadRequest: neither.
        """
        if text == "*":
            return cls()
        parts = text.removeprefix(_SCHEME).split("/")
        if not text.startswith(_SCHEME) or len(parts) != 4:
            raise BadRequest(
                f"{text[:80]!r} is neither `*` nor sira://CLUSTER/TENANT/KIND/NAME, whose parts "
                "may be `*`"
            )
        for part, form in zip(parts, (_PART, _PART, _PART, _NAME), strict=True):
            if not form.fullmatch(part):
                raise BadRequest(f"{part[:40]!r} in {text[:80]!r} is no part of a principal")
        if parts[2] != "*" and parts[2] not in KINDS:
            raise BadRequest(
                f"{parts[2][:40]!r} in {text[:80]!r} is no kind of principal "
                f"({', '.join(sorted(KINDS))})"
            )
        return cls(*parts)

    def matches(self, principal: Principal) -> bool:
        """Whether a principal is one of them."""
        name = self.name
        return (
            self.cluster in ("*", principal.cluster)
            and self.tenant in ("*", principal.tenant)
            and self.kind in ("*", principal.kind)
            and (
                principal.name.startswith(name[:-1])
                if name.endswith("*")
                else principal.name == name
            )
        )


class PrincipalIndex(Generic[V]):
    """One value for each of many patterns; those of a principal are found by its parts.

    Asked with at most 8 * (1 + lengths of names in use) look-ups, however many patterns there are.
    """

    def __init__(self) -> None:
        self._values: dict[PrincipalPattern, V] = {}
        self._prefix_chars: dict[int, None] = {}

    def __len__(self) -> int:
        """Return how many patterns there are."""
        return len(self._values)

    def get(self, pattern: PrincipalPattern) -> V | None:
        """Return the value of a pattern."""
        return self._values.get(pattern)

    def put(self, pattern: PrincipalPattern, value: V) -> None:
        """Set the value of a pattern."""
        self._values[pattern] = value
        if pattern.name.endswith("*"):
            self._prefix_chars[len(pattern.name) - 1] = None

    def of(self, principal: Principal) -> tuple[V, ...]:
        """Return the values of all patterns that match a principal."""
        own = principal.name
        names = [own, *(f"{own[:n]}*" for n in self._prefix_chars if n <= len(own))]
        found: list[V] = []
        for cluster in (principal.cluster, "*"):
            for tenant in (principal.tenant, "*"):
                for kind in (principal.kind, "*"):
                    for name in names:
                        value = self._values.get(PrincipalPattern(cluster, tenant, kind, name))
                        if value is not None:
                            found.append(value)
        return tuple(found)
