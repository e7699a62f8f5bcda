"""Calling a capability: find who can do it, choose, ask, and see to what goes wrong.

The decisions are in choosing.py, breaker.py and plans.py; here are the clock and the tries. Who can
do it is asked of the registry in resolving.py.
What was found is kept until the registry says that something has moved (following.py).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from sira import _native
from sira.client.call_receipt import CallReceipt, SyncCallReceipt, Told
from sira.client.choosing import FRESH_S, Peer, Turns, choose
from sira.client.connection import Connection
from sira.client.deadline import Deadline
from sira.client.following import Following
from sira.client.message import SyncMessage
from sira.client.outcomes import Tallies
from sira.client.plans import (
    Asked,
    Plan,
    Target,
    of_one_version,
)
from sira.client.reporting import Reporting
from sira.client.requests import Requests
from sira.client.resolutions import Resolutions
from sira.client.resolving import Resolving
from sira.kernel.errors import NodeDraining, NoMatch, SiraError, Unreachable
from sira.v1 import registry_pb2

_log = logging.getLogger("sira.client")

_RATE = "/sira.v1.Registry/Rate"
RATE_S = 5.0
# These say that an agent did not answer; another may.
_ELSEWHERE = frozenset({"PEER_LOST", "UNREACHABLE", "TIMEOUT", "NODE_DRAINING", "NO_MATCH"})
# And these of them are the agent's own.
_ITS_OWN = frozenset({"PEER_LOST", "TIMEOUT", "NO_MATCH"})


class Calls:
    """The calls of one connection. Belongs to its loop; `begin_here` and `end` to any thread."""

    def __init__(
        self, connection: Connection, requests: Requests, message_type: type[_native.Message]
    ) -> None:
        """Begin; the registry is watched from the first call on."""
        self._connection, self._requests = connection, requests
        sync = issubclass(message_type, SyncMessage)
        self._receipt: type[CallReceipt] = SyncCallReceipt if sync else CallReceipt
        self._kept: Resolutions[Plan] = Resolutions()
        self._peers: dict[str, Peer] = {}
        self._rng = random.Random(connection.client_id)
        self._turns = Turns(self._rng)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._following = Following(connection, requests, self._kept, self._peers, self._start)
        self._tallies = Tallies()
        self._reporting = Reporting(connection, self._tallies, self._start)
        self._resolving = Resolving(
            connection, self._kept, self._peers, self._tallies,
            begin=self._begin, start=self._start,
        )  # fmt: skip
        connection.on_lost.append(self._lost)

    # ---- one call --------------------------------------------------------------------------------

    def kept(self, key: Hashable) -> Plan | None:
        """Return what was found before and still holds."""
        return self._kept.entries.get(key)

    def is_stale(self, plan: Plan) -> bool:
        """Whether the load of its agents is to be asked for again."""
        return (
            len(plan.targets) > 1
            and not plan.refreshing
            and self._connection.loop.time() - plan.at_s > FRESH_S
        )

    def is_elsewhere(self, error: SiraError) -> bool:
        """Whether another agent may answer what this one did not, where it may be done twice."""
        return error.code in _ELSEWHERE and self._connection.retry.requests

    def first(self, plan: Plan) -> Target | None:
        """Return whom to ask first of those that were found before; None: it takes some thought.

        Most calls are of this kind: nothing is left out of an answer, so nothing is looked at that
        only matters when something goes wrong.
        """
        if len(plan.targets) == 1:
            target = plan.targets[0]
            return None if target.peer.breaker.until_s else target
        now_s = self._connection.loop.time()
        fresh = now_s - plan.at_s <= FRESH_S
        if not fresh and not plan.refreshing:
            return None
        if plan.is_weighed:
            return self.pick(plan.targets, plan)
        return choose(plan.targets, self._rng, now_s, fresh=fresh)  # type: ignore[return-value]

    async def call(
        self,
        asked: Asked,
        *,
        hedge_s: float | None = None,
        failed: tuple[Plan, Target, SiraError] | None = None,
    ) -> Any:
        """Find who can do it, ask, and return the answer.

        Args:
            failed: a try that was made already.
        Raises:
            NoMatch: nothing fits, or nobody is left. SiraError: what the handler or the node said.
        """
        failure: SiraError | None = None
        avoid: set[str] = set()
        delays_s: Iterator[float] = self._connection.retry.delays_s(self._rng)
        plan = self._kept.entries.get(asked.key)
        if failed is not None:
            plan, target, failure = failed
            plan = await self._next(asked, plan, target, failure, avoid, delays_s)
        elif plan is None:
            plan = await self._resolving.find(asked)
        elif self.is_stale(plan):
            self._resolving.refresh(asked, plan)
        while True:
            targets: Sequence[Target] = plan.targets
            if avoid:
                targets = [each for each in targets if each.match.agent not in avoid]
            chosen = self.pick(targets, plan) if targets else None
            if chosen is None:
                if failure is None:  # others have had no answers: this call does not wait
                    raise self._shut(plan.targets)
                avoid.clear()
                await self._resolving.pause(asked, next(delays_s), failure)
                plan = await self._resolving.find_again(asked, avoid, delays_s, failure)
                continue
            try:
                if hedge_s is not None and len(targets) > 1 and self._may_repeat(asked, chosen):
                    return await self._hedged(asked, plan, chosen, targets, hedge_s)
                return await self._try(asked, plan, chosen, alone=len(targets) == 1)
            except SiraError as raised:
                failure = raised
                plan = await self._next(asked, plan, chosen, failure, avoid, delays_s)

    async def _next(
        self,
        asked: Asked,
        plan: Plan,
        target: Target,
        error: SiraError,
        avoid: set[str],
        delays_s: Iterator[float],
    ) -> Plan:
        """Return what to go on by after a try has failed. Raises `error`: it ends there."""
        if not self._goes_on(error, asked, target):
            raise error
        avoid.add(target.match.agent)
        self._kept.drop(asked.key)
        if any(each.match.agent not in avoid for each in plan.targets):
            return plan
        return await self._resolving.find_again(asked, avoid, delays_s, error)

    def pick(self, targets: Sequence[Target], plan: Plan) -> Target | None:
        """Return whom to ask; None: nobody may be asked just now."""
        now_s = self._connection.loop.time()
        fresh, found = now_s - plan.at_s <= FRESH_S, None
        if plan.is_weighed:
            whose = of_one_version(targets, self._turns.next())
            found = choose(whose, self._rng, now_s, fresh=fresh)
        if found is None:  # all that have their turn fail just now: the others
            found = choose(targets, self._rng, now_s, fresh=fresh)
        return found  # type: ignore[return-value]  # of targets

    def begin(self, target: Target) -> None:
        """Take note that a request goes to it. In any thread."""
        peer = target.peer
        peer.flying.append(None)
        if peer.breaker.until_s:
            peer.breaker.begin()

    def give_up(self, target: Target) -> None:
        """Take note that it was not asked after all. In any thread."""
        peer = target.peer
        peer.flying.pop()
        peer.breaker.abandon()

    def end(
        self, target: Target, error: BaseException | None, given_s: float | None = None
    ) -> None:
        """Take note how it ended. In any thread.

        Args:
            given_s: how long the agent was given to answer; None: for ever.
        """
        peer = target.peer
        peer.flying.pop()
        if error is None:
            target.tally.worked += 1
            if peer.breaker.failures:
                peer.breaker.succeed()
        elif isinstance(error, SiraError):
            if target.tally.note(error, given_s):
                self._reporting.soon()
            if error.code in _ITS_OWN:
                peer.breaker.fail(self._connection.loop.time())
            elif peer.breaker.failures:  # it has answered
                peer.breaker.succeed()
        else:
            peer.breaker.abandon()

    async def finish(self) -> None:
        """Say what is to be said before the connection closes."""
        await self._reporting.finish()

    def told(self, target: Target, plan: Plan, query: str, tries: int, lane: Any) -> Told:
        """Return what the reply carries."""
        return (self._receipt_of, target, plan, query, tries, lane or self._connection.lane)

    def _receipt_of(
        self, target: Target, plan: Plan, query: str, tries: int, lane: str
    ) -> CallReceipt:
        return self._receipt(
            target.match,
            tries=tries,
            lane=lane,
            query=query,
            is_shortlist=plan.is_shortlist,
            confidence=plan.confidence,
            rate=self.rate,
        )

    def part_of(self, deadline: Deadline) -> Deadline:
        """Return that of one try: who does not answer must leave another the time to."""
        if deadline.timeout_s is None:
            return deadline
        return Deadline(deadline.left_s() / 2, self._connection.loop)

    async def _try(self, asked: Asked, plan: Plan, target: Target, *, alone: bool) -> Any:
        asked.tries += 1
        deadline = asked.deadline
        repeatable = self._may_repeat(asked, target)
        if repeatable and not alone:
            deadline = self.part_of(deadline)
        self.begin(target)
        error: BaseException | None = None
        given_s = deadline.timer_s()
        try:
            reply: Any = await self._requests.request(
                target.match.topic,
                asked.body,
                deadline=deadline,
                idempotent=repeatable,
                fields=asked.fields,
            )
        except BaseException as raised:
            error = raised
            raise
        finally:
            self.end(target, error, given_s)
        reply.context = self.told(target, plan, asked.query, asked.tries, reply.context)
        return reply

    async def _hedged(
        self, asked: Asked, plan: Plan, first: Target, targets: Sequence[Target], hedge_s: float
    ) -> Any:
        """Ask a second one too where the first does not answer in `hedge_s`; one answer counts."""
        loop = self._connection.loop
        trying = {loop.create_task(self._try(asked, plan, first, alone=True))}
        try:
            done, _ = await asyncio.wait(trying, timeout=hedge_s)
            if not done:
                others = [each for each in targets if each is not first]
                second = self.pick(others, plan)
                if second is not None:
                    trying.add(loop.create_task(self._try(asked, plan, second, alone=True)))
            error: BaseException | None = None
            while trying:
                done, trying = await asyncio.wait(trying, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    error = task.exception()
                    if error is None:
                        return task.result()
            assert error is not None, "one of them ended"
            raise error
        finally:
            for task in trying:
                task.cancel()
            if trying:
                await asyncio.wait(trying)

    @staticmethod
    def _may_repeat(asked: Asked, target: Target) -> bool:
        return asked.idempotent or target.is_repeatable

    def _goes_on(self, error: SiraError, asked: Asked, target: Target) -> bool:
        """Whether another may be asked after `error`."""
        if not self.is_elsewhere(error):
            return False
        if asked.deadline.left_s() <= 0 or self._connection.ended is not None:
            return False
        if isinstance(error, NodeDraining):
            return True  # of the node, when it is refused: nobody got it
        if isinstance(error, NoMatch):
            # Of its own topic: nobody got it. An agent may say the same of those that it asked.
            return error.details.get("topic") == target.match.topic
        return self._may_repeat(asked, target)

    def _shut(self, targets: Sequence[Target]) -> SiraError:
        names = ", ".join(sorted({each.match.agent for each in targets}))
        now_s = self._connection.loop.time()
        wait_s = min(max(0.0, each.peer.breaker.until_s - now_s) for each in targets)
        return Unreachable(
            f"{names} did not answer several times in a row, and is not asked for a moment",
            details={"agents": names},
            retry_after_ms=max(1, round(wait_s * 1e3)),
            help="`sira agents` shows how it is; try again a little later",
        )

    # ---- beside ----------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Follow the registry, and tell it how calls end, from now on."""
        self._following.begin()
        self._reporting.begin()

    async def rate(self, agent: str, capability: str, query: str, ok: bool) -> float:
        """Say how well an answer served; return by how much its score is shifted now."""
        answer = await self._connection.unary(
            _RATE,
            registry_pb2.RateRequest(agent=agent, capability=capability, query=query, ok=ok),
            registry_pb2.RateResponse,
            timeout_s=RATE_S,
            repeatable=False,
        )
        return answer.shift

    def _lost(self) -> None:
        if self._connection.ended is not None:
            for task in self._tasks:
                task.cancel()

    def _start(self, work: Any, name: str) -> asyncio.Task[Any]:
        task = self._connection.loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return task

    def _over(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            level = logging.DEBUG if isinstance(error, SiraError) else logging.ERROR
            _log.log(level, "%s ended: %r", task.get_name(), error)
