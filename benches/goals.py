"""The goals, beside which figures are printed. Information, never an assertion.

What they are made of is in `figure.py`; those of processes of one host are in `goals_local.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from benches.figure import MIB, Figure, Goal, Verdict
from benches.goals_local import LOCAL_GOALS
from benches.harness import Result
from benches.stats import median


def _rate(system: str) -> Figure:
    return Figure("rate256", system, "messages_per_s")


def _bulk(system: str, size_mib: int) -> Figure:
    return Figure("sweep", system, "gb_per_s", size_mib)


def _rtt(system: str, name: str) -> Figure:
    return Figure("rtt256", system, f"latency_us_{name}")


def _tls(system: str, name: str, size_mib: int | None = None) -> Figure:
    return Figure("tls", system, name, size_mib)


def _ruled(system: str, name: str = "server_cpu_us_per_message") -> Figure:
    return Figure("rules", system, name)


GOALS = (
    Goal("rtt p50, of raw grpcio's", _rtt("sira", "p50"), _rtt("grpc", "p50"), 2.5, False),
    Goal("rtt p99, of raw grpcio's", _rtt("sira", "p99"), _rtt("grpc", "p99"), 3.0, False),
    Goal("rate, of raw grpcio's", _rate("sira"), _rate("grpc"), 20),
    Goal("rate, messages/s", _rate("sira"), None, 200_000),
    Goal("rate, of NATS's", _rate("sira"), _rate("nats"), 1),
    Goal("rate, of Redis's", _rate("sira"), _rate("redis"), 1),
    Goal("rate, of pyzmq's", _rate("sira"), _rate("zmq"), 0.6),
    Goal("fan-out, deliveries/s", Figure("fanout100", "sira", "deliveries_per_s"), None, 300_000),
    Goal("64 MiB, of raw grpcio's", _bulk("sira", 64), _bulk("grpc", 64), 1.5),
    Goal("1 MiB, of NATS's", _bulk("sira", 1), _bulk("nats", 1), 1),
    Goal("1 MiB, of Redis's", _bulk("sira", 1), _bulk("redis", 1), 1),
    Goal(
        "1,000 connections, messages/s, of raw grpcio's",
        Figure("conn1000", "sira", "messages_per_s"),
        Figure("conn1000", "grpc", "messages_per_s"),
        0.8,
    ),
    Goal(
        "1,000 connections, p99 at a third, µs",
        Figure("conn1000", "sira", "third_us_p99"),
        None,
        25_000,
        False,
    ),
    Goal(
        "1,000 connections, KiB each in the node",
        Figure("conn1000", "sira", "server_kib_per_connection"),
        None,
        64,
        False,
    ),
    Goal(
        "1,000 connections, idle CPU, %",
        Figure("conn1000", "sira", "idle_cpu_percent"),
        None,
        0.5,
        False,
    ),
    Goal("mixed, speed beside alone", Figure("mixed", "sira", "speed_ratio"), None, 0.6),
    Goal("mixed, p99 beside idle", Figure("mixed", "sira", "p99_ratio"), None, 6, False),
    *(
        Goal(
            f"TLS, rtt {name}, of our plain lane's",
            _tls("sira-tls", f"latency_us_{name}"),
            _tls("sira", f"latency_us_{name}"),
            1.25,
            False,
        )
        for name in ("p50", "p99")
    ),
    Goal(
        "TLS, rate, of our plain lane's",
        _tls("sira-tls", "messages_per_s"),
        _tls("sira", "messages_per_s"),
        0.85,
    ),
    Goal(
        "10,000 rules, CPU a message in the node, of 10 rules' (1, and 0.05 of noise)",
        _ruled("sira-10k-rules"),
        _ruled("sira-10-rules"),
        1.05,
        False,
    ),
    Goal(
        "10,000 rules, messages/s, of 10 rules' (1, less 0.05 of noise)",
        _ruled("sira-10k-rules", "messages_per_s"),
        _ruled("sira-10-rules", "messages_per_s"),
        0.95,
    ),
    Goal(
        "authorize + admit, CPU of the node, µs a message",
        _ruled("sira-10k-limits"),
        _ruled("sira"),
        1,
        False,
        difference=True,
    ),
    Goal(
        "greedy tenant: sent, of its limit (less: the row is void)",
        Figure("greedy", "sira", "sent_of_limit"),
        None,
        9.5,
    ),
    Goal(
        "polite tenant, p99 beside the greedy one, of alone",
        Figure("greedy", "sira", "p99_ratio"),
        None,
        2,
        False,
    ),
    *LOCAL_GOALS,
    *(
        Goal(title, Figure("registry", f"sira-{agents}", name), None, limit, at_least)
        for agents, title, name, limit, at_least in (
            (10_000, "register 10,000 agents in bulk, agents/s", "bulk_per_s", 2_000, True),
            (10_000, "register one among 10,000, p99, ms", "single_ms_p99", 5, False),
            (10_000, "Discover among 30,000, p50, ms", "discover_ms_p50", 2, False),
            (10_000, "Discover among 30,000, filtered, p50, ms", "filtered_ms_p50", 2, False),
            (10_000, "Discover among 30,000, filtered, p99, ms", "filtered_ms_p99", 10, False),
            (10_000, "the loop, 10,000 registering, ms held", "bulk_held_ms_max", 50, False),
            (33_400, "Discover among 100,000, p50, ms", "discover_ms_p50", 3, False),
            (33_400, "the loop, 100,000, ms held", "bulk_held_ms_max", 50, False),
        )
    ),
    *(
        Goal(
            f"recall@10 of {count:,} vectors, {kind}, {how or 'graph'}",
            Figure("recall", f"sira-{count}", f"{kind}_{how and how + '_'}recall_at_10"),
            None,
            0.99,
        )
        for count in (30_000, 100_000)
        for kind in ("agent", "tool")
        for how in ("", "scan")
    ),
    *(
        Goal(
            f"call of request, {lane}",
            Figure("call", lane, "ratio"),
            None,
            1.15,
            False,
        )
        for lane in (
            "sira-grpc",
            "sira-socket",
            "sira-direct",
            "sira-grpc-sync",
            "sira-socket-sync",
            "sira-direct-sync",
        )
    ),
    Goal(
        "p99 beside 5,000 idle connections, of alone",
        Figure("idle5000", "sira", "p99_ratio"),
        None,
        1.5,
        False,
    ),
)


def _within_repeats(goal: Goal, results: Sequence[Result]) -> list[float]:
    """The goal's value in each repeat that has all of it."""
    ours = goal.ours.samples(results)
    if goal.theirs is None:
        return ours
    pairs = zip(ours, goal.theirs.samples(results), strict=False)
    return [a - b if goal.difference else a / b for a, b in pairs]


def _judge(goal: Goal, values: Sequence[float]) -> Verdict:
    value = median(values)
    if not values:
        return Verdict(goal, value, None)
    return Verdict(goal, value, value >= goal.limit if goal.at_least else value <= goal.limit)


def _sweep(results: Sequence[Result]) -> list[Verdict]:
    """Goals over all sizes: each size against raw grpcio's best size, and how flat they are."""
    medians: dict[str, list[float]] = {}
    whole = all(r.samples for r in results if r.row == "sweep" and r.system in ("sira", "grpc"))
    for result in results if whole else ():
        if result.row == "sweep" and (samples := result.samples.get("gb_per_s")):
            medians.setdefault(result.system, []).append(median(samples))
    ours, theirs = medians.get("sira", []), medians.get("grpc", [])
    worst = Figure("sweep", "sira", "gb_per_s")
    best = Goal("worst size, of raw grpcio's best size", worst, worst, 0.45)
    flat = Goal("worst size, of our best size (flat is 1)", worst, worst, 0.8)
    return [
        _judge(best, [min(ours) / max(theirs)] if ours and theirs else []),
        _judge(flat, [min(ours) / max(ours)] if ours else []),
    ]


def _codec(results: Sequence[Result]) -> list[Verdict]:
    """Goals of the codec at its worst size."""
    decode = [median(r.samples["decode_us_p50"]) for r in results if r.row == "codec" and r.samples]
    figure = Figure("codec", "sira", "decode_us_p50")
    slowest = Goal("decode at the worst size, µs", figure, None, 2, False)
    share = Goal("encode at the worst size from 1 MiB, of memcpy", figure, figure, 0.9)
    large = [
        median(r.samples["encode_of_memcpy"])
        for r in results
        if r.row == "codec" and r.samples and r.params["payload_bytes"] >= MIB
    ]
    return [
        _judge(slowest, [max(decode)] if decode else []),
        _judge(share, [min(large)] if large else []),
    ]


def _kept_by_tls(results: Sequence[Result]) -> list[Verdict]:
    """GB/s over TLS as a share of plain, beside the share that raw grpcio keeps, by size."""

    def kept(plain: str, tls: str, size_mib: int) -> list[float]:
        figures = [_tls(name, "gb_per_s", size_mib).samples(results) for name in (tls, plain)]
        return [over / without for over, without in zip(*figures, strict=False)]

    found = []
    for size_mib in (1, 16):
        for title, end in (
            (f"TLS, {size_mib} MiB: share of GB/s kept, of raw grpcio's", ""),
            (f"TLS, ready bytes, {size_mib} MiB: the same, raw grpcio copying none", "-ready"),
        ):
            ours = kept("sira", "sira-tls", size_mib)
            theirs = kept(f"grpc{end}", f"grpc-tls{end}", size_mib)
            figure = _tls("sira-tls", "gb_per_s", size_mib)
            both = [a / b for a, b in zip(ours, theirs, strict=False)]
            found.append(_judge(Goal(title, figure, figure, 1), both))
    return found


def verdicts(results: Sequence[Result]) -> list[Verdict]:
    """Every goal of the rows that were run."""
    rows = {result.row for result in results}
    found = [_judge(g, _within_repeats(g, results)) for g in GOALS if g.ours.row in rows]
    if "sweep" in rows:
        found += _sweep(results)
    if "codec" in rows:
        found += _codec(results)
    if "tls" in rows:
        found += _kept_by_tls(results)
    return found
