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


@pytest.fixture(scope="module")
def unused() -> Iterator[str]:
    """URL at which nobody answers: bound until the tests are over, so that nobody else takes it."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"sira://127.0.0.1:{sock.getsockname()[1]}"
