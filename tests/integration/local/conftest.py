"""What most tests of one host begin with: a node, and a client of its socket without `await`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import sira
import sira.testing


@pytest.fixture(scope="module")
def node() -> Iterator[sira.testing.Node]:
    with sira.testing.node() as running_node:
        yield running_node


@pytest.fixture
def bus(node: sira.testing.Node) -> Iterator[sira.SyncBus]:
    with sira.connect_sync(node.socket_url) as connected:
        yield connected
