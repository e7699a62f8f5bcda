"""Goals of the rows about the door, from results made up here: what is divided by what."""

from __future__ import annotations

import io
from typing import Any

import pytest

from benches import goals, report, stats
from benches.harness import Result
from benches.nodes import (
    DENIED_TOPIC,
    DENYING_RULE,
    LIMITED_TOPIC,
    WIDE_LIMITS,
    limits_text,
    rules_text,
)
from benches.rows import tls
from sira import _native
from sira.kernel.admission.admission import Admission
from sira.kernel.admission.limits import parse as parse_limits
from sira.kernel.authorize import Allow, Deny
from sira.kernel.errors import RateLimited
from sira.kernel.identity import Principal
from sira.kernel.policy.rules import parse as parse_rules

ANONYMOUS = Principal("local", "default", "user", "anonymous")


def result(row: str, system: str, payload_bytes: int | None = None, **samples: Any) -> Result:
    params = {} if payload_bytes is None else {"payload_bytes": payload_bytes}
    return Result(row, system, params, samples=samples)


def value_of(results: list[Result], words: str) -> tuple[float, bool | None]:
    (found,) = [v for v in goals.verdicts(results) if words in v.goal.title]
    return found.value, found.met


def test_the_share_that_tls_keeps_is_compared_with_the_share_raw_grpcio_keeps() -> None:
    """Within each repeat, and the median of those: here 0.5/0.5, 0.6/0.5 and 0.9/0.6."""
    mib = 1 << 20
    results = [
        result("tls", "sira", mib, gb_per_s=[1.0, 1.0, 1.0]),
        result("tls", "sira-tls", mib, gb_per_s=[0.5, 0.6, 0.9]),
        result("tls", "grpc", mib, gb_per_s=[2.0, 2.0, 2.0]),
        result("tls", "grpc-tls", mib, gb_per_s=[1.0, 1.0, 1.2]),
    ]
    assert value_of(results, "TLS, 1 MiB") == (pytest.approx(1.2), True)
    value, met = value_of(results, "TLS, 16 MiB")
    assert value != value and met is None  # not measured
    results[1].samples["gb_per_s"] = [0.4, 0.4, 0.4]
    assert value_of(results, "TLS, 1 MiB") == (pytest.approx(0.8), False)


def test_raw_grpcio_whose_bytes_were_made_beforehand_is_a_comparison_of_its_own() -> None:
    mib = 1 << 20
    results = [
        result("tls", "sira", 16 * mib, gb_per_s=[1.0]),
        result("tls", "sira-tls", 16 * mib, gb_per_s=[0.6]),
        result("tls", "grpc", 16 * mib, gb_per_s=[2.0]),
        result("tls", "grpc-tls", 16 * mib, gb_per_s=[1.6]),
        result("tls", "grpc-ready", 16 * mib, gb_per_s=[4.0]),
        result("tls", "grpc-tls-ready", 16 * mib, gb_per_s=[2.0]),
    ]
    assert value_of(results, "TLS, 16 MiB") == (pytest.approx(0.75), False)
    assert value_of(results, "ready bytes, 16 MiB") == (pytest.approx(1.2), True)
    value, met = value_of(results[:4], "ready bytes, 16 MiB")
    assert value != value and met is None  # not measured


def test_the_tls_row_sends_ready_bytes_both_ways_beside_the_systems_it_compares() -> None:
    for group in tls.groups(quick=True)[1:]:
        assert [each.system for each in group] == [
            "sira", "sira-tls", "grpc", "grpc-tls", "grpc-ready", "grpc-tls-ready",
        ]  # fmt: skip
        assert len({each.params["payload_bytes"] for each in group}) == 1


def test_small_messages_over_tls_are_found_beside_the_large_ones_of_the_row() -> None:
    large = [result("tls", s, 1 << 20, gb_per_s=[1.0]) for s in ("sira", "sira-tls")]
    plain = result("tls", "sira", 256, latency_us_p50=[100.0], messages_per_s=[1_000.0])
    over = result("tls", "sira-tls", 256, latency_us_p50=[130.0], messages_per_s=[900.0])
    results = [*large, plain, over]
    assert value_of(results, "TLS, rtt p50") == (pytest.approx(1.3), False)
    assert value_of(results, "TLS, rate") == (pytest.approx(0.9), True)


def test_what_the_door_costs_is_a_difference_within_each_repeat() -> None:
    name = "server_cpu_us_per_message"
    results = [
        result("rules", "sira", **{name: [1.0, 3.0, 2.0]}),
        result("rules", "sira-10-rules", **{name: [1.0, 3.0, 2.0]}),
        result("rules", "sira-10k-rules", **{name: [1.2, 3.3, 2.0]}),
        result("rules", "sira-10k-limits", **{name: [1.5, 3.2, 3.5]}),
    ]
    assert value_of(results, "authorize + admit") == (pytest.approx(0.5), True)
    assert value_of(results, "10,000 rules, CPU") == (pytest.approx(1.1), False)


def test_a_row_of_several_kinds_is_printed_as_several_tables_and_every_figure_is_there() -> None:
    results = [
        result("tls", "sira", 256, latency_us_p50=[111.0]),
        result("tls", "grpc", 256),
        result("tls", "sira", 1 << 20, gb_per_s=[0.222]),
        result("tls", "sira", 1 << 24, gb_per_s=[0.333]),
    ]
    results[1].status, results[1].detail = "failed", "it fell over"
    machine = {
        "cpu": "x", "cores": 2, "memory_gib": 1, "kernel": "6", "commit": "abc",
        "eventfd_round_trip_us": 1.0, "memcpy_gb_per_s": {"warm": 1.0, "new_pages": 1.0},
        "load_average": [0.0], "malloc_environment": {}, "versions": {},
    }  # fmt: skip
    out = io.StringIO()
    run = {"repeats": 1, "load_average_after": [0.0]}
    report.print_tables(results, [], machine, run, out, width=160)
    text = out.getvalue()
    assert text.count("tls: TLS 1.3") == 2
    for shown in ("111", "0.222", "0.333", "it fell over"):
        assert shown in text


def test_ratios_of_a_row_are_of_the_same_percentile() -> None:
    figures = stats.alone_and_beside([100.0] * 100, [100.0] * 98 + [500.0] * 2)
    assert figures["p50_ratio"] == 1.0 and figures["p99_ratio"] == 5.0
    assert figures["requests"] == 100


@pytest.mark.parametrize("count", [10, 10_000])
def test_the_tables_of_rules_let_the_flow_through_and_deny_the_topic_of_the_probe(
    count: int,
) -> None:
    policy = parse_rules(rules_text(count), file="policy.toml")
    for action in ("publish", "subscribe"):
        assert isinstance(policy(ANONYMOUS, action, "bench.flow", {}), Allow)
    denied = policy(ANONYMOUS, "publish", DENIED_TOPIC, {})
    assert isinstance(denied, Deny) and DENYING_RULE in denied.reason
    assert isinstance(policy(ANONYMOUS, "publish", "elsewhere", {}), Deny)


def test_the_limits_of_the_row_ask_three_buckets_of_each_message_and_stop_only_the_probe() -> None:
    admission = Admission(parse_limits(limits_text(*WIDE_LIMITS)))
    assert len(admission.for_route(ANONYMOUS, "bench.flow")) == 3
    narrow = admission.for_route(ANONYMOUS, LIMITED_TOPIC)
    _native.admit(narrow, LIMITED_TOPIC, 1, 256, 10**9)
    with pytest.raises(RateLimited):
        _native.admit(narrow, LIMITED_TOPIC, 1, 256, 10**9)
