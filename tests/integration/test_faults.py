"""Each victim killed in a round of its own, on fresh seeds; `make fault` runs hundreds."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from sira.testing import Node
from tests.fault import bus

ROUNDS = 5


@pytest.fixture(scope="module")
def fault_node() -> Iterator[Node]:
    with Node() as node:
        yield node


@pytest.mark.integration
@pytest.mark.parametrize("lane", bus.LANES)
@pytest.mark.parametrize("index", range(ROUNDS))
def test_a_kill_at_a_random_moment_leaves_nothing_unexplained(
    fault_node: Node, index: int, lane: str
) -> None:
    seed = random.SystemRandom().randrange(1 << 31)
    victim = bus.VICTIMS[index % len(bus.VICTIMS)]
    print(f"python -m tests.fault --rounds 1 --seed {seed} --victim {victim} --lane {lane}")
    assert bus.run_round(fault_node, seed, victim, lane=lane).problems == []
