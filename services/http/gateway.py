"""The way to the node: its Unix socket, and a client for each caller that publishes or listens.

Nothing here decides who may do what. A caller is the `Authorization` header it sent ("": none);
what the node makes of it is asked on one shared connection before a client of its own is made, so
that made-up tokens cost no connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from grpc_health.v1 import health_pb2

from sira.client.bus import Bus
from sira.client.retry import Retry
from sira.client.security import Settled
from sira.client.transport import GrpcTransport
from sira.kernel.errors import (
    Denied,
    NotFound,
    QuotaExceeded,
    Revoked,
    SiraError,
    Unauthenticated,
    Unreachable,
)
from sira.v1 import kernel_pb2

_ASK_S = 5.0
_WORD_S = 5.0
_HEALTH_S = 2.0
# A caller that is busy comes back sooner; one that left holds two streams on the node no longer.
_IDLE_S = 60.0
_KNOWN_S = 1.0  # how long an answer about who a caller is holds
_KNOWN_MAX = 1_024
_AUTHORIZATION = "authorization"
_CHECK = "/grpc.health.v1.Health/Check"
_SERVING = int(health_pb2.HealthCheckResponse.SERVING)
CAN_DO_WITHOUT = ("redis",)  # names in a node's health of what it may use


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class _Handed(Settled):
    """Shows what the caller has shown, as it is: what proves something is the node's to say."""

    header: str = ""

    def authorization(self) -> list[tuple[str, str]]:
        """Return the metadata."""
        return _shown(self.header)


class _CallersBus(Bus):
    """A bus whose publishes wait for the node's word longer than for room.

    A stream of which a rate refused something rests for up to 100 ms, and what waits for room is
    looked at each 50: who gives less time would hear that there was no answer, and not why.
    """

    def _publish_s(self, timeout_s: float | None) -> float:
        return super()._publish_s(timeout_s) + (_WORD_S if timeout_s is not None else 0.0)


@dataclass(slots=True, eq=False)
class _Client:
    """A caller's client, and how many calls use it now."""

    bus: Bus
    opening: asyncio.Task[Bus]
    users: int = 0
    closing: asyncio.TimerHandle | None = field(default=None)


class Gateway:
    """One node, seen from the HTTP listener. Belongs to its loop."""

    def __init__(self, path: Path, *, clients_max: int) -> None:
        """Prepare; the first call connects.

        Args:
            path: the Unix socket.
            clients_max: callers with a client of their own at once.
        """
        self._address = f"unix:{path}"
        self._clients_max = clients_max
        self._loop = asyncio.get_running_loop()
        self._shared = GrpcTransport(self._address)
        self._clients: dict[str, _Client] = {}  # by what they show; the longest unused first
        self._known: dict[str, tuple[str, float]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def clients(self) -> int:
        """Callers that have a client now."""
        return len(self._clients)

    async def close(self) -> None:
        """Leave the node."""
        for shown in list(self._clients):
            self._drop(shown)
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._shared.close()

    # ---- asking ----------------------------------------------------------------------------------

    async def principal(self, shown: str) -> str:
        """Return who a caller is.

        Raises:
            Unauthenticated: what it shows proves nothing, or it shows nothing and must.
            Unreachable: the node does not answer.
        """
        known = self._known.get(shown)
        now_s = self._loop.time()
        if known is not None and known[1] > now_s:
            return known[0]
        answer = kernel_pb2.NegotiateResponse.FromString(
            await self._ask(
                "/sira.v1.Kernel/Negotiate",
                kernel_pb2.NegotiateRequest(protocol_min=1, protocol_max=1).SerializeToString(),
                shown,
            )
        )
        if not answer.principal:
            raise Unauthenticated("the call shows no token")
        self._known.pop(shown, None)
        self._known[shown] = answer.principal, now_s + _KNOWN_S
        while len(self._known) > _KNOWN_MAX:
            del self._known[next(iter(self._known))]
        return answer.principal

    async def known(self, shown: str) -> None:
        """Return at once for a caller that has a client here; others are asked of the node.

        Raises: as `principal`.
        """
        client = self._clients.get(shown)
        if client is None or _is_over(client):
            await self.principal(shown)

    async def metrics(self, shown: str) -> str:
        """Return the node's numbers as Prometheus reads them.

        Raises:
            Denied, Unauthenticated: the caller may not see them. Unreachable
        """
        request = kernel_pb2.StatsRequest(prometheus=True).SerializeToString()
        answer = await self._ask("/sira.v1.Kernel/Stats", request, shown)
        return kernel_pb2.StatsResponse.FromString(answer).prometheus

    async def serves(self) -> bool:
        """Return whether the node takes what is new; False: it goes down in order.

        Raises:
            Unreachable: it does not answer.
        """
        request = health_pb2.HealthCheckRequest().SerializeToString()
        answer = await self._ask(_CHECK, request, "", timeout_s=_HEALTH_S)
        status: int = health_pb2.HealthCheckResponse.FromString(answer).status
        return status == _SERVING

    async def failing(self) -> list[str]:
        """Return what of a node that serves fails and can be done without, by name.

        Raises:
            Unreachable: it does not answer.
        """
        found = []
        for name in CAN_DO_WITHOUT:
            request = health_pb2.HealthCheckRequest(service=name).SerializeToString()
            with contextlib.suppress(NotFound):  # this node has none
                answer = await self._ask(_CHECK, request, "", timeout_s=_HEALTH_S)
                if health_pb2.HealthCheckResponse.FromString(answer).status != _SERVING:
                    found.append(name)
        return found

    async def _ask(
        self, method: str, request: bytes, shown: str, *, timeout_s: float = _ASK_S
    ) -> bytes:
        transport = self._shared
        try:
            return await transport.unary(
                method, request, metadata=_shown(shown), timeout_s=timeout_s
            )
        except SiraError as error:
            if isinstance(error, Unreachable) and transport is self._shared:
                # gRPC waits longer and longer between its tries; the next call begins anew.
                self._shared = GrpcTransport(self._address)
                self._later(transport.close())
            raise

    # ---- a client of one's own -------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def bus(self, shown: str) -> AsyncIterator[Bus]:
        """Lend the client of a caller while inside.

        Raises:
            Unauthenticated: what it shows proves nothing.
            QuotaExceeded: too many callers at once.
            Unreachable: the node does not answer.
        """
        await self.known(shown)
        client = self._clients.get(shown)
        if client is None or _is_over(client):
            client = self._new(shown)
        client.users += 1
        if client.closing is not None:
            client.closing.cancel()
            client.closing = None
        try:
            try:
                yield await asyncio.shield(client.opening)
            except SiraError as error:
                cause = _cause(client, error)
                if _is_over(client) and self._clients.get(shown) is client:
                    self._drop(shown)
                raise cause from None
        finally:
            client.users -= 1
            if not client.users and self._clients.get(shown) is client:
                client.closing = self._loop.call_later(_IDLE_S, self._drop, shown)

    def _new(self, shown: str) -> _Client:
        self._clients.pop(shown, None)
        while len(self._clients) >= self._clients_max:
            idle = next((each for each, c in self._clients.items() if not c.users), None)
            if idle is None:
                raise QuotaExceeded(
                    f"{self._clients_max} callers at once, the most that this listener takes",
                    details={"setting": "http_clients_max"},
                    retryable=True,
                )
            self._drop(idle)
        bus = _CallersBus(
            "sira://localhost",
            name="http",
            dial=lambda _: GrpcTransport(self._address, security=_Handed(header=shown)),
            # HTTP has its own word for "later": 429, and `Retry-After` says when. What waited here
            # would hold its body, and its caller's other calls.
            retry=Retry(limited=False),
        )
        opening = self._loop.create_task(bus.__aenter__(), name="sira-http-client")
        client = self._clients[shown] = _Client(bus, opening)
        return client

    def _drop(self, shown: str) -> None:
        client = self._clients.pop(shown)
        if client.closing is not None:
            client.closing.cancel()

        async def close() -> None:
            client.opening.cancel()
            with contextlib.suppress(SiraError, asyncio.CancelledError):
                await client.opening
            await client.bus.close()

        self._later(close())

    def _later(self, work: object) -> None:
        task: asyncio.Task[None] = self._loop.create_task(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _is_over(client: _Client) -> bool:
    """Whether a client ended for good: refused by the node, or it never got there."""
    if not client.opening.done():
        return False
    if client.opening.cancelled() or client.opening.exception() is not None:
        return True
    try:
        client.bus.connection.check()
    except SiraError:
        return True
    return False


def _cause(client: _Client, error: SiraError) -> SiraError:
    """Return what the node said where the SDK only says that it is not connected for it."""
    if not isinstance(error, Unreachable) or _is_over(client):
        return error
    last = client.bus.connection.last_error
    return last if isinstance(last, Denied | Revoked | Unauthenticated | QuotaExceeded) else error


def _shown(header: str) -> list[tuple[str, str]]:
    return [(_AUTHORIZATION, header)] if header else []
