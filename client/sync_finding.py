"""Finding agents and calling them, without `await`; see finding.py. `SyncBus` has these methods."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from typing import Any, Unpack, cast

from sira.client.bus import Bus
from sira.client.calling import RATE_S
from sira.client.envelope import Envelope, envelope
from sira.client.finding import CALL_TIMEOUT_S
from sira.client.later import Later
from sira.client.looking import CALL_S
from sira.client.matches import AgentChange, AgentInfo, Learned, Matches
from sira.client.message import Body, SyncMessage
from sira.client.plans import CONFIDENCE_MIN
from sira.client.querying import key_of, specs
from sira.client.runner import Runner
from sira.kernel.errors import SiraError


class SyncFinding(Later):
    """What asks the registry. `SyncBus` has it."""

    _bus: Bus
    _runner: Runner

    def discover(
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
        """Return who can do what is asked for, best first; see `Bus.discover`."""
        return self._runner.run(
            self._bus.discover(
                text,
                capability=capability,
                vector=vector,
                k=k,
                labels=labels,
                takes=takes,
                kind=kind,
                version=version,
                any_status=any_status,
                timeout_s=timeout_s,
            )
        )

    def call(
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
    ) -> SyncMessage:
        """Have somebody do what is asked for, and return the answer; see `Bus.call`."""
        connection = self._bus.connection
        if connection.outgoing.outbox.links and hedge_s is None:
            begun_s = time.monotonic()
            of_body = specs(body) if takes is None else None
            found = self._call_here(
                text or "",
                body,
                key_of(
                    text or "", capability, vector, version, kind, labels, takes,
                    of_body if confidence_min == CONFIDENCE_MIN else (of_body, confidence_min),
                ),
                timeout_s=timeout_s,
                idempotent=idempotent,
                fields=envelope(priority=priority, key=key, headers=headers, further=further),
            )  # fmt: skip
            if found is not None:
                return found
            if timeout_s is not None:
                timeout_s = max(0.0, timeout_s - (time.monotonic() - begun_s))
        reply = self._runner.run(
            self._bus.call(
                text,
                body,
                capability=capability,
                vector=vector,
                timeout_s=timeout_s,
                idempotent=idempotent,
                labels=labels,
                takes=takes,
                kind=kind,
                version=version,
                hedge_s=hedge_s,
                confidence_min=confidence_min,
                priority=priority,
                key=key,
                headers=headers,
                **further,
            )
        )
        return cast(SyncMessage, reply)  # `message_type` said so

    def _call_here(
        self, text: str, body: Body, key: Any, *, timeout_s: float | None, idempotent: bool,
        fields: dict[str, Any],
    ) -> SyncMessage | None:  # fmt: skip
        """Call past the node, in this thread; None: by the loop, which also tries again.

        Raises: what may not be tried again.
        """
        calls, requests = self._bus._calls, self._bus._requests
        assert calls is not None, "connected"
        assert requests is not None, "connected"
        plan = calls.kept(key)
        target = None if plan is None else calls.first(plan)
        if plan is None or target is None:
            return None
        repeatable = idempotent or target.is_repeatable
        if repeatable and len(plan.targets) > 1 and timeout_s is not None:
            timeout_s /= 2  # one that does not answer must leave another the time to
        calls.begin(target)
        try:
            until_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
            reply = requests.here.ask(
                target.match.topic,
                body,
                timeout_s=timeout_s,
                until_s=until_s,
                idempotent=repeatable,
                fields=fields,
            )
        except BaseException as error:
            calls.end(target, error, timeout_s)
            if isinstance(error, SiraError) and repeatable and calls.is_elsewhere(error):
                return None
            raise
        if reply is None:
            calls.give_up(target)
            return None
        calls.end(target, None)
        reply.context = calls.told(target, plan, text, 1, reply.context)
        return reply

    def rate(
        self,
        agent: str,
        capability: str,
        *,
        ok: bool = True,
        query: str = "",
        reset: bool = False,
        timeout_s: float | None = RATE_S,
    ) -> float:
        """Say how well a capability served; see `Bus.rate`."""
        return self._runner.run(
            self._bus.rate(agent, capability, ok=ok, query=query, reset=reset, timeout_s=timeout_s)
        )

    def learned(self, *, timeout_s: float | None = CALL_S) -> list[Learned]:
        """Return what was learned of each kind of agents; see `Bus.learned`."""
        return self._runner.run(self._bus.learned(timeout_s=timeout_s))

    def agents(
        self,
        *,
        kind: str = "",
        labels: Mapping[str, str] | None = None,
        name: str = "",
        timeout_s: float | None = CALL_S,
    ) -> list[AgentInfo]:
        """Return the registered agents, whatever their status; see `Bus.agents`."""
        return self._runner.run(
            self._bus.agents(kind=kind, labels=labels, name=name, timeout_s=timeout_s)
        )

    def watch_agents(self, *, kind: str = "", since: int = 0) -> Iterator[AgentChange]:
        """Yield the agents there are, then every change; see `Bus.watch_agents`."""
        changes = self._bus.watch_agents(kind=kind, since=since)

        async def step() -> AgentChange | None:
            return await anext(changes, None)

        async def close() -> None:
            await changes.aclose()

        try:
            while (change := self._runner.run(step())) is not None:
                yield change
        finally:
            self._runner.run(close())
