"""Who a connection speaks for: `sira://CLUSTER/TENANT/KIND/NAME`, as the node decided it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sira.kernel.errors import BadRequest

KINDS = frozenset({"node", "agent", "gateway", "user", "tool"})
SYSTEM = "system"  # the operators' tenant
_SCHEME = "sira://"
# Printable, no separator: a principal stands in log lines, metrics and policies.
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,127}")


@dataclass(frozen=True, slots=True)
class Principal:
    """One who acts. Immutable; equal when all four parts are."""

    cluster: str
    tenant: str
    kind: str
    name: str

    def __post_init__(self) -> None:
        """Refuse parts that could not be read back.

        Raises:
            BadRequest: an unknown kind, or a part that is empty, too long or has a separator in it.
        """
        for part in (self.cluster, self.tenant, self.kind, self.name):
            if not _PART.fullmatch(part):
                raise BadRequest(f"{part[:40]!r} cannot be a part of a principal")
        if self.kind not in KINDS:
            raise BadRequest(f"{self.kind!r} is no kind of principal ({', '.join(sorted(KINDS))})")

    def __str__(self) -> str:
        """Return the URI, the form in certificates, envelopes and logs."""
        return f"{_SCHEME}{self.cluster}/{self.tenant}/{self.kind}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> Principal:
        """Read the URI.

        Raises:
            BadRequest: not `sira://CLUSTER/TENANT/KIND/NAME`.
        """
        parts = text[len(_SCHEME) :].split("/")
        if not text.startswith(_SCHEME) or len(parts) != 4:
            raise BadRequest(f"{text[:80]!r} is not sira://CLUSTER/TENANT/KIND/NAME")
        return cls(*parts)
