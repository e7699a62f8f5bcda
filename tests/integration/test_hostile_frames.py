"""Ten seconds of broken frames at a node's streams; `make soak` does it for longer."""

from __future__ import annotations

import random

import pytest

from tests.soak import doors


@pytest.mark.integration
def test_broken_frames_disturb_nobody_and_the_node_lives() -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    attack = doors.run(10, seed, tell=print)
    assert attack.problems == []
    assert attack.frames > 100
