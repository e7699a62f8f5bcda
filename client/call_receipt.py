"""Who answered a call, and why: `reply.receipt`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from sira.client.matches import Match, Reason

# What a reply to a call carries until somebody asks for its receipt: most do not.
Told = tuple[Callable[..., "CallReceipt"], Any, Any, str, int, Any]
# (agent, capability, query, ok) -> the shift of its score. Runs on the bus's loop.
Rate = Callable[[str, str, str, bool], Coroutine[Any, Any, float]]


class CallReceipt:
    """Who answered a call, and why.

    Attributes:
        match: what the registry told of the capability that answered.
        tries: how many agents were asked, one after the other or at once.
        lane: by which way the question went to the node, or past it: grpc, socket, shm.
        query: the words that were asked by; "": by name or vector.
        confidence: how often such a match is right, 0 to 1: of the best of those that say the same.
        is_shortlist: the registry was not sure enough to name this one alone.
    """

    __slots__ = ("_rate", "confidence", "is_shortlist", "lane", "match", "query", "tries")

    def __init__(
        self,
        match: Match,
        *,
        tries: int,
        lane: str,
        query: str,
        confidence: float,
        is_shortlist: bool,
        rate: Rate,
    ) -> None:
        """Note it."""
        self.match = match
        self.tries = tries
        self.lane = lane
        self.query = query
        self.confidence = confidence
        self.is_shortlist = is_shortlist
        self._rate = rate

    @property
    def agent(self) -> str:
        """Who answered."""
        return self.match.agent

    @property
    def capability(self) -> str:
        """By which of its capabilities."""
        return self.match.capability

    @property
    def topic(self) -> str:
        """Where it was asked."""
        return self.match.topic

    @property
    def score(self) -> float:
        """How well the capability fits, in the registry's own measure."""
        return self.match.score

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """What the score is made of."""
        return self.match.reasons

    def __repr__(self) -> str:
        """Return what a log wants."""
        return (
            f"{type(self).__name__}(agent={self.agent!r}, capability={self.capability!r}, "
            f"confidence={self.confidence:.2f}, lane={self.lane!r}, tries={self.tries})"
        )

    async def rate(self, *, ok: bool) -> float:
        """Say how well the answer served; later calls by these words are ranked by it.

        Returns:
            By how much the score of this capability is shifted now.
        """
        return await self._rate(self.agent, self.capability, self.query, ok)


def receipt_of(message: Any) -> Any:
    """Return the receipt of a reply, made at the first look; None: it is none to a call."""
    found = message.context
    if type(found) is tuple:
        make, *told = found
        found = message.context = make(*told)
    return found if isinstance(found, CallReceipt) else None


class SyncCallReceipt(CallReceipt):
    """As `CallReceipt`, without `await`."""

    __slots__ = ()

    def rate(self, *, ok: bool) -> float:  # type: ignore[override]
        """Say how well the answer served; see `CallReceipt.rate`."""
        from sira.client.runner import runner

        return runner().run(self._rate(self.agent, self.capability, self.query, ok))
