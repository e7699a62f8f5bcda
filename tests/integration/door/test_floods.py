"""Floods at the gRPC ports, plain and TLS: the node lives, and a calm client is served beside them.

How well it is served is measured by `python -m tests.soak.beside`, not here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

import sira
from sira.kernel.errors import Cancelled
from sira.testing import Node
from tests.soak import attacks
from tests.soak.attacks import Target

from .keys import Keys, principal

pytestmark = pytest.mark.integration
HEALTH = "/grpc.health.v1.Health/Check"
ECHOES = 20
RSS_MORE_BYTES = 400 << 20
X = np.arange(64, dtype=np.float32)
BOTH = {"rapid_reset", "header_bomb", "half_handshakes"}  # the others do not change with TLS
MANY = {"one_byte_each", "silent"}  # too large for here: `python -m tests.soak.beside` has room


@pytest.fixture(scope="module", params=["plain", "tls"])
def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Node, Target, sira.sync.Bus]]:
    """A node, where it can be attacked, and a calm client."""
    folder: Path = tmp_path_factory.mktemp("keys")
    keys = Keys.new(folder)
    flags, security = {}, None
    if request.param == "tls":
        flags = {k: v for k, v in keys.flags().items() if k not in ("listen", "data_dir")}
        security = keys.security(token=keys.token(principal("calm")))
    with Node(settings=dict(flags, handshake_s=0.5)) as node:
        host, port = node.url.split("://")[1].rsplit(":", 1)
        ca = folder / "ca.pem" if security else None
        url = f"{'siras' if security else 'sira'}://{host}:{port}"
        with sira.connect_sync(url, security=security) as bus:
            yield request.param, node, Target((host, int(port)), HEALTH, ca), bus


@pytest.mark.parametrize("name", sorted(set(attacks.ATTACKS) - MANY))
def test_a_flood_leaves_the_node_alive_and_a_calm_client_served(
    stage: tuple[str, Node, Target, sira.sync.Bus], name: str
) -> None:
    lane, node, target, bus = stage
    if (lane == "tls" and name not in BOTH) or (lane == "plain" and name == "half_handshakes"):
        pytest.skip("sampled on the other lane")
    process = psutil.Process(node.pid)
    before_bytes = process.memory_info().rss
    with bus.subscribe("calm.echo") as messages, attacks.under(name, target) as acts:
        for count in range(ECHOES):
            receipt = bus.publish("calm.echo", {"x": X + count}, timeout_s=30)
            assert receipt.matched == 1
            np.testing.assert_array_equal(messages.next(timeout_s=30)["x"], X + count)
    assert acts.count > 0
    assert process.is_running() and node.pid == process.pid, "the node has not been replaced"
    assert process.memory_info().rss - before_bytes < RSS_MORE_BYTES
    assert _ledger(bus).balanced


def _ledger(bus: sira.sync.Bus) -> sira.Ledger:
    """Ask until answered: grpcio refuses new calls at random while thousands of resets wait."""
    until = time.monotonic() + 30
    while True:
        try:
            return bus.ledger()
        except (Cancelled, sira.Unreachable):
            assert time.monotonic() < until, "the node does not recover"
