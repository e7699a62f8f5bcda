"""Who will do for a call, and why nobody does. Pure."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from sira.client.choosing import Choice, Peer
from sira.client.deadline import Deadline
from sira.client.matches import Match, Matches
from sira.client.outcomes import Tally
from sira.kernel.errors import NoMatch
from sira.v1 import registry_pb2

_REPEATABLE = frozenset({"pure", "idempotent"})
_AWAITED = frozenset({"suspect", "down"})
_TOLD_MAX = 5
# What is likelier wrong than right is not asked.
CONFIDENCE_MIN = 0.5


class Target(Choice):
    """A match that may be asked."""

    __slots__ = ("is_repeatable", "match", "tally")

    def __init__(self, match: Match, peer: Peer, tally: Tally) -> None:
        """Take what the registry told. `tally`: counts how its calls end."""
        super().__init__(peer, match.state.in_flight)
        self.match, self.tally = match, tally
        self.is_repeatable = match.effects in _REPEATABLE


@dataclass(slots=True, eq=False)
class Plan:
    """Who can do what was asked for.

    Attributes:
        targets: any of them will do.
        at_s: when the registry told of their load.
        is_shortlist: it was not sure.
        confidence: how often the best one is right; the others say the same.
        is_weighed: versions have weights.
    """

    targets: Sequence[Target]
    at_s: float
    is_shortlist: bool
    confidence: float
    is_weighed: bool = False
    refreshing: bool = False


@dataclass(slots=True, eq=False)
class Asked:
    """One call.

    Attributes:
        key: by which the plan is remembered.
        make_request: gives what the registry is asked.
        query: its words.
    """

    key: Hashable
    make_request: Callable[[], registry_pb2.DiscoverRequest]
    query: str
    body: Any
    deadline: Deadline
    idempotent: bool
    fields: dict[str, Any]
    confidence_min: float
    tries: int = 0


def of_one_version(targets: Sequence[Target], turn: float) -> Sequence[Target]:
    """Return the targets whose version has its turn; all of them, where none has a weight.

    Args:
        turn: 0 up to 1; each range of versions has a part of that as long as its weight.
    """
    weights = {each.match.range: each.match.weight or 0.0 for each in targets}
    point = turn * sum(weights.values())
    for name, weight in sorted(weights.items()):
        point -= weight
        if point < 0:
            return [each for each in targets if each.match.range == name]
    return targets


def is_as_good(match: Match, best: Match) -> bool:
    """Whether a match may be taken in the place of the best one, for load alone."""
    return match.twin == best.twin and match.agent != best.agent and match.status == best.status


def _may_come_back(match: Match) -> bool:
    """Whether it was left out for its health alone, and not by its own wish."""
    return match.status in _AWAITED and any(each.part == "health" for each in match.reasons)


def confidence_of(matches: Matches) -> float:
    """Return how often the best one is right: of those that say the same the surest word counts."""
    best = matches[0]
    return max(each.confidence for each in matches if each.twin == best.twin)


def no_match(asked: str, matches: Matches, *, confidence: float | None = None) -> NoMatch:
    """Return the error of a call that nobody fits: why, and who came next.

    Args:
        confidence: of the best, where that is not enough.
    Returns:
        It says `retryable` where somebody can do it who is not there just now.
    """
    if confidence is not None:
        reason = f"{matches[0].agent} is right in {confidence:.0%} of such cases"
    else:
        reason = matches.reason or "no agent can do it"
    details = {"reason": reason, "revision": str(matches.revision)}
    for number, each in enumerate((*matches, *matches.runners_up)[:_TOLD_MAX], 1):
        why = "; ".join(str(reason) for reason in each.reasons)
        details[f"runner_up_{number}"] = f"{each.agent} {each.capability}: {why}"
    return NoMatch(
        f"nobody for {asked[:200]!r}: {reason}" if asked else f"nobody fits: {reason}",
        details=details,
        retryable=confidence is None and any(map(_may_come_back, matches.runners_up)),
        help="`sira find TEXT --explain` says who came next and why not; or start an agent",
    )
