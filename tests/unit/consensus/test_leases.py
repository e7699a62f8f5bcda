"""Leases: who holds, who waits, when it ends; tokens only grow; all of it from entries alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sira.consensus import snapshot
from sira.consensus.state import ENTRY_VERSION, State
from sira.v1 import tables_pb2


def test_an_exclusive_lease_has_one_holder_and_a_refusal_names_it(bench: Any) -> None:
    first = bench.acquire(who="sira://c/t/user/ann", holder="ann's laptop").lease
    assert (first.token, first.expires_ms) == (1, 1_000)
    refused = bench.acquire(who="sira://c/t/user/bob")
    assert refused.error.code == "CONFLICT"
    assert "sira://c/t/user/ann ann's laptop" in refused.error.message


def test_a_shared_lease_has_as_many_holders_as_the_least_generous_of_them_allows(
    bench: Any,
) -> None:
    assert bench.acquire(limit=3).lease.token
    assert bench.acquire(limit=2).lease.token
    assert bench.acquire(limit=3).error.code == "CONFLICT"  # one of two holds it
    assert bench.acquire(limit=1).error.code == "CONFLICT"


def test_a_lease_ends_by_committed_time_and_the_next_in_line_has_it_in_the_same_step(
    bench: Any,
) -> None:
    bench.acquire(ttl_ms=500)
    second = bench.acquire(wait_ms=5_000, ttl_ms=300).lease
    third = bench.acquire(wait_ms=5_000).lease
    assert not second.token and not third.token
    assert [each.reason for each in bench.apply(499).changes] == []
    assert [each.reason for each in bench.apply(1).changes] == ["expired", "granted"]
    granted = bench.claims()[second.ticket]
    assert (granted.token, granted.expires_ms) == (2, 800)
    assert bench.state.due_ms() == 800


def test_who_waits_too_long_leaves_the_line(bench: Any) -> None:
    bench.acquire(ttl_ms=60_000)
    waits = bench.acquire(wait_ms=200).lease
    applied = bench.apply(200)
    assert [(c.key, c.reason) for c in applied.changes] == [(f"t/a/{waits.ticket:016x}", "waited")]


def test_nobody_passes_the_line(bench: Any) -> None:
    held = bench.acquire(limit=2).lease
    alone = bench.acquire(limit=1, wait_ms=5_000).lease  # waits for all others to leave
    assert bench.acquire(limit=2).error.code == "CONFLICT"
    later = bench.acquire(limit=2, wait_ms=5_000).lease
    bench.release(held.ticket)
    claims = bench.claims()
    assert claims[alone.ticket].token and not claims[later.ticket].token


def test_one_that_leaves_the_line_lets_those_behind_it_in(bench: Any) -> None:
    bench.acquire(limit=2)
    alone = bench.acquire(limit=1, wait_ms=5_000).lease
    behind = bench.acquire(limit=2, wait_ms=5_000).lease
    bench.release(alone.ticket)
    assert bench.claims()[behind.ticket].token


def test_a_renewed_lease_lives_on_from_now(bench: Any) -> None:
    held = bench.acquire(ttl_ms=1_000).lease
    renewed = bench.renew(held.ticket, elapsed_ms=900).lease
    assert (renewed.token, renewed.expires_ms) == (held.token, 1_900)
    assert bench.renew(held.ticket, elapsed_ms=900, ttl_ms=5_000).lease.expires_ms == 6_800
    assert bench.renew(held.ticket, elapsed_ms=5_000).error.code == "NOT_FOUND"


def test_a_claim_is_its_principals_alone(bench: Any) -> None:
    held = bench.acquire(who="ann").lease
    assert bench.renew(held.ticket, who="bob").error.code == "NOT_FOUND"
    assert bench.release(held.ticket, who="bob").error.code == "NOT_FOUND"
    assert bench.release(held.ticket, name="b", who="ann").error.code == "NOT_FOUND"
    assert not bench.release(held.ticket, who="ann").HasField("error")
    assert bench.release(held.ticket, who="ann").error.code == "NOT_FOUND"


def test_who_waits_has_nothing_to_renew(bench: Any) -> None:
    bench.acquire()
    waits = bench.acquire(wait_ms=1_000).lease
    assert bench.renew(waits.ticket).error.code == "NOT_FOUND"


@pytest.mark.parametrize(
    "asked",
    [{"limit": 0}, {"limit": 1_025}, {"ttl_ms": 99}, {"ttl_ms": 86_400_001},
     {"wait_ms": 86_400_001}],
)  # fmt: skip
def test_numbers_outside_their_limits_are_refused(bench: Any, asked: dict[str, int]) -> None:
    assert bench.acquire(**asked).error.code == "BAD_REQUEST"
    assert not bench.state.rows.tables()


def test_a_lease_has_a_limit_of_claims(bench: Any) -> None:
    for _ in range(1_024):
        bench.acquire(wait_ms=1_000)
    assert bench.acquire(wait_ms=1_000).error.code == "QUOTA_EXCEEDED"


def test_leases_of_two_names_know_nothing_of_each_other(bench: Any) -> None:
    for name in ("a", "a/b", "a/0000000000000001", "b"):
        assert bench.acquire(name).lease.token


class Machine(RuleBasedStateMachine):
    """Any run of commands and time; now and then the state is made anew from a snapshot."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State()
        self.tokens: list[int] = []
        self.granted: dict[int, int] = {}  # ticket -> token
        self.tickets: list[tuple[str, int]] = []

    def apply(self, elapsed_ms: int, **command: Any) -> tables_pb2.TableResult:
        entry = tables_pb2.TableEntry(version=ENTRY_VERSION, elapsed_ms=elapsed_ms)
        entry.command.CopyFrom(tables_pb2.TableCommand(**command))
        applied = self.state.apply(entry)
        for change in applied.changes:
            if change.reason == "granted" and change.row is not None:
                claim = tables_pb2.LeaseClaim.FromString(change.row.value)
                assert claim.token > max(self.tokens, default=0)
                self.tokens.append(claim.token)
                assert self.granted.setdefault(claim.ticket, claim.token) == claim.token
        return applied.result

    @rule(
        name=st.sampled_from("ab"),
        limit=st.integers(1, 3),
        ttl_ms=st.integers(100, 400),
        wait_ms=st.sampled_from([0, 100, 300]),
        elapsed_ms=st.integers(0, 150),
    )
    def acquire(self, name: str, limit: int, ttl_ms: int, wait_ms: int, elapsed_ms: int) -> None:
        asked = tables_pb2.LeaseAcquire(
            tenant="t", name=name, principal="p", limit=limit, ttl_ms=ttl_ms, wait_ms=wait_ms
        )
        result = self.apply(elapsed_ms, lease_acquire=asked)
        if not result.HasField("error"):
            self.tickets.append((name, result.lease.ticket))

    @rule(which=st.integers(0, 50), elapsed_ms=st.integers(0, 150), gone=st.booleans())
    def renew_or_release(self, which: int, elapsed_ms: int, gone: bool) -> None:
        if not self.tickets:
            return
        name, ticket = self.tickets[which % len(self.tickets)]
        if gone:
            asked = tables_pb2.LeaseRelease(tenant="t", name=name, principal="p", ticket=ticket)
            self.apply(elapsed_ms, lease_release=asked)
        else:
            renew = tables_pb2.LeaseRenew(tenant="t", name=name, principal="p", ticket=ticket)
            self.apply(elapsed_ms, lease_renew=renew)

    @rule()
    def restore(self) -> None:
        before = snapshot.picture(self.state)
        made = [
            tables_pb2.TableSnapshot.FromString(each.SerializeToString())
            for each in snapshot.sections(before)
        ]
        self.state = snapshot.restore(made)

    @invariant()
    def holds(self) -> None:
        claims = [
            tables_pb2.LeaseClaim.FromString(row.value) for row in self.state.rows.scan("leases")
        ]
        for name in "ab":
            holding = [c for c in claims if c.name == name and c.token]
            waiting = [c for c in claims if c.name == name and not c.token]
            if holding:
                assert len(holding) <= min(c.limit for c in holding)
            if waiting:  # the first in line has no room
                assert len(holding) >= min([waiting[0].limit, *(c.limit for c in holding)])
        assert all(c.expires_ms > self.state.now_ms for c in claims)
        assert self.state.due_ms() == min((c.expires_ms for c in claims), default=None)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=40, stateful_step_count=30)
