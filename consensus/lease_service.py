"""`sira.v1.Leases`: rights that end, for any client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from sira.consensus import leases
from sira.consensus.part import TablesPart
from sira.consensus.rows import Change
from sira.consensus.serving import check_name, check_taking, parts_of, request_of, seen_by
from sira.consensus.tables import raise_refusal
from sira.kernel.edge.door import Call
from sira.kernel.errors import NotFound, Timeout
from sira.kernel.methods import Method, TopicClass, method
from sira.kernel.parts import Host
from sira.v1 import leases_pb2, tables_pb2

_GRANTED = "granted"
_ENDS = frozenset({"released", "expired"})  # of who held it; who only waited is no fact


class LeasesPart:
    """Serves leases from the tables. A claim is its principal's: nobody else renews or ends it."""

    def __init__(self, tables: TablesPart) -> None:
        """Serve from `tables`, which start before this."""
        self._part = tables
        self._host: Host | None = None
        self._leaving: set[asyncio.Task[None]] = set()

    def methods(self) -> Iterable[Method]:
        """Return the entries for the table."""
        of = leases_pb2.DESCRIPTOR.services_by_name["Leases"].methods_by_name
        pb = leases_pb2
        return [
            method(of["Acquire"], self.acquire, effects="once",
                   summary="hold a lease, alone or with others; wait in line for it, or fail",
                   request=pb.AcquireLeaseRequest, response=pb.Lease),
            method(of["Renew"], self.renew, effects="idempotent",
                   summary="hold it for its time again, from now on",
                   request=pb.RenewLeaseRequest, response=pb.Lease),
            method(of["Release"], self.release, effects="idempotent",
                   summary="give it back, or leave the line; the next in line has it at once",
                   request=pb.ReleaseLeaseRequest, response=pb.ReleaseLeaseResponse),
            method(of["Watch"], self.watch, effects="read",
                   summary="all claims, then every change",
                   request=pb.WatchLeasesRequest, response=pb.WatchLeasesResponse),
        ]  # fmt: skip

    def topic_classes(self) -> Iterable[TopicClass]:
        """Return none."""
        return ()

    async def start(self, host: Host) -> None:
        """Begin to say who has what."""
        self._host = host
        self._part.tables.listen(self._changed)

    def tick(self) -> None:
        """The tables look at the clock themselves."""

    async def stop(self) -> None:
        """Wait until those who left have left."""
        if self._leaving:
            await asyncio.wait(set(self._leaving))

    # ---- methods ---------------------------------------------------------------------------------

    async def acquire(
        self, call: Call, request: leases_pb2.AcquireLeaseRequest
    ) -> leases_pb2.Lease:
        """Grant a lease, at once or when those before in line have had it.

        Raises:
            BadTopic, BadRequest: a name or number that cannot be.
            Denied: the rules say no to `lease` on this name.
            Conflict: others hold it. Timeout: it was waited for in vain.
            NotFound: asked for before under this `request_id`, and it has ended.
        """
        check_name(request.name)
        check_taking(call)
        call.world.bus.may(call.credential, "lease", request.name)
        command = tables_pb2.TableCommand(
            lease_acquire=tables_pb2.LeaseAcquire(
                tenant=call.principal.tenant,
                name=request.name,
                principal=str(call.principal),
                holder=request.holder[:256],
                limit=max(1, request.shared),
                ttl_ms=request.ttl_ms,
                wait_ms=request.wait_ms,
            )
        )
        request_of(call, request.request_id, command)
        result = raise_refusal(await self._part.tables.propose(command))
        return self._lease(await self._granted(result.lease, may_leave=not request.request_id))

    async def renew(self, call: Call, request: leases_pb2.RenewLeaseRequest) -> leases_pb2.Lease:
        """Hold a lease longer.

        Raises:
            NotFound: it has ended. Denied: the rules say no by now.
        """
        call.world.bus.may(call.credential, "lease", request.name)
        asked = tables_pb2.LeaseRenew(
            tenant=call.principal.tenant,
            name=request.name,
            principal=str(call.principal),
            ticket=request.ticket,
            ttl_ms=request.ttl_ms,
        )
        command = tables_pb2.TableCommand(lease_renew=asked)
        return self._lease(raise_refusal(await self._part.tables.propose(command)).lease)

    async def release(
        self, call: Call, request: leases_pb2.ReleaseLeaseRequest
    ) -> leases_pb2.ReleaseLeaseResponse:
        """Give a lease back.

        Raises:
            NotFound: it has ended already.
        """
        asked = tables_pb2.LeaseRelease(
            tenant=call.principal.tenant,
            name=request.name,
            principal=str(call.principal),
            ticket=request.ticket,
        )
        command = tables_pb2.TableCommand(lease_release=asked)
        raise_refusal(await self._part.tables.propose(command))
        return leases_pb2.ReleaseLeaseResponse()

    async def watch(self, call: Call, request: leases_pb2.WatchLeasesRequest) -> None:
        """Write all claims that the caller may see, then each change, until it leaves."""
        seen = seen_by(call, request.pattern)
        since = request.since if request.HasField("since") else None
        tenant = call.principal.tenant
        async for revision, snapshot, changes, more in parts_of(
            self._part.tables, leases.TABLE, tenant, since
        ):
            answer = leases_pb2.WatchLeasesResponse(revision=revision, snapshot=snapshot, more=more)
            for change in changes:
                claim = _claim_of(change)
                if seen(claim.name):
                    answer.changes.add(
                        lease=self._lease(claim), reason=change.reason, ended=change.row is None
                    )
            if answer.changes or snapshot:
                await call.write(answer)

    # ---- inside ----------------------------------------------------------------------------------

    async def _granted(
        self, claim: tables_pb2.LeaseClaim, *, may_leave: bool
    ) -> tables_pb2.LeaseClaim:
        """Wait until a claim is granted; who gives up leaves the line, unless it may ask again."""
        tables, key = self._part.tables, leases.key_of(claim)
        try:
            while True:
                row = tables.get(leases.TABLE, key)
                if row is None:
                    break
                found = tables_pb2.LeaseClaim.FromString(row.value)
                if found.token:
                    return found
                await tables.changed(leases.TABLE, key)
        except asyncio.CancelledError:
            if may_leave:
                self._leave(claim)
            raise
        if claim.token:
            raise NotFound(
                f"lease {claim.name!r} was granted to this request, and has ended",
                details={"lease": claim.name},
            )
        raise Timeout(f"lease {claim.name!r} did not become free in time")

    def _leave(self, claim: tables_pb2.LeaseClaim) -> None:
        async def leaves() -> None:
            asked = tables_pb2.LeaseRelease(
                tenant=claim.tenant,
                name=claim.name,
                principal=claim.principal,
                ticket=claim.ticket,
            )
            # What it is refused with says that the claim has ended, or will by itself.
            await asyncio.gather(
                self._part.tables.propose(tables_pb2.TableCommand(lease_release=asked)),
                return_exceptions=True,
            )

        task = asyncio.get_running_loop().create_task(leaves(), name="sira-lease-left")
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _lease(self, claim: tables_pb2.LeaseClaim) -> leases_pb2.Lease:
        return leases_pb2.Lease(
            name=claim.name,
            ticket=claim.ticket,
            token=claim.token,
            ttl_ms=claim.ttl_ms,
            left_ms=max(0, claim.expires_ms - self._part.tables.now_ms),
            shared=claim.limit,
            principal=claim.principal,
            holder=claim.holder,
        )

    def _changed(self, revision: int, changes: tuple[Change, ...]) -> None:
        """Say in its tenant's world that a lease was granted, or is held no more."""
        del revision
        for change in changes:
            if change.table != leases.TABLE or change.reason not in (_GRANTED, *_ENDS):
                continue
            assert self._host is not None, "started"
            claim = _claim_of(change)
            told: dict[str, str | int] = {
                "lease": claim.name,
                "token": claim.token,
                "principal": claim.principal,
            }
            bus = self._host.bus_if(claim.tenant)
            if bus is None:
                continue  # nobody of the tenant has come in this life of the node
            events = bus.events
            if change.reason == _GRANTED:
                events.emit("sira.lease.granted", **told)
            else:
                events.emit("sira.lease.ended", reason=change.reason.upper(), **told)


def _claim_of(change: Change) -> tables_pb2.LeaseClaim:
    """Return the claim that a change is of: as it is, or as it was when it ended."""
    row = change.row or change.before
    assert row is not None, "a change has one or the other"
    return tables_pb2.LeaseClaim.FromString(row.value)
