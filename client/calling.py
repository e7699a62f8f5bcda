"""Calling a capability: find who can do it, choose, ask, and see to what goes wrong.

The decisions are in choosing.py, breaker.py and resolutions.py; here are the clock, the streams and
the tries. What was found is kept until the registry says that something has moved.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Callable, Hashable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from sira import _native
from sira.client.call_receipt import CallReceipt, SyncCallReceipt
from sira.client.choosing import FRESH_S, Choice, Peer, choose
from sira.client.connection import TRANSIENT, Connection
from sira.client.deadline import Deadline
from sira.client.matches import Match, Matches
from sira.client.message import SyncMessage
from sira.client.requests import Requests
from sira.client.resolutions import Resolutions
from sira.kernel.errors import NodeDraining, NoMatch, PeerLost, SiraError, Unreachable
from sira.v1 import registry_pb2

_log = logging.getLogger("sira.client")

_DISCOVER = "/sira.v1.Registry/Discover"
_LIST = "/sira.v1.Registry/List"
_RATE = "/sira.v1.Registry/Rate"
_WATCH = "/sira.v1.Registry/Watch"
RATE_S = 5.0
# So many matches, that all twins of the best are among them.
_K = 16
# These say that an agent did not answer; another may.
_ELSEWHERE = frozenset({"PEER_LOST", "UNREACHABLE", "TIMEOUT", "NODE_DRAINING", "NO_MATCH"})
# And these of them are the agent's own.
_ITS_OWN = frozenset({"PEER_LOST", "TIMEOUT", "NO_MATCH"})
_REPEATABLE = frozenset({"pure", "idempotent"})
# Who is waited for is asked about this often at most, however much the registry moves.
_LOOK_S = 0.1
# An answer may be on its way from an agent that has gone since.
_LAST_ANSWER_S = 0.25
_LOOK_TIMEOUT_S = 2.0
_LAGS_MS = 1_000


class Target(Choice):
    """A match that may be asked."""

    __slots__ = ("is_repeatable", "match")

    def __init__(self, match: Match, peer: Peer) -> None:
        """Take what the registry told."""
        super().__init__(peer, match.state.in_flight)
        self.match = match
        self.is_repeatable = match.effects in _REPEATABLE


@dataclass(slots=True, eq=False)
class Plan:
    """Who can do what was asked for.

    Attributes:
        targets: any of them will do.
        at_s: when the registry told of their load.
        is_shortlist: it was not sure.
    """

    targets: Sequence[Target]
    at_s: float
    is_shortlist: bool
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
        self._lock = threading.Lock()  # of the counts of what is under way
        self._rng = random.Random(connection.client_id)
        self._watching: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._look_again = False
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

    async def call(self, asked: Asked, *, hedge_s: float | None = None) -> Any:
        """Find who can do it, ask, and return the answer.

        Raises:
            NoMatch: nothing fits, or nobody is left. SiraError: what the handler or the node said.
        """
        plan = self._kept.entries.get(asked.key)
        if plan is None:
            plan = await self._resolve(asked)
        elif self.is_stale(plan):
            self._refresh(asked, plan)
        avoid: set[str] = set()
        delays_s = None
        while True:
            targets: Sequence[Target] = plan.targets
            if avoid:
                targets = [each for each in targets if each.match.agent not in avoid]
            target = self.pick(targets, plan) if targets else None
            if target is None:
                raise self._shut(plan.targets)
            try:
                if hedge_s is not None and len(targets) > 1 and self._may_repeat(asked, target):
                    return await self._hedged(asked, plan, target, targets, hedge_s)
                return await self._try(asked, plan, target, alone=len(targets) == 1)
            except SiraError as error:
                if not self._goes_on(error, asked, target):
                    raise
                avoid.add(target.match.agent)
                self._kept.drop(asked.key)
                if any(each.match.agent not in avoid for each in plan.targets):
                    continue
                if delays_s is None:
                    delays_s = self._connection.retry.delays_s(self._rng)
                plan = await self._resolve_again(asked, avoid, delays_s, error)

    def pick(self, targets: Sequence[Target], plan: Plan) -> Target | None:
        """Return whom to ask; None: nobody may be asked just now."""
        now_s = self._connection.loop.time()
        found = choose(targets, self._rng, now_s, fresh=now_s - plan.at_s <= FRESH_S)
        return found  # type: ignore[return-value]  # of targets

    def begin(self, target: Target) -> None:
        """Take note that a request goes to it. In any thread."""
        peer = target.peer
        with self._lock:
            peer.own += 1
        if peer.breaker.until_s:
            peer.breaker.begin()

    def give_up(self, target: Target) -> None:
        """Take note that it was not asked after all. In any thread."""
        peer = target.peer
        with self._lock:
            peer.own -= 1
        peer.breaker.abandon()

    def end(self, target: Target, error: BaseException | None) -> None:
        """Take note how it ended. In any thread."""
        peer = target.peer
        with self._lock:
            peer.own -= 1
        if error is None:
            if peer.breaker.failures:
                peer.breaker.succeed()
        elif isinstance(error, SiraError):
            if error.code in _ITS_OWN:
                peer.breaker.fail(self._connection.loop.time())
            elif peer.breaker.failures:  # it has answered
                peer.breaker.succeed()
        else:
            peer.breaker.abandon()

    def receipt(self, target: Target, plan: Plan, query: str, tries: int, lane: Any) -> CallReceipt:
        """Return what the reply carries."""
        return self._receipt(
            target.match,
            tries=tries,
            lane=lane or self._connection.lane,
            query=query,
            is_shortlist=plan.is_shortlist,
            rate=self.rate,
        )

    async def _try(self, asked: Asked, plan: Plan, target: Target, *, alone: bool) -> Any:
        asked.tries += 1
        deadline = asked.deadline
        repeatable = self._may_repeat(asked, target)
        if repeatable and not alone and deadline.timeout_s is not None:
            # One that does not answer must leave another the time to.
            deadline = Deadline(deadline.left_s() / 2, self._connection.loop)
        self.begin(target)
        error: BaseException | None = None
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
            self.end(target, error)
        reply.context = self.receipt(target, plan, asked.query, asked.tries, reply.context)
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

    # ---- finding ---------------------------------------------------------------------------------

    async def _resolve(self, asked: Asked, exclude: AbstractSet[str] = frozenset()) -> Plan:
        """Ask the registry who can do it, and keep the answer. Raises NoMatch."""
        if self._watching is None or self._watching.done():
            self._watching = self._start(self._watch(), "sira-registry-watch")
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
        best = matches[0]
        if best.confidence < asked.confidence_min:
            raise no_match(asked.query or request.capability, matches, unsure=True)
        targets = [
            Target(each, self._peer(each))
            for each in matches
            if each is best or _is_as_good(each, best)
        ]
        plan = Plan(targets, self._connection.loop.time(), matches.is_shortlist)
        if not exclude:
            self._kept.put(asked.key, plan, epoch=epoch)
        return plan

    async def _resolve_again(
        self, asked: Asked, avoid: set[str], delays_s: Any, failure: SiraError
    ) -> Plan:
        """Find others than those in `avoid`, which did not answer; when there are none, all anew.

        Raises:
            SiraError: `failure`, where nobody is found in time.
        """
        while True:
            try:
                return await self._resolve(asked, avoid)
            except NoMatch:
                pass
            avoid.clear()
            delay_s = next(delays_s)
            if asked.deadline.left_s() <= delay_s:
                raise failure
            await asyncio.sleep(delay_s)

    def _peer(self, match: Match) -> Peer:
        peer = self._peers.get(match.agent)
        if peer is None or peer.generation != match.generation:
            peer = Peer(match.agent, match.generation, match.max_in_flight)
            self._peers[match.agent] = peer
        return peer

    def _refresh(self, asked: Asked, plan: Plan) -> None:
        """Have the registry tell of load again, beside the call."""
        plan.refreshing = True
        again = Asked(
            asked.key, asked.make_request, asked.query, None,
            Deadline(_LOOK_TIMEOUT_S, self._connection.loop), False, {}, asked.confidence_min,
        )  # fmt: skip

        async def refresh() -> None:
            try:
                await self._resolve(again)
            except SiraError as error:
                _log.debug("load could not be asked for again: %s", error)
                plan.refreshing = False

        self._start(refresh(), "sira-load-again")

    @staticmethod
    def _left_s(deadline: Deadline) -> float | None:
        return None if deadline.timeout_s is None else deadline.left_s()

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

    # ---- what moves in the registry --------------------------------------------------------------

    async def _watch(self) -> None:
        """Be told when something has moved, as long as the connection lives."""
        connection, loop = self._connection, self._connection.loop
        delays_s = connection.retry.delays_s(self._rng)
        while connection.ended is None:
            transport = await connection.up(Deadline(None, loop))
            stream = transport.stream(_WATCH, metadata=connection.metadata())
            lost: SiraError | None = None
            try:
                wanted = registry_pb2.RegistryWatchRequest(revisions_only=True)
                await stream.write(wanted.SerializeToString())
                await stream.done_writing()
                while (frame := await stream.read()) is not None:
                    delays_s = connection.retry.delays_s(self._rng)
                    told = registry_pb2.RegistryWatchResponse.FromString(frame)
                    if self._kept.told(told.revision, told.state_version):
                        self._moved()
            except SiraError as error:
                lost = error
            finally:
                self._kept.lost()
                stream.cancel()
            if lost is not None and lost.code not in TRANSIENT:
                # Each call asks the registry then; the next one tries to watch again.
                _log.warning("the registry cannot be watched: %s", lost)
                return
            connection.lost(transport, lost)
            await asyncio.sleep(next(delays_s))

    def _moved(self) -> None:
        """See to the agents that are waited for: one of them may be gone."""
        if not any(peer.own for peer in self._peers.values()):
            return
        if self._looking is None or self._looking.done():
            self._looking = self._start(self._look(), "sira-look-after")
        else:
            self._look_again = True

    async def _look(self) -> None:
        """Have the calls fail whose agents are gone."""
        while True:
            self._look_again = False
            waited = [peer for peer in self._peers.values() if peer.own]
            await asyncio.gather(*[self._look_at(peer) for peer in waited])
            if not self._look_again:
                return
            await asyncio.sleep(_LOOK_S)

    async def _look_at(self, peer: Peer) -> None:
        try:
            answer = await self._connection.unary(
                _LIST, registry_pb2.ListAgentsRequest(name=peer.name),
                registry_pb2.ListAgentsResponse, timeout_s=_LOOK_TIMEOUT_S,
            )  # fmt: skip
        except SiraError as error:
            _log.debug("%s could not be asked about: %s", peer.name, error)
            return
        now = next((each for each in answer.agents if each.registration.name == peer.name), None)
        why, is_gone = _fate(now, peer)
        if why:
            await asyncio.sleep(_LAST_ANSWER_S)
            lost = PeerLost(f"agent {peer.name}: {why}", details={"agent": peer.name})
            self._requests.abandon(f"agents.{peer.name}.", lost, repeatable_only=not is_gone)

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
            _log.debug("%s ended: %r", task.get_name(), error)


def _fate(now: registry_pb2.Agent | None, peer: Peer) -> tuple[str, bool]:
    """Return what has become of an agent that is waited for ("": nothing), and whether for good.

    Of one that does not beat another may be asked, where that does no harm; one whose loop is
    behind is at work.
    """
    if now is None:
        return "it is not registered any more", True
    if now.generation != peer.generation:
        return "another instance has its name", True
    if now.state.status == registry_pb2.AGENT_STATUS_DOWN:
        return now.state.reason or "it is down", True
    if now.state.status == registry_pb2.AGENT_STATUS_SUSPECT and now.state.lag_ms < _LAGS_MS:
        return now.state.reason or "it is suspect", False
    return "", False


def _is_as_good(match: Match, best: Match) -> bool:
    """Whether a match may be taken in the place of the best one, for load alone."""
    return match.twin == best.twin and match.agent != best.agent and match.status == best.status


def no_match(asked: str, matches: Matches, *, unsure: bool = False) -> NoMatch:
    """Return the error of a call that nobody fits: why, and who came next."""
    if unsure:
        reason = f"{matches[0].agent} is right in {matches[0].confidence:.0%} of such cases"
    else:
        reason = matches.reason or "no agent can do it"
    details = {"reason": reason, "revision": str(matches.revision)}
    for number, each in enumerate((*matches, *matches.runners_up)[:5], 1):
        why = "; ".join(str(reason) for reason in each.reasons)
        details[f"runner_up_{number}"] = f"{each.agent} {each.capability}: {why}"
    return NoMatch(
        f"nobody for {asked[:200]!r}: {reason}" if asked else f"nobody fits: {reason}",
        details=details,
        help="`sira find TEXT --explain` says who came next and why not; or start an agent",
    )
