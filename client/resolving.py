"""Finding who can do what a call asks for: the registry's answer, kept until something moves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from typing import Any

from sira.client.choosing import Peer
from sira.client.connection import Connection
from sira.client.deadline import Deadline
from sira.client.matches import Match, Matches
from sira.client.outcomes import Tallies
from sira.client.plans import (
    Asked,
    Plan,
    Target,
    confidence_of,
    is_as_good,
    no_match,
)
from sira.client.resolutions import Resolutions
from sira.kernel.errors import NoMatch, SiraError
from sira.v1 import registry_pb2

_log = logging.getLogger("sira.client")

_DISCOVER = "/sira.v1.Registry/Discover"
# So many matches, that all twins of the best are among them.
_K = 16
_AGAIN_S = 2.0


class Resolving:
    """Asks the registry for the calls of one connection. Belongs to its loop."""

    def __init__(
        self,
        connection: Connection,
        kept: Resolutions[Plan],
        peers: dict[str, Peer],
        tallies: Tallies,
        *,
        begin: Callable[[], None],
        start: Callable[[Any, str], asyncio.Task[Any]],
    ) -> None:
        """Prepare.

        Args:
            kept, peers: where plans, and the agents in them, are kept.
            tallies: count how the calls of each agent end.
            begin: called before each question, so that it is known until when an answer holds.
            start: begins a task that ends with the connection.
        """
        self._connection, self._kept, self._peers = connection, kept, peers
        self._tallies, self._begin, self._start = tallies, begin, start

    async def find(self, asked: Asked, exclude: AbstractSet[str] = frozenset()) -> Plan:
        """Ask the registry who can do it, and keep the answer. Raises NoMatch."""
        self._begin()
        request = asked.make_request()
        request.k = _K
        request.exclude.extend(sorted(exclude))
        epoch = self._kept.epoch
        answer = await self._connection.unary(
            _DISCOVER, request, registry_pb2.DiscoverResponse,
            timeout_s=self._left_s(asked.deadline),
        )  # fmt: skip
        matches = Matches.from_proto(answer)
        if not matches:
            raise no_match(asked.query or request.capability, matches)
        best, confidence = matches[0], confidence_of(matches)
        if confidence < asked.confidence_min:
            raise no_match(asked.query or request.capability, matches, confidence=confidence)
        targets = [
            Target(each, self._peer(each), self._tallies.of(each.agent, each.capability))
            for each in matches
            if each is best or is_as_good(each, best)
        ]
        now_s = self._connection.loop.time()
        # Who gets nothing is asked where nobody else is left.
        targets = [each for each in targets if each.match.weight != 0] or targets
        is_weighed = len(targets) > 1 and best.weight is not None
        plan = Plan(targets, now_s, matches.is_shortlist, confidence, is_weighed)
        if not exclude:
            self._kept.put(asked.key, plan, epoch=epoch)
        return plan

    async def find_again(
        self, asked: Asked, avoid: set[str], delays_s: Iterator[float], failure: SiraError
    ) -> Plan:
        """Find others than those in `avoid`, which did not answer; when there are none, all anew.

        Who is down may come back, and is waited for; who has left the registry is not.

        Raises:
            SiraError: `failure`, where nobody is found in time, or nobody is to be waited for.
            NoMatch: the same, where nobody got the request.
        """
        while True:
            try:
                return await self.find(asked, avoid)
            except NoMatch as nobody:
                if not avoid and not nobody.retryable:
                    raise nobody if isinstance(failure, NoMatch) else failure from nobody
            avoid.clear()
            await self.pause(asked, next(delays_s), failure)

    @staticmethod
    async def pause(asked: Asked, delay_s: float, failure: SiraError) -> None:
        """Wait before another try. Raises `failure`: there is no time for one."""
        if asked.deadline.left_s() <= delay_s:
            raise failure
        await asyncio.sleep(delay_s)

    def _peer(self, match: Match) -> Peer:
        peer = self._peers.get(match.agent)
        if peer is None or peer.generation != match.generation:
            peer = Peer(match.agent, match.generation, match.max_in_flight)
            self._peers[match.agent] = peer
        return peer

    def refresh(self, asked: Asked, plan: Plan) -> None:
        """Have the registry tell of load again, beside the call."""
        plan.refreshing = True
        again = Asked(
            asked.key, asked.make_request, asked.query, None,
            Deadline(_AGAIN_S, self._connection.loop), False, {}, asked.confidence_min,
        )  # fmt: skip

        async def refresh() -> None:
            try:
                await self.find(again)
            except SiraError as error:
                _log.debug("load could not be asked for again: %s", error)
                plan.refreshing = False

        self._start(refresh(), "sira-load-again")

    @staticmethod
    def _left_s(deadline: Deadline) -> float | None:
        return None if deadline.timeout_s is None else deadline.left_s()
