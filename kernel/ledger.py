"""The counts that must balance, read from the data plane and checked. Pure.

owed + received = delivered + forwarded + pending + retained + superseded + expired + dropped
+ dead-lettered + unknown, for each row, exactly.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sira import _native
from sira.kernel.errors import BadRequest
from sira.kernel.topics import covers, is_pattern
from sira.v1 import kernel_pb2

_COUNTS = (
    "published", "owed", "received", "delivered", "forwarded", "pending", "retained", "superseded",
    "expired", "dead_lettered", "redelivered",
)  # fmt: skip
_BY_REASON = ("dropped", "unknown", "refused")
_TOKEN = struct.Struct(">16sQQ")  # epoch, position, folded


@dataclass(frozen=True, slots=True)
class Token:
    """Where the next page begins: nothing of it is kept at the node.

    Attributes:
        position: of a walk over the rows.
        folded: topics that had gone when the first page was begun.
    """

    position: int
    folded: int

    @classmethod
    def read(cls, token: bytes, epoch: bytes) -> Token | None:
        """Return what a token says; None: the reading begins, or begins anew in another epoch.

        Raises:
            BadRequest: nothing that `write` has made.
        """
        if not token:
            return None
        if len(token) != _TOKEN.size:
            raise BadRequest("page_token is none of Ledger's", details={"field": "page_token"})
        of, position, folded = _TOKEN.unpack(token)
        return cls(position, folded) if of == epoch else None

    def write(self, epoch: bytes) -> bytes:
        """Return the token, for this life of the node."""
        return _TOKEN.pack(epoch, self.position, self.folded)


def row(counts: Mapping[str, Any], *, node: str) -> kernel_pb2.LedgerRow:
    """Return one row of the hub as the wire carries it."""
    made = kernel_pb2.LedgerRow(
        topic=counts["topic"], node=node, class_row=bool(counts.get("class_row"))
    )
    for name in _COUNTS:
        setattr(made, name, counts.get(name, 0))
    for name in _BY_REASON:
        getattr(made, name).update({k: v for k, v in counts.get(name, {}).items() if v})
    return made


def difference(each: kernel_pb2.LedgerRow) -> int:
    """Return what went in less what is accounted for: 0 when the row balances."""
    accounted = (
        each.delivered + each.forwarded + each.pending + each.retained + each.superseded
        + each.expired + sum(each.dropped.values()) + each.dead_lettered
        + sum(each.unknown.values())
    )  # fmt: skip
    return each.owed + each.received - accounted


def select(rows: Iterable[Mapping[str, Any]], pattern: str) -> Iterable[Mapping[str, Any]]:
    """Yield the rows that a pattern asks for: topics it matches, classes it covers; "": all."""
    for each in rows:
        name = each["topic"]
        if not pattern or name == pattern:
            yield each
        elif is_pattern(name):
            if covers(pattern, name):
                yield each
        elif _native.topic_match(pattern, name):
            yield each
