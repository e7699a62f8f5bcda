"""The pytest plugin `sira`, loaded by pytest wherever Sira is installed.

It is imported at the start of every pytest run, before coverage measures anything: what it needs of
Sira is imported inside its fixtures.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sira.client.sync import SyncBus
    from sira.testing.node import Node


@pytest.fixture
def sira_node() -> Iterator[Node]:
    """Run a real node for one test; async tests connect to `sira_node.url`."""
    from sira.testing.node import node

    with node() as running:
        yield running


@pytest.fixture
def sira_bus(sira_node: Node) -> Iterator[SyncBus]:
    """Connect the synchronous twin to a real node of this test's own; `sira_bus.url` is its URL."""
    from sira.client.sync import connect_sync

    with connect_sync(sira_node.url) as bus:
        yield bus
