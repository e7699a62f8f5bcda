"""Configuration in the state: versions, what was expected, history, the way back."""

from __future__ import annotations

from typing import Any

from sira.consensus import config, snapshot
from sira.v1 import tables_pb2


def _set(bench: Any, value: bytes, key: str = "app.a", **more: Any) -> tables_pb2.TableResult:
    asked = tables_pb2.ConfigSet(
        tenant="t", key=key, value=value, principal="ann", time_ns=7, **more
    )
    result: tables_pb2.TableResult = bench.apply(config_set=asked).result
    return result


def _rollback(bench: Any, version: int, **more: Any) -> tables_pb2.TableResult:
    asked = tables_pb2.ConfigRollback(
        tenant="t", key="app.a", version=version, principal="bob", time_ns=9, **more
    )
    result: tables_pb2.TableResult = bench.apply(config_rollback=asked).result
    return result


def _versions(bench: Any, key: str = "app.a") -> list[tables_pb2.ConfigVersion]:
    rows = bench.state.rows.scan(config.HISTORY, config.history_prefix("t", key))
    return [tables_pb2.ConfigVersion.FromString(row.value) for row in rows]


def test_each_set_makes_a_version_that_says_by_whom_and_when(bench: Any) -> None:
    assert _set(bench, b"1").config.version == 1
    made = _set(bench, b"2").config
    assert (made.version, made.value, made.principal, made.time_ns) == (2, b"2", "ann", 7)
    assert [each.value for each in _versions(bench)] == [b"1", b"2"]


def test_a_set_may_demand_the_version_that_it_replaces(bench: Any) -> None:
    assert _set(bench, b"1", expected_version=0).config.version == 1
    refused = _set(bench, b"2", expected_version=0)
    assert refused.error.code == "CONFLICT" and refused.error.details["version"] == "1"
    assert _set(bench, b"2", expected_version=1).config.version == 2


def test_a_rollback_is_a_version_more_and_says_whose_value_it_has(bench: Any) -> None:
    _set(bench, b"1"), _set(bench, b"2")
    made = _rollback(bench, 1, expected_version=2).config
    assert (made.version, made.value, made.rolled_back_to) == (3, b"1", 1)
    assert made.principal == "bob"
    assert _rollback(bench, 1, expected_version=2).error.code == "CONFLICT"
    assert _rollback(bench, 4).error.code == "NOT_FOUND"


def test_a_hundred_versions_of_each_key_are_kept(bench: Any) -> None:
    for number in range(103):
        _set(bench, str(number).encode())
    assert [each.version for each in _versions(bench)] == list(range(4, 104))
    assert _rollback(bench, 3).error.code == "NOT_FOUND"
    assert _rollback(bench, 4).config.value == b"3"


def test_versions_of_one_key_are_not_those_of_a_longer_one(bench: Any) -> None:
    _set(bench, b"1"), _set(bench, b"2", key="app.ab")
    assert [each.value for each in _versions(bench)] == [b"1"]


def test_a_tenant_has_so_many_keys_also_after_a_restart(bench: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(config, "KEYS_PER_TENANT_MAX", 2)
    _set(bench, b"1"), _set(bench, b"1", key="app.b")
    assert _set(bench, b"1", key="app.c").error.code == "QUOTA_EXCEEDED"
    bench.state = snapshot.restore(snapshot.sections(snapshot.picture(bench.state)))
    assert _set(bench, b"1", key="app.c").error.code == "QUOTA_EXCEEDED"
    assert _set(bench, b"2").config.version == 2


def test_a_value_over_64_kib_is_refused(bench: Any) -> None:
    assert _set(bench, bytes((64 << 10) + 1)).error.code == "MESSAGE_TOO_LARGE"
    assert _set(bench, bytes(64 << 10)).config.version == 1
