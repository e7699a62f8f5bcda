"""The lease under which one core of a cluster learns, of the tables that all cores share."""

from __future__ import annotations

import asyncio
from types import TracebackType

from sira.consensus.tables import Tables, raise_refusal
from sira.kernel.errors import SiraError
from sira.kernel.identity import SYSTEM
from sira.v1 import tables_pb2

NAME = "registry.learn"
TTL_S = 15.0  # so long nobody learns after the core that did was lost
_RENEWED = 3  # times in that


class Lease:
    """`async with`: it is held inside. Of the operators' tenant: no other can take it away.

    Attributes:
        token: fences what is published under it: it only grows.
    """

    def __init__(self, tables: Tables, holder: str) -> None:
        """Prepare. `holder`: for people."""
        self._tables, self._holder = tables, holder
        self._principal = f"{SYSTEM}/node"
        self._ticket = 0
        self.token = 0

    async def __aenter__(self) -> Lease:
        """Take it. Raises Conflict: another holds it. SiraError: the tables are not writable."""
        asked = tables_pb2.LeaseAcquire(
            tenant=SYSTEM, name=NAME, principal=self._principal, holder=self._holder, limit=1,
            ttl_ms=round(TTL_S * 1e3),
        )  # fmt: skip
        command = tables_pb2.TableCommand(lease_acquire=asked)
        claim = raise_refusal(await self._tables.propose(command)).lease
        self._ticket, self.token = claim.ticket, claim.token
        return self

    async def hold(self) -> None:
        """Renew it for ever. Raises SiraError: it was lost."""
        asked = tables_pb2.LeaseRenew(
            tenant=SYSTEM, name=NAME, principal=self._principal, ticket=self._ticket
        )
        while True:
            await asyncio.sleep(TTL_S / _RENEWED)
            command = tables_pb2.TableCommand(lease_renew=asked)
            raise_refusal(await self._tables.propose(command))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """Give it back; where that fails it ends by itself."""
        asked = tables_pb2.LeaseRelease(
            tenant=SYSTEM, name=NAME, principal=self._principal, ticket=self._ticket
        )
        try:
            await self._tables.propose(tables_pb2.TableCommand(lease_release=asked))
        except SiraError:
            return
