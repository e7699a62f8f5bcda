"""Finding agents, and calling them by what they can do. `Bus` has these methods."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Unpack

from sira.client.calling import RATE_S, Calls
from sira.client.deadline import Deadline
from sira.client.envelope import Envelope, envelope
from sira.client.looking import CALL_S, Looking
from sira.client.matches import AgentChange, AgentInfo, Learned, Matches
from sira.client.message import Body, Message
from sira.client.plans import CONFIDENCE_MIN, Asked, Plan, Target
from sira.client.querying import key_of, request_of, specs, takes_of
from sira.client.requests import Requests
from sira.kernel.errors import BadRequest, SiraError
from sira.v1 import registry_pb2

CALL_TIMEOUT_S = 10.0
_REGISTRY = "/sira.v1.Registry"


def _half(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else timeout_s / 2


class Finding(Looking):
    """What asks the registry. `Bus` has it."""

    _calls: Calls | None
    _requests: Requests | None

    async def discover(
        self,
        text: str = "",
        *,
        capability: str = "",
        vector: Any = None,
        k: int = 5,
        labels: Mapping[str, str] | None = None,
        takes: Mapping[str, str] | None = None,
        kind: str = "",
        version: str = "",
        any_status: bool = False,
        timeout_s: float | None = CALL_S,
    ) -> Matches:
        """Return who can do what is asked for, best first, with the reasons.

        Args:
            text: in words; or instead:
            capability: the exact name of one; or
            vector: (embedder, values), or values of the node's embedder.
            k: how many at most.
            labels: that an agent must have.
            takes: tensor name -> what will be sent, a contract or concrete as "f32[512, 512]".
            kind: "": agents.
            version: range, as ">=1.2 <2".
            any_status: also those that are suspect, draining or down.
        Raises:
            BadRequest: not one of words, capability and vector; a range that is none.
        """
        request = request_of(
            text, capability=capability, vector_given=vector, k=k, labels=labels, takes=takes,
            kind=kind, version=version, any_status=any_status,
        )  # fmt: skip
        answer = await self.connection.unary(
            f"{_REGISTRY}/Discover", request, registry_pb2.DiscoverResponse, timeout_s=timeout_s
        )
        return Matches.from_proto(answer)

    async def call(
        self,
        text: str | None = None,
        body: Body = None,
        *,
        capability: str = "",
        vector: Any = None,
        timeout_s: float | None = CALL_TIMEOUT_S,
        idempotent: bool = False,
        labels: Mapping[str, str] | None = None,
        takes: Mapping[str, str] | None = None,
        kind: str = "",
        version: str = "",
        hedge_s: float | None = None,
        confidence_min: float = CONFIDENCE_MIN,
        priority: int = 0,
        key: str = "",
        headers: Mapping[str, str] | None = None,
        **further: Unpack[Envelope],
    ) -> Message:
        """Have somebody do what is asked for, and return the answer; `.receipt` says who, and why.

        Of agents that say the same the one with the least to do is asked. What was found is kept
        until something moves in the registry. Another agent is asked when nobody got the request,
        or, where it may be done twice, when no answer came.

        Args:
            text, capability, vector, labels, kind, version: who will do, as in `discover`.
            body: as in `request`.
            timeout_s: how long to wait for the answer, in s, all tries together.
            idempotent: doing it twice does no harm. An agent may say so itself (`effects`).
            takes: what is sent; None: as `body` is, where that is arrays; {}: not looked at.
            hedge_s: after so long without an answer, another agent is asked too (idempotent only).
            confidence_min: a match that is right less often is none; 0: the best, whatever it is.
        Raises:
            NoMatch: nothing fits: the details say why, and who came next.
            HandlerFailed: the handler raised. Timeout: no answer in time.
            PeerLost: the agent is gone. SiraError: what the handler or the node refused with.
        """
        connection, calls = self.connection, self._calls
        assert calls is not None and self._requests is not None, "connected"
        if hedge_s is not None and not hedge_s >= 0:
            raise BadRequest(f"hedge_s is {hedge_s}", help="give seconds, 0 or more")
        of_body = specs(body) if takes is None else None
        found = key_of(
            text or "", capability, vector, version, kind, labels, takes,
            of_body if confidence_min == CONFIDENCE_MIN else (of_body, confidence_min),
        )  # fmt: skip
        fields = envelope(priority=priority, key=key, headers=headers, further=further)
        deadline = Deadline(timeout_s, connection.loop)
        failed: tuple[Plan, Target, SiraError] | None = None
        plan = calls.kept(found) if hedge_s is None else None
        target = calls.first(plan) if plan is not None else None
        if plan is not None and target is not None:
            repeatable, lone = idempotent or target.is_repeatable, len(plan.targets) == 1
            calls.begin(target)
            error: BaseException | None = None
            try:
                reply = await self._requests.request(
                    topic=target.match.topic,
                    body=body,
                    deadline=deadline if lone or not repeatable else calls.part_of(deadline),
                    idempotent=repeatable,
                    fields=fields,
                )
                reply.context = calls.told(target, plan, text or "", 1, reply.context)
                return reply
            except SiraError as raised:
                error, failed = raised, (plan, target, raised)
            except BaseException as raised:
                error = raised
                raise
            finally:
                calls.end(target, error, timeout_s if lone or not repeatable else _half(timeout_s))
        asked = Asked(
            found,
            lambda: request_of(
                text or "", capability=capability, vector_given=vector, labels=labels,
                takes=takes_of(of_body) if takes is None else takes, kind=kind, version=version,
            ),
            text or "", body, deadline, idempotent, fields, confidence_min,
            tries=0 if failed is None else 1,
        )  # fmt: skip
        answer: Message = await calls.call(asked, hedge_s=hedge_s, failed=failed)
        return answer

    async def rate(
        self,
        agent: str,
        capability: str,
        *,
        ok: bool = True,
        query: str = "",
        reset: bool = False,
        timeout_s: float | None = RATE_S,
    ) -> float:
        """Say how well a capability served; `reply.receipt.rate` does so for a call.

        Args:
            query: the words it was found by; "": as a whole.
            reset: forget what was learned of it instead.
        Returns:
            By how much its score is shifted now.
        """
        answer = await self.connection.unary(
            f"{_REGISTRY}/Rate",
            registry_pb2.RateRequest(
                agent=agent, capability=capability, query=query, ok=ok, reset=reset
            ),
            registry_pb2.RateResponse,
            timeout_s=timeout_s,
            repeatable=reset,
        )
        return answer.shift

    async def learned(self, *, timeout_s: float | None = CALL_S) -> list[Learned]:
        """Return what the node has learned of each kind of agents from their examples, by kind."""
        answer = await self.connection.unary(
            f"{_REGISTRY}/Learned", registry_pb2.LearnedRequest(), registry_pb2.LearnedResponse,
            timeout_s=timeout_s,
        )  # fmt: skip
        return [Learned.from_proto(each) for each in answer.learned]

    async def agents(
        self,
        *,
        kind: str = "",
        labels: Mapping[str, str] | None = None,
        name: str = "",
        timeout_s: float | None = CALL_S,
    ) -> list[AgentInfo]:
        """Return the registered agents, whatever their status, by name.

        Args:
            kind: "": all kinds.
            labels: that an agent must have.
            name: of one alone.
        """
        deadline = Deadline(timeout_s, self.connection.loop)
        request = registry_pb2.ListAgentsRequest(kind=kind, labels=labels, name=name)
        found: list[AgentInfo] = []
        while True:
            page = await self.connection.unary(
                f"{_REGISTRY}/List",
                request,
                registry_pb2.ListAgentsResponse,
                timeout_s=None if timeout_s is None else deadline.left_s(),
            )
            found += [AgentInfo.from_proto(each) for each in page.agents]
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def watch_agents(
        self, *, kind: str = "", since: int = 0
    ) -> AsyncGenerator[AgentChange, None]:
        """Yield the agents there are, then `snapshot_end`, then every change.

        Args:
            kind: "": all kinds.
            since: a revision that was told: only the changes since then.
        Raises:
            Unreachable, SiraError: the connection was lost; `since` takes the watch up again.
        """
        connection = self.connection
        transport = await connection.up(Deadline(CALL_S, connection.loop))
        stream = transport.stream(f"{_REGISTRY}/Watch", metadata=connection.metadata())
        try:
            request = registry_pb2.RegistryWatchRequest(kind=kind, since=since)
            await stream.write(request.SerializeToString())
            await stream.done_writing()
            while (frame := await stream.read()) is not None:
                yield AgentChange.from_proto(registry_pb2.RegistryWatchResponse.FromString(frame))
        finally:
            stream.cancel()
