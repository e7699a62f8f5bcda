"""Floods at the gRPC ports, plain and TLS: calm clients are served, at no more than it must cost.

"Must" is what a bare server of grpcio takes under the same attack in the same run. How long calm
clients wait is measured by `python -m tests.soak.beside`, not here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import psutil
import pytest

from tests.soak import attacks
from tests.soak.beside import Peak
from tests.soak.sides import Side, bare, ours

from .keys import Keys

pytestmark = pytest.mark.integration
TURNS = 10
MANY = {"one_byte_each", "silent"}  # too large for here: `python -m tests.soak.beside` has room
NAMES = sorted(attacks.ATTACKS.keys() - MANY)
MORE_BYTES = 128 << 20
Sides = tuple[Side, Side]


@pytest.fixture(scope="module", params=["plain", "tls"])
def sides(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sides]:
    """A node of ours and a bare server, each with a calm client."""
    keys = Keys.new(tmp_path_factory.mktemp("keys")) if request.param == "tls" else None
    with ExitStack() as stack:
        node = stack.enter_context(ours(keys, {"handshake_s": 0.5}))
        yield node, stack.enter_context(bare(keys))


def _attacked(side: Side, name: str, turns: int) -> tuple[int, int]:
    """Attack a side while its client works; return failed calls, and bytes of memory it took."""
    peak = Peak(side.pid)
    failed = 0
    # Each from an address of its own: that of the one before may be held still.
    target = replace(side.target, source=f"127.0.1.{1 + NAMES.index(name)}")
    with attacks.under(name, target) as acts:
        for _ in range(turns):
            failed += sum(act() for act in side.acts.values())
    assert acts.count > 0
    return failed, peak.more_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_under_a_flood_no_call_of_others_fails_and_no_more_memory_goes_than_on_a_bare_server(
    sides: Sides, name: str
) -> None:
    node, plain = sides
    lives = psutil.Process(node.pid)
    failed, more_bytes = _attacked(node, name, TURNS)
    assert failed == 0
    assert lives.is_running(), "the node has not been replaced"
    _, plain_bytes = _attacked(plain, name, 1)
    print(f"{name}: {more_bytes >> 20} MiB, bare {plain_bytes >> 20} MiB")
    assert more_bytes <= plain_bytes + MORE_BYTES
