"""`sira.v1.Registry`: registering, beating, finding, following. Thin: decisions are elsewhere.

Belongs to the node's loop. A registration is a row of the table `agents` first; what is answered
from is made of the rows as they are applied (`Feed`), so that there is one way in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import TypeVar

from sira.consensus.serving import check_taking
from sira.consensus.tables import Tables
from sira.kernel.authorize import Allow, Deny
from sira.kernel.edge.door import Call
from sira.kernel.errors import (
    BadRequest,
    Conflict,
    Denied,
    NotFound,
    QuotaExceeded,
    SiraError,
)
from sira.kernel.methods import Method, method
from sira.registry import feedback, following, records
from sira.registry.directory import TABLE, Entry, key_of
from sira.registry.discovery import Filter, Seen, respond
from sira.registry.feed import Agents, Feed
from sira.registry.health import Status, Vital
from sira.registry.weights import weighed
from sira.v1 import registry_pb2

_TRIES_MAX = 5
_BATCH_MAX = 1_024
_REPORTED_MAX = 256
_BEGUN_A_TURN = 4  # registrations checked in one turn of the loop, 0.2 ms each
T = TypeVar("T")


class RegistryService:
    """Serves the methods of the registry."""

    _tables: Tables
    _feed: Feed
    _agents_max: int

    def begin(self, tables: Tables, feed: Feed, *, agents_max: int) -> None:
        """Answer from `feed`, which reads `tables`; no call comes before.

        Args:
            agents_max: registrations of one tenant, at most.
        """
        self._tables, self._feed, self._agents_max = tables, feed, agents_max

    def methods(self) -> list[Method]:
        """Return the entries for the table."""
        of = registry_pb2.DESCRIPTOR.services_by_name["Registry"].methods_by_name
        pb = registry_pb2
        return [
            method(of["Register"], self.register, effects="idempotent",
                   summary="register agents with what they can do",
                   request=pb.RegisterRequest, response=pb.RegisterResponse),
            method(of["Heartbeat"], self.heartbeat, effects="idempotent",
                   summary="keep registrations alive; carries load",
                   request=pb.HeartbeatRequest, response=pb.HeartbeatResponse),
            method(of["Deregister"], self.deregister, effects="idempotent",
                   summary="take a registration away",
                   request=pb.DeregisterRequest, response=pb.DeregisterResponse),
            method(of["Discover"], self.discover, effects="read",
                   summary="find capabilities by words, vector or name, with reasons",
                   request=pb.DiscoverRequest, response=pb.DiscoverResponse),
            method(of["Rate"], self.rate, effects="once",
                   summary="say how well an answer served",
                   request=pb.RateRequest, response=pb.RateResponse),
            method(of["Report"], self.report, effects="once",
                   summary="say how calls have ended, many at once",
                   request=pb.ReportRequest, response=pb.ReportResponse),
            method(of["Watch"], self.watch, effects="read",
                   summary="all registrations, then every change",
                   request=pb.RegistryWatchRequest, response=pb.RegistryWatchResponse),
            method(of["List"], self.list, effects="read",
                   summary="registrations with status and load, by name",
                   request=pb.ListAgentsRequest, response=pb.ListAgentsResponse),
            method(of["Learned"], self.learned, effects="read",
                   summary="what was learned of each kind of agents, and what it is worth",
                   request=pb.LearnedRequest, response=pb.LearnedResponse),
        ]  # fmt: skip

    # ---- registering -----------------------------------------------------------------------------

    async def register(
        self, call: Call, request: registry_pb2.RegisterRequest
    ) -> registry_pb2.RegisterResponse:
        """Register each for itself.

        Raises:
            BadRequest: more than 1,024 at once. NodeDraining: this node goes down.
        """
        check_taking(call)
        if len(request.registrations) > _BATCH_MAX:
            raise BadRequest(f"at most {_BATCH_MAX} registrations at once",
                             details={"field": "registrations"})  # fmt: skip
        agents = self._feed.of(call.principal.tenant)
        results = await _in_turns(
            [self._register(call, agents, each) for each in request.registrations]
        )
        return registry_pb2.RegisterResponse(results=results)

    async def _register(
        self, call: Call, agents: Agents, asked: registry_pb2.Registration
    ) -> registry_pb2.Registered:
        try:
            registration = records.checked(asked)
            for capability in registration.capabilities:
                call.world.bus.may(call.credential, "subscribe", capability.topic)
            entry = await self._written(call, agents, registration)
        except SiraError as error:
            return registry_pb2.Registered(name=asked.name, error=error.to_proto())
        rules = self._feed.rules
        return registry_pb2.Registered(
            name=entry.name,
            generation=entry.agent.generation,
            revision=entry.agent.revision,
            beat_ms=rules.beat_ms,
            lease_ms=rules.lease_ms,
            topics=[each.topic for each in entry.registration.capabilities],
        )

    async def _written(
        self, call: Call, agents: Agents, registration: registry_pb2.Registration
    ) -> Entry:
        """Have a checked registration in the table and in the directory; return it.

        Raises:
            Conflict: another's name, or one that lives. QuotaExceeded: agents_max.
            SiraError: it could not be written.
        """
        tenant, principal, name = call.principal.tenant, str(call.principal), registration.name
        key = key_of(tenant, name)
        for _ in range(_TRIES_MAX):
            row = self._tables.get(TABLE, key)
            if row is None and len(agents.directory) >= self._agents_max:
                raise QuotaExceeded(
                    f"agents_max = {self._agents_max} is reached",
                    details={"setting": "agents_max", "limit": str(self._agents_max)},
                )
            if row is not None:
                old = registry_pb2.Agent.FromString(row.value)
                alive = _is_heard(agents.live.get(name))
                records.may_take_over(old, registration, principal=principal, is_alive=alive)
                if old.registration == registration:
                    entry = await self._alive_at(agents, name, row.changed)
                    if entry is not None:
                        return entry
                    continue
            # Greater than any before: whatever had the name was put at a revision of its own.
            agent = registry_pb2.Agent(
                registration=registration, generation=self._tables.revision + 1, principal=principal
            )
            try:
                done = await self._tables.transact(
                    compares=[(TABLE, key, row.changed if row is not None else 0)],
                    puts=[(TABLE, key, agent.SerializeToString())],
                )
            except Conflict:  # somebody else was faster: look again
                continue
            entry = await self._alive_at(agents, name, done.revision)
            if entry is not None:
                return entry
        raise Conflict(f"others change the registration of {name} all the time", retryable=True)

    async def _alive_at(self, agents: Agents, name: str, revision: int) -> Entry | None:
        """Let an agent live from now on that was registered at a revision; None: it has changed."""
        await self._feed.reached(revision)
        entry = agents.directory.get(name)
        if entry is None or entry.agent.revision != revision:
            return None
        agents.live.begin(name, self._feed.now_ms(), entry.agent.generation)
        return entry

    async def deregister(
        self, call: Call, request: registry_pb2.DeregisterRequest
    ) -> registry_pb2.DeregisterResponse:
        """Take a registration away.

        Raises:
            Denied: another's. Conflict: a newer instance has the name.
        """
        key = key_of(call.principal.tenant, request.name)
        for _ in range(_TRIES_MAX):
            row = self._tables.get(TABLE, key)
            if row is None:
                return registry_pb2.DeregisterResponse(revision=self._tables.revision)
            old = registry_pb2.Agent.FromString(row.value)
            self._check_owner(call, old)
            if request.generation and request.generation != old.generation:
                raise Conflict(
                    f"generation {old.generation} of {request.name} is registered",
                    details={"name": request.name},
                )
            try:
                done = await self._tables.transact(
                    compares=[(TABLE, key, row.changed)], deletes=[(TABLE, key)]
                )
            except Conflict:
                continue
            await self._feed.reached(done.revision)
            return registry_pb2.DeregisterResponse(existed=True, revision=done.revision)
        raise Conflict(f"others change the registration of {request.name}", retryable=True)

    def _check_owner(self, call: Call, agent: registry_pb2.Agent) -> None:
        """Let an agent's own principal change it, and who may administer the registry."""
        if agent.principal == str(call.principal):
            return
        name = agent.registration.name
        decision = call.world.bus.access.decide(call.credential, "administer", call.method.name)
        if isinstance(decision, Deny):
            raise Denied(f"{name} was registered by another", details={"name": name})
        call.world.bus.audit(call.principal, "administer", f"agent {name}")

    # ---- beating ---------------------------------------------------------------------------------

    async def heartbeat(self, call: Call, _: None) -> None:
        """Take beats until the stream ends; that says something of all that beat by it.

        An end in order and a lost connection look alike here (gRPC tells of the latter later), and
        mean the same: who is still there opens another stream.
        """
        agents = self._feed.of(call.principal.tenant)
        mine: dict[str, int] = {}  # name -> generation, of those that beat here
        try:
            while (request := await call.read()) is not None:
                lost = [
                    registry_pb2.Registered(name=beat.name, generation=beat.generation)
                    for beat in request.beats
                    if not self._beaten(call, agents, mine, beat)
                ]
                if lost:
                    await call.write(registry_pb2.HeartbeatResponse(lost=lost))
        finally:
            self._lose(call, agents, mine)

    def _beaten(
        self, call: Call, agents: Agents, mine: dict[str, int], beat: registry_pb2.Beat
    ) -> bool:
        """Take one beat; False: its agent is to register again."""
        entry = agents.directory.get(beat.name)
        if entry is None or entry.agent.generation != beat.generation:
            mine.pop(beat.name, None)
            return False
        if beat.name not in mine and entry.agent.principal != str(call.principal):
            return False
        mine[beat.name] = beat.generation
        return agents.live.beat(beat.name, beat, self._feed.now_ms())

    def _lose(self, call: Call, agents: Agents, mine: dict[str, int]) -> None:
        is_gone = bool(getattr(call.context, "is_lost", False))
        reason = "its process's socket has closed" if is_gone else "its beats have ended"
        for name, generation in mine.items():
            entry = agents.directory.get(name)
            if entry is not None and entry.agent.generation == generation:
                agents.live.lose(name, self._feed.now_ms(), reason=reason, is_gone=is_gone)

    # ---- finding ---------------------------------------------------------------------------------

    async def discover(
        self, call: Call, request: registry_pb2.DiscoverRequest
    ) -> registry_pb2.DiscoverResponse:
        """Find capabilities.

        Raises:
            BadRequest: no query, a filter that cannot be, a vector of another embedder.
        """
        agents = self._feed.of(call.principal.tenant)
        bus, live, now_ms = call.world.bus, agents.live, self._feed.now_ms()

        def health(entry: Entry) -> tuple[Status, str]:
            vital = live.get(entry.name)
            return (Status.DOWN, "unknown") if vital is None else (vital.status, vital.reason)

        def may_call(topic: str) -> bool:
            return isinstance(bus.access.decide(call.credential, "publish", topic), Allow)

        seen = Seen(health, lambda entry: live.state(entry.name, now_ms), may_call)
        wanted = Filter(request, seen)
        found = await agents.search.find(request, wanted)
        if agents.weights:
            named = partial(agents.search.named, wanted.kind)
            found = weighed(found, agents.weights, named, wanted)
        response = respond(found, seen, wanted.k)
        response.revision = agents.directory.revision
        response.embedder = agents.search.embedder
        return response

    async def rate(
        self, call: Call, request: registry_pb2.RateRequest
    ) -> registry_pb2.RateResponse:
        """Learn from how an answer served.

        Raises:
            NotFound: no such agent or capability.
        """
        agents = self._feed.of(call.principal.tenant)
        entry = agents.directory.get(request.agent)
        if entry is None or not any(
            each.name == request.capability for each in entry.registration.capabilities
        ):
            raise NotFound(
                f"no capability {request.capability[:80]} of an agent {request.agent[:80]}",
                details={"agent": request.agent[:80]},
            )
        if request.reset:
            self._check_owner(call, entry.agent)
        shift = await self._feed.rated(call.principal.tenant, request)
        return registry_pb2.RateResponse(shift=shift)

    async def report(
        self, call: Call, request: registry_pb2.ReportRequest
    ) -> registry_pb2.ReportResponse:
        """Take how calls have ended; of what the caller may not call nothing is taken.

        Raises:
            BadRequest: more than 256 capabilities at once.
        """
        if len(request.outcomes) > _REPORTED_MAX:
            raise BadRequest(f"at most {_REPORTED_MAX} at once", details={"field": "outcomes"})
        tenant, decide = call.principal.tenant, call.world.bus.access.decide
        directory, add = self._feed.of(tenant).directory, self._feed.outcomes.add
        for each in request.outcomes:
            entry = directory.get(each.agent)
            topic = _topic_of(entry, each.capability)
            if entry and topic and isinstance(decide(call.credential, "publish", topic), Allow):
                key = feedback.key_of(tenant, each.agent, each.capability)
                add(key, entry.agent.generation, each.worked, each.failed, each.late)
        return registry_pb2.ReportResponse()

    async def learned(
        self, call: Call, request: registry_pb2.LearnedRequest
    ) -> registry_pb2.LearnedResponse:
        """Say what agents of the caller's tenant are ranked by."""
        del request
        response = registry_pb2.LearnedResponse()
        for each in self._feed.of(call.principal.tenant).search.all_trained():
            response.learned.add(
                kind=each.kind,
                version=each.version,
                capabilities=each.entries,
                examples=each.examples,
                held_out=each.held_out,
                right=each.right,
                trained_ns=each.trained_ns,
                took_ms=each.took_ms,
                embedder=each.embedder,
            )
        return response

    # ---- following -------------------------------------------------------------------------------

    async def list(
        self, call: Call, request: registry_pb2.ListAgentsRequest
    ) -> registry_pb2.ListAgentsResponse:
        """List registrations by name, a page at a time."""
        return await following.list_agents(self._feed, call, request)

    async def watch(self, call: Call, request: registry_pb2.RegistryWatchRequest) -> None:
        """Tell what there is, then what changes."""
        await following.watch(self._feed, call, request)


def _is_heard(vital: Vital | None) -> bool:
    """Whether the instance that has a name may still be there."""
    return vital is not None and vital.status is not Status.DOWN and not vital.lost


def _topic_of(entry: Entry | None, capability: str) -> str:
    """Return where a capability is asked; "": there is none of that name."""
    found = entry.registration.capabilities if entry is not None else ()
    return next((each.topic for each in found if each.name == capability), "")


async def _in_turns(work: Sequence[Awaitable[T]]) -> list[T]:
    """Do all side by side, so that what they write leaves together; others have the loop often."""
    tasks: list[asyncio.Future[T]] = []
    try:
        for each in work:
            tasks.append(asyncio.ensure_future(each))
            if len(tasks) % _BEGUN_A_TURN == 0:
                await asyncio.sleep(0)
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
