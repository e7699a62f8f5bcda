"""Rights that end, kept by the node: `bus.leases`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Self

from sira.client.config import request_id
from sira.client.connection import Connection
from sira.kernel.errors import NotFound, Revoked, SiraError
from sira.v1 import leases_pb2

CALL_S = 5.0
TTL_S = 30.0
_RENEWALS = 3  # in the time of a lease: two may fail
_OURS = 0.99  # of the node's second: clocks of two machines differ
_RENEW_AGAIN_S = 0.2


class Leases:
    """Leases by name."""

    def __init__(self, connection: Callable[[], Connection]) -> None:
        """Hold `connection`, which gives the connection or raises that there is none."""
        self._connection = connection

    def acquire(
        self,
        name: str,
        *,
        shared: int = 1,
        ttl_s: float = TTL_S,
        wait_s: float = 0.0,
        holder: str = "",
    ) -> Lease:
        """Return a lease; it is held while inside: `async with bus.leases.acquire("a") as lease`.

        Args:
            name: tokens joined by dots.
            shared: how many may hold it at once; 1: one alone.
            ttl_s: it ends so long after the last renewal, which comes three times as often.
            wait_s: how long to stand in line for it; 0: now or Conflict.
            holder: for people: who it is that has it.
        Raises (on entering):
            Conflict: others hold it. Timeout: it did not become free. Denied, BadTopic, BadRequest
        """
        request = leases_pb2.AcquireLeaseRequest(
            name=name,
            shared=shared,
            ttl_ms=round(ttl_s * 1e3),
            wait_ms=round(wait_s * 1e3),
            holder=holder,
        )
        return Lease(self._connection, request)


class Lease:
    """A lease that is held while inside, and renewed by itself.

    Attributes:
        lost: set when it is held no more before it was given back.
    """

    def __init__(
        self, connection: Callable[[], Connection], request: leases_pb2.AcquireLeaseRequest
    ) -> None:
        """Prepare; see `Leases.acquire`."""
        self._connection, self._request = connection, request
        self._held: leases_pb2.Lease | None = None
        self._until_s = 0.0
        self._renewing: asyncio.Task[None] | None = None
        self.lost = asyncio.Event()

    @property
    def name(self) -> str:
        """Its name."""
        return self._request.name

    @property
    def token(self) -> int:
        """Fencing token: larger than that of whoever held it before.

        Give it to what the lease guards, which refuses smaller ones than it has seen.

        Raises:
            Revoked: the lease is held no more.
        """
        self.check()
        assert self._held is not None, "checked"
        return self._held.token

    @property
    def left_s(self) -> float:
        """How long it is held for sure, s, counted on this side; 0: it is not."""
        return 0.0 if self.lost.is_set() else max(0.0, self._until_s - _now_s())

    def check(self) -> None:
        """Raise unless it is held for sure.

        Raises:
            Revoked: it is not: it has ended, or could not be renewed in time.
        """
        if self._held is None or not self.left_s:
            raise Revoked(
                f"lease {self.name!r} is not held any more",
                details={"lease": self.name},
                help="acquire it again; what it guarded may be somebody else's now",
            )

    async def __aenter__(self) -> Self:
        """Acquire it, and begin to renew it."""
        assert self._renewing is None, "a lease is entered once"
        wait_s = self._request.wait_ms / 1e3
        if not wait_s:  # it may be asked for again when the connection is lost
            self._request.request_id = request_id()
        connection, begun_s = self._connection(), _now_s()
        self._held = await connection.unary(
            "/sira.v1.Leases/Acquire",
            self._request,
            leases_pb2.Lease,
            timeout_s=wait_s + CALL_S,
            repeatable=not wait_s,
        )
        self._until_s = begun_s + self._request.ttl_ms / 1e3 * _OURS
        if wait_s:  # granted later than it was asked for: from when on, only a renewal tells
            try:
                await self._renew()
            except BaseException:
                await self._give_back()
                raise
        self._renewing = connection.loop.create_task(self._renew_on(), name="sira-lease")
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Give it back."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
        await self._give_back()

    async def _give_back(self) -> None:
        held, self._held = self._held, None
        if held is None or self.lost.is_set():
            return
        with contextlib.suppress(SiraError):  # else it ends by itself
            await self._connection().unary(
                "/sira.v1.Leases/Release",
                leases_pb2.ReleaseLeaseRequest(name=self.name, ticket=held.ticket),
                leases_pb2.ReleaseLeaseResponse,
                timeout_s=min(CALL_S, held.ttl_ms / 1e3),
            )

    async def _renew(self) -> None:
        """Hold it from before this is sent on."""
        assert self._held is not None, "held"
        begun_s, ttl_s = _now_s(), self._request.ttl_ms / 1e3
        left_s = self._until_s - begun_s
        await self._connection().unary(
            "/sira.v1.Leases/Renew",
            leases_pb2.RenewLeaseRequest(name=self.name, ticket=self._held.ticket),
            leases_pb2.Lease,
            timeout_s=left_s if left_s > 0 else min(CALL_S, ttl_s),
        )
        self._until_s = begun_s + ttl_s * _OURS

    async def _renew_on(self) -> None:
        wait_s = self._request.ttl_ms / 1e3 / _RENEWALS
        while True:
            await asyncio.sleep(min(wait_s, max(0.0, self._until_s - _now_s())))
            if self._until_s <= _now_s():
                self.lost.set()
                return
            try:
                await self._renew()
                wait_s = self._request.ttl_ms / 1e3 / _RENEWALS
            except NotFound:
                self.lost.set()
                return
            except SiraError:  # until its time is over
                wait_s = min(wait_s, _RENEW_AGAIN_S)


def _now_s() -> float:
    """Return CLOCK_BOOTTIME, s: it goes on while this machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
