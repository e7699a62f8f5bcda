"""What counts as unexplained."""

from __future__ import annotations

from typing import Any

import pytest

from sira.cli.ledger import ledger_row, unexplained
from sira.v1 import kernel_pb2


@pytest.mark.parametrize(
    ("row", "missing"),
    [
        ({}, 0),
        ({"owed": 5, "delivered": 5}, 0),
        ({"owed": 5, "delivered": 4}, 1),
        ({"owed": 5, "delivered": 6}, 1),
        ({"owed": 3, "received": 2, "delivered": 2, "forwarded": 1, "pending": 1, "expired": 1}, 0),
        ({"owed": 4, "retained": 1, "superseded": 2, "dead_lettered": 1}, 0),
        ({"owed": 4, "dropped": {"QUEUE_FULL": 3, "EXPIRED": 1}}, 0),
        ({"owed": 4, "unknown": {"NODE_LOST": 4}}, 0),
        ({"owed": 4, "unknown": {"": 4}}, 4),
        ({"refused": {"DENIED": 4}}, 0),
    ],
)
def test_every_delivery_owed_needs_a_column(row: dict[str, Any], missing: int) -> None:
    found = ledger_row(kernel_pb2.LedgerRow(topic="a", **row))
    assert unexplained(found) == missing
    assert found["balanced"] == (missing == 0)
