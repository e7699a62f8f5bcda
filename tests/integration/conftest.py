"""A node for the tests of the command line, and an address at which there is none."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.integration.command import node


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with node(tmp_path_factory.mktemp("node") / "data") as found:
        yield found


@pytest.fixture
def unused() -> str:
    """URL at which nobody answers."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"sira://127.0.0.1:{sock.getsockname()[1]}"
