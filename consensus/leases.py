"""Leases: who holds a right, until when, who waits for it. Pure: time is committed time.

A claim is a row of the table `leases`. It holds (it has a fencing token) or stands in line. What is
kept here beside the rows can be made from them again.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field

from sira.consensus.rows import Rows
from sira.kernel.errors import BadRequest, Conflict, NotFound, QuotaExceeded
from sira.v1 import tables_pb2

TABLE = "leases"
# Part of what an entry means, so equal on all nodes and no settings: another number would need
# another `TableEntry.version`.
TTL_MS_MIN, TTL_MS_MAX = 100, 24 * 3_600_000
WAIT_MS_MAX = 24 * 3_600_000
CLAIMS_PER_LEASE_MAX = 1_024  # holders and those in line
CLAIMS_PER_TENANT_MAX = 100_000
_HOLDERS_NAMED = 8

_Claim = tables_pb2.LeaseClaim


def key_of(claim: tables_pb2.LeaseClaim) -> str:
    """Return the key of a claim's row: in order of names, then of asking."""
    return f"{claim.tenant}/{claim.name}/{claim.ticket:016x}"


@dataclass(slots=True)
class _Lease:
    """One name: claims by ticket, in order of asking."""

    holding: dict[int, tables_pb2.LeaseClaim] = field(default_factory=dict)
    waiting: dict[int, tables_pb2.LeaseClaim] = field(default_factory=dict)

    def takes(self, limit: int) -> bool:
        """Whether one more may hold it, with its own idea of how many may at once."""
        return len(self.holding) < min([limit, *(each.limit for each in self.holding.values())])


class Leases:
    """All leases of a state. Changes rows through `rows` alone."""

    def __init__(self, rows: Rows) -> None:
        """Begin with none."""
        self._rows = rows
        self.tickets = 0  # the last ones given
        self.tokens = 0
        self._leases: dict[tuple[str, str], _Lease] = {}
        self._due: list[tuple[int, int, str, str]] = []  # heap of (expires_ms, ticket, whose, name)
        self._count: Counter[str] = Counter()  # claims, by tenant

    # ---- commands --------------------------------------------------------------------------------

    def acquire(self, asked: tables_pb2.LeaseAcquire, now_ms: int) -> tables_pb2.LeaseClaim:
        """Grant, put in line, or refuse.

        Raises:
            BadRequest: a number outside its limits.
            Conflict: others hold it, and the claim does not wait.
            QuotaExceeded: too many claims, of the lease or of the tenant.
        """
        _check(asked)
        at = asked.tenant, asked.name
        lease = self._leases.get(at, _Lease())
        granted = not lease.waiting and lease.takes(asked.limit)
        if not granted and not asked.wait_ms:
            raise _held(asked.name, lease)
        if len(lease.holding) + len(lease.waiting) >= CLAIMS_PER_LEASE_MAX:
            raise _too_many("claims of one lease", CLAIMS_PER_LEASE_MAX)
        if self._count[asked.tenant] >= CLAIMS_PER_TENANT_MAX:
            raise _too_many("claims of one tenant", CLAIMS_PER_TENANT_MAX)
        self.tickets += 1
        claim = _Claim(
            tenant=asked.tenant,
            name=asked.name,
            principal=asked.principal,
            holder=asked.holder,
            limit=asked.limit,
            ttl_ms=asked.ttl_ms,
            ticket=self.tickets,
            expires_ms=now_ms + asked.wait_ms,
        )
        self._leases[at] = lease
        self._count[asked.tenant] += 1
        if granted:
            return self._grant(lease, claim, now_ms)
        lease.waiting[claim.ticket] = claim
        self._write(claim, "waiting")
        return claim

    def renew(self, asked: tables_pb2.LeaseRenew, now_ms: int) -> tables_pb2.LeaseClaim:
        """Hold a lease for its time again, from now on.

        Raises:
            NotFound: nothing is held under this ticket by this principal: it has ended.
            BadRequest: a number outside its limits.
        """
        lease, claim = self._find(asked.tenant, asked.name, asked.ticket, asked.principal)
        if not claim.token:
            raise NotFound(
                f"claim {asked.ticket} on {asked.name!r} waits and holds nothing to renew",
                details={"lease": asked.name},
            )
        renewed = _copy(claim)
        if asked.ttl_ms:
            _check_ttl(asked.ttl_ms)
            renewed.ttl_ms = asked.ttl_ms
        renewed.expires_ms = now_ms + renewed.ttl_ms
        lease.holding[claim.ticket] = renewed
        self._write(renewed, "renewed")
        return renewed

    def release(self, asked: tables_pb2.LeaseRelease, now_ms: int) -> tables_pb2.LeaseClaim:
        """Give a lease back, or leave the line; who is next gets it in the same step.

        Raises:
            NotFound: there is no such claim of this principal any more.
        """
        _, claim = self._find(asked.tenant, asked.name, asked.ticket, asked.principal)
        self._end(claim, "released" if claim.token else "left", now_ms)
        return claim

    # ---- time ------------------------------------------------------------------------------------

    def due_ms(self) -> int | None:
        """Return the committed time at which the next claim ends; None: there is none."""
        while self._due:
            expires_ms, ticket, tenant, name = self._due[0]
            claim = self._claim(tenant, name, ticket)
            if claim is not None and claim.expires_ms == expires_ms:
                return expires_ms
            heapq.heappop(self._due)  # renewed meanwhile, or gone
        return None

    def pass_time(self, now_ms: int) -> None:
        """End what has ended by `now_ms`, and grant what is free by it."""
        while (due_ms := self.due_ms()) is not None and due_ms <= now_ms:
            _, ticket, tenant, name = heapq.heappop(self._due)
            claim = self._claim(tenant, name, ticket)
            assert claim is not None, "due_ms looked"
            self._end(claim, "expired" if claim.token else "waited", now_ms)

    # ---- from rows -------------------------------------------------------------------------------

    def restored(self, tickets: int, tokens: int) -> None:
        """Make what is kept here from the rows of a snapshot."""
        self.tickets, self.tokens = tickets, tokens
        claims = [_Claim.FromString(row.value) for row in self._rows.copy_of(TABLE)]
        for claim in sorted(claims, key=lambda each: each.ticket):
            lease = self._leases.setdefault((claim.tenant, claim.name), _Lease())
            (lease.holding if claim.token else lease.waiting)[claim.ticket] = claim
            self._count[claim.tenant] += 1
            self._due.append((claim.expires_ms, claim.ticket, claim.tenant, claim.name))
        heapq.heapify(self._due)

    # ---- inside ----------------------------------------------------------------------------------

    def _claim(self, tenant: str, name: str, ticket: int) -> tables_pb2.LeaseClaim | None:
        lease = self._leases.get((tenant, name))
        if lease is None:
            return None
        return lease.holding.get(ticket) or lease.waiting.get(ticket)

    def _find(
        self, tenant: str, name: str, ticket: int, principal: str
    ) -> tuple[_Lease, tables_pb2.LeaseClaim]:
        claim = self._claim(tenant, name, ticket)
        if claim is None or claim.principal != principal:
            raise NotFound(
                f"no claim {ticket} on {name!r} is yours: it has ended, or never was",
                details={"lease": name, "ticket": str(ticket)},
                help="acquire the lease again; what it guarded may be somebody else's now",
            )
        return self._leases[tenant, name], claim

    def _grant(
        self, lease: _Lease, claim: tables_pb2.LeaseClaim, now_ms: int
    ) -> tables_pb2.LeaseClaim:
        self.tokens += 1
        granted = _copy(claim)
        granted.token = self.tokens
        granted.expires_ms = now_ms + claim.ttl_ms
        lease.holding[claim.ticket] = granted
        self._write(granted, "granted")
        return granted

    def _end(self, claim: tables_pb2.LeaseClaim, reason: str, now_ms: int) -> None:
        """End a claim; those first in line get what is free now."""
        at = claim.tenant, claim.name
        lease = self._leases[at]
        (lease.holding if claim.token else lease.waiting).pop(claim.ticket)
        self._count[claim.tenant] -= 1
        if not self._count[claim.tenant]:
            del self._count[claim.tenant]
        self._rows.delete(TABLE, key_of(claim), reason=reason)
        while lease.waiting:
            first = next(iter(lease.waiting.values()))
            # Its own time may be up in this very step, too: nobody waits for the answer then.
            if first.expires_ms <= now_ms or not lease.takes(first.limit):
                break
            del lease.waiting[first.ticket]
            self._grant(lease, first, now_ms)
        if not lease.holding and not lease.waiting:
            del self._leases[at]

    def _write(self, claim: tables_pb2.LeaseClaim, reason: str) -> None:
        self._rows.put(TABLE, key_of(claim), claim.SerializeToString(), reason=reason)
        heapq.heappush(self._due, (claim.expires_ms, claim.ticket, claim.tenant, claim.name))


def _copy(claim: tables_pb2.LeaseClaim) -> tables_pb2.LeaseClaim:
    copied = _Claim()
    copied.CopyFrom(claim)
    return copied


def _check(asked: tables_pb2.LeaseAcquire) -> None:
    if not 1 <= asked.limit <= CLAIMS_PER_LEASE_MAX:
        raise _outside("limit", asked.limit, 1, CLAIMS_PER_LEASE_MAX)
    _check_ttl(asked.ttl_ms)
    if asked.wait_ms > WAIT_MS_MAX:
        raise _outside("wait_ms", asked.wait_ms, 0, WAIT_MS_MAX)


def _check_ttl(ttl_ms: int) -> None:
    if not TTL_MS_MIN <= ttl_ms <= TTL_MS_MAX:
        raise _outside("ttl_ms", ttl_ms, TTL_MS_MIN, TTL_MS_MAX)


def _outside(field_: str, value: int, least: int, most: int) -> BadRequest:
    return BadRequest(f"{field_} = {value} is outside {least} to {most}", details={"field": field_})


def _too_many(what: str, limit: int) -> QuotaExceeded:
    return QuotaExceeded(f"{what}: at most {limit}", details={"limit": str(limit)})


def _held(name: str, lease: _Lease) -> Conflict:
    holders = [f"{each.principal} {each.holder}".strip() for each in lease.holding.values()][
        :_HOLDERS_NAMED
    ]
    return Conflict(
        f"lease {name!r} is held by {', '.join(holders) or 'nobody yet, but others wait for it'}",
        details={
            "lease": name,
            "holders": ", ".join(holders),
            "holding": str(len(lease.holding)),
            "waiting": str(len(lease.waiting)),
        },
        help="wait for it (`wait_s`), or look who holds it",
    )
