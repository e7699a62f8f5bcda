"""Which of the agents that will do is asked. Pure: time, load and randomness come in.

What the registry told is told once and kept (resolutions.py); what this client has under way itself
it knows. Both together are an agent's load, for as long as what was told is fresh.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sira.client.breaker import Breaker

# Of more than so many two are picked at random and the better one taken: nearly as even
# (Mitzenmacher, 2001), and clients that were told the same do not all run to the same agent.
SCAN_MAX = 8
FRESH_S = 5.0
_GOLDEN = (5**0.5 - 1) / 2


class Randomness(Protocol):
    """What is needed of `random.Random`."""

    def random(self) -> float:
        """Return a number from 0 up to 1."""


class Turns:
    """Numbers from 0 up to 1, spread evenly, however few: multiples of the golden ratio.

    Of any n in a row a part of length p has n p, but for two or three (Kuipers and Niederreiter,
    Uniform Distribution of Sequences, 1974). Clients begin at different places.
    """

    __slots__ = ("_at",)

    def __init__(self, rng: Randomness) -> None:
        """Begin somewhere."""
        self._at = rng.random()

    def next(self) -> float:
        """Return the next one."""
        self._at = (self._at + _GOLDEN) % 1.0
        return self._at


class Peer:
    """An agent in one of its lives, as this client knows it; shared by all resolutions.

    Attributes:
        name, generation: who.
        slots: requests that it takes at a time.
        flying: one for each request of this client that is under way to it: a list is added to and
            taken from without a lock, by any thread.
    """

    __slots__ = ("breaker", "flying", "generation", "name", "slots")

    def __init__(self, name: str, generation: int, slots: int) -> None:
        """Begin with nothing under way."""
        self.name, self.generation, self.slots = name, generation, max(1, slots)
        self.flying: list[None] = []
        self.breaker = Breaker()

    @property
    def own(self) -> int:
        """How many requests of this client are under way to it."""
        return len(self.flying)


class Choice:
    """One agent that will do.

    Attributes:
        peer: who.
        others: requests of others that it had in hand when the registry told.
    """

    __slots__ = ("others", "peer")

    def __init__(self, peer: Peer, reported: int) -> None:
        """Take what was reported; what this client had under way then was part of it."""
        self.peer = peer
        self.others = max(0, reported - peer.own)

    def load(self, *, fresh: bool) -> float:
        """Return requests in hand for each that it takes at a time."""
        return (self.peer.own + (self.others if fresh else 0)) / self.peer.slots


def choose(
    choices: Sequence[Choice], rng: Randomness, now_s: float, *, fresh: bool
) -> Choice | None:
    """Return the one to ask; None: each has failed too often just now.

    Args:
        fresh: what was reported of their load still counts.
    """
    count = len(choices)
    if count == 1:
        return choices[0] if choices[0].peer.breaker.allows(now_s) else None
    begin = int(rng.random() * count)  # of equals none comes first always
    if count > SCAN_MAX:
        other = (begin + 1 + int(rng.random() * (count - 1))) % count
        pair = [each for each in (choices[begin], choices[other])
                if each.peer.breaker.allows(now_s)]  # fmt: skip
        if pair:
            return min(pair, key=lambda each: each.load(fresh=fresh))
    best, best_load = None, 0.0
    for index in range(count):
        each = choices[(begin + index) % count]
        if each.peer.breaker.until_s and not each.peer.breaker.allows(now_s):
            continue
        load = each.load(fresh=fresh)
        if best is None or load < best_load:
            best, best_load = each, load
    return best
