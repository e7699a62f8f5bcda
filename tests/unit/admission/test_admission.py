"""Which buckets a route gets, what is counted, and what stays when limits change."""

from __future__ import annotations

import weakref

import pytest

from sira import _native
from sira.kernel.admission import admission as module
from sira.kernel.admission.admission import Admission
from sira.kernel.admission.limits import Limit
from sira.kernel.errors import QuotaExceeded, RateLimited
from sira.kernel.identity import Principal
from tests.garbage import collected

ALICE = Principal("c", "lab", "user", "alice")
BOB = Principal("c", "lab", "user", "bob")
EVE = Principal("c", "shop", "user", "eve")
EACH = Limit("each", "principal", messages_per_s=1)
TENANT = Limit("lab", "tenant", "lab", held_bytes=1_000)
CAMS = Limit("cams", "topic", "cam.>", messages_per_s=1)


def _names(buckets: tuple[_native.Bucket, ...]) -> list[tuple[str, str]]:
    return [(bucket.limit, bucket.key) for bucket in buckets]


def test_a_route_without_a_limit_carries_none() -> None:
    assert Admission().for_route(ALICE, "a.b") == ()
    assert Admission((CAMS,)).for_route(ALICE, "lab.x") == ()
    assert Admission((Limit("c", "tenant", connections=1),)).for_route(ALICE, "lab.x") == ()


def test_routes_of_the_same_holder_get_the_same_bucket() -> None:
    admission = Admission((EACH, TENANT, CAMS))
    of_alice = admission.for_route(ALICE, "cam.x")
    assert _names(of_alice) == [("each", str(ALICE)), ("lab", "lab"), ("cams", "cam.x")]
    of_bob = admission.for_route(BOB, "cam.x")
    assert of_bob[0] is not of_alice[0] and of_bob[1:] == of_alice[1:]
    assert _names(admission.for_route(EVE, "a")) == [("each", str(EVE))]
    assert admission.for_route(ALICE, "cam.y")[0] is of_alice[0]


def test_calls_count_with_the_messages_of_their_caller_but_for_no_topic() -> None:
    admission = Admission((EACH, Limit("t", "topic", messages_per_s=1e-9)), clock_ns=lambda: 0)
    admission.check(ALICE, "/sira.v1.Bus/Call")
    with pytest.raises(RateLimited) as caught:
        admission.check(ALICE, "/sira.v1.Bus/Call")
    assert caught.value.retry_after_ms == 1_000
    assert caught.value.details == {
        "limit": "each",
        "key": str(ALICE),
        "topic": "/sira.v1.Bus/Call",
    }
    admission.check(BOB, "/sira.v1.Bus/Call")
    with pytest.raises(RateLimited):
        _native.admit(admission.for_route(ALICE, "a"), "a", 1, 0, 0)


def test_a_changed_limit_holds_at_once_and_forgets_nothing_that_was_used() -> None:
    admission = Admission((EACH, TENANT), clock_ns=lambda: 0)
    (bucket, _) = admission.for_route(ALICE, "a")
    admission.check(ALICE, "/m")
    admission.change((Limit("each", "principal", messages_per_s=4), CAMS))
    assert _names(admission.for_route(ALICE, "a")) == [("each", str(ALICE))]
    assert admission.for_route(ALICE, "a")[0] is bucket
    with pytest.raises(RateLimited) as caught:
        admission.check(ALICE, "/m")
    assert caught.value.retry_after_ms == 250
    admission.change(())
    admission.check(ALICE, "/m")
    assert admission.for_route(ALICE, "a") == ()


def test_who_is_told_hears_which_limit_and_whose() -> None:
    told: list[tuple[str, str]] = []
    limits = EACH, Limit("few", "tenant", connections=1)
    admission = Admission(
        limits, clock_ns=lambda: 0, on_refusal=lambda limit, key: told.append((limit.name, key))
    )
    admission.check(ALICE, "/m")
    with pytest.raises(RateLimited):
        admission.check(ALICE, "/m")
    admission.take("connections", ALICE)
    with pytest.raises(QuotaExceeded):
        admission.take("connections", BOB)
    assert told == [("each", str(ALICE)), ("few", "lab")]


def test_counts_are_kept_for_a_principal_and_his_tenant() -> None:
    admission = Admission(
        (Limit("two", "principal", connections=2), Limit("three", "tenant", connections=3))
    )
    admission.take("connections", ALICE)
    admission.take("connections", ALICE)
    with pytest.raises(QuotaExceeded) as caught:
        admission.take("connections", ALICE)
    assert caught.value.details == {
        "limit": "two",
        "key": str(ALICE),
        "what": "connections",
        "allowed": "2",
    }
    assert admission.counted("connections", ALICE) == 2  # the refused one is not counted
    admission.take("connections", BOB)
    with pytest.raises(QuotaExceeded, match="'three': lab has 3 connections"):
        admission.take("connections", BOB)
    admission.take("connections", EVE)
    admission.take("topics", ALICE)  # another count
    admission.give("connections", ALICE)
    admission.take("connections", BOB)
    admission.give("topics", ALICE)
    with pytest.raises(AssertionError):
        admission.give("topics", ALICE)


def test_what_was_there_before_a_limit_came_counts() -> None:
    admission = Admission()
    admission.take("topics", ALICE)
    admission.change((Limit("one", "tenant", topics=1),))
    with pytest.raises(QuotaExceeded):
        admission.take("topics", BOB)
    admission.give("topics", ALICE)
    admission.take("topics", BOB)


def test_idle_buckets_are_forgotten_and_those_in_use_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_BUCKETS_MAX", 10)
    now_ns = 0
    admission = Admission((CAMS,), clock_ns=lambda: now_ns)
    admission._sweep_at = 10
    hub = _native.Hub(encode_error=lambda error: b"")
    kept = admission.for_route(ALICE, "cam.kept")
    route = _native.Route(hub.declare("cam.kept"), [], buckets=kept)
    used = admission.for_route(ALICE, "cam.used")
    _native.admit(used, "cam.used", 1, 0, now_ns)
    for index in range(100):
        admission.for_route(ALICE, f"cam.t{index}")
    assert len(admission._buckets) <= 10
    assert admission.for_route(ALICE, "cam.kept") == kept
    assert admission.for_route(ALICE, "cam.used") == used
    del route


def test_a_bucket_keeps_nothing_alive() -> None:
    """It is no part of the garbage collector's graph, so what it held would never be freed."""
    admission = Admission((EACH,), on_refusal=lambda limit, key: None)
    (bucket,) = admission.for_route(ALICE, "a")
    gone = weakref.ref(admission)
    del admission
    assert collected(gone)
    _native.admit((bucket,), "a", 1, 0, 0)
    with pytest.raises(RateLimited):
        _native.admit((bucket,), "a", 1, 0, 0)
