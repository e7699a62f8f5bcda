"""Each victim killed in a round of its own, on fresh seeds; `make fault` runs hundreds."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from sira.testing import Node
from tests.fault import bus, truth

ROUNDS = 5


@pytest.fixture(scope="module")
def fault_node() -> Iterator[Node]:
    with Node() as node:
        yield node


@pytest.fixture(scope="module")
def keeping() -> Iterator[tuple[Node, truth.Books]]:
    """A node of its own, and what it has acknowledged: the rounds go on from one another."""
    with Node() as node:
        yield node, truth.Books()


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


@pytest.mark.integration
@pytest.mark.parametrize("index", range(ROUNDS))
def test_a_node_keeps_what_it_acknowledged_whenever_it_is_killed(
    keeping: tuple[Node, truth.Books], index: int
) -> None:
    seed = random.SystemRandom().randrange(1 << 31)
    victim = truth.VICTIMS[index % len(truth.VICTIMS)]
    print(f"python -m tests.fault --issue registry --rounds 1 --seed {seed} --victim {victim}")
    assert truth.run_round(*keeping, seed, victim).problems == []
