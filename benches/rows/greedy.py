"""greedy: request and reply of one tenant, alone and beside one that sends at 10 times its limit.

Both are measured in turn on one node. `sira-unlimited` is the same without the limit: then all of
it is delivered.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from benches.harness import BenchError, Case, Figures, Stage, free_port
from benches.nodes import Limit, start_tenants
from benches.stats import alone_and_beside
from benches.systems import SIRA, System, case

SUMMARY = "request/reply of a polite tenant beside one that sends at 10 times its limit"
BURST_S = 1.0


def groups(quick: bool) -> list[list[Case]]:
    """One group: with the limit, and without."""
    params = {
        "message_bytes": 256,
        "limit_per_s": 2_000,
        "sent_per_s": 20_000,
        "connections": 4,
        "requests_per_s": 250,
        "warm_s": 1.0,
        "window_s": 1.5 if quick else 4.0,
        "rounds": 2 if quick else 5,
    }
    free = partial(measure, limited=False)
    return [
        [
            case("greedy", SIRA, params, measure),
            case("greedy", SIRA, params, free, name="sira-unlimited"),
        ]
    ]


def measure(system: System, params: dict[str, Any], *, limited: bool = True) -> Figures:
    """Latencies from when a request was due, alone and beside, in turn; what the greedy one got."""
    limit: Limit = {
        "name": "greed", "scope": "tenant", "pattern": "greedy",
        "messages_per_s": params["limit_per_s"], "burst_s": BURST_S,
    }  # fmt: skip
    window_s = params["window_s"]
    alone_us: list[float] = []
    beside_us: list[float] = []
    poured: list[dict[str, Any]] = []
    with Stage(timeout_s=120) as stage:
        port = free_port()
        node, (polite, greedy) = start_tenants(
            stage, port, "polite", "greedy", limits=(limit,) if limited else ()
        )
        shared = {**params, "url": f"127.0.0.1:{port}"}
        calm = {**shared, "token_file": polite}
        echo = stage.participant(system.entry("echo_server"), calm)
        stage.hear_all([echo], "listening")
        asker = stage.participant("benches.door_side:asker_on_schedule", calm)
        flood = stage.participant("benches.door_side:greedy", {**shared, "token_file": greedy})
        stage.hear_all([asker, flood], "ready")
        node_cpu_s = [0.0, 0.0]
        for _ in range(params["rounds"]):
            for beside in (False, True):
                cpu_s = stage.cpu_s([node])
                if beside:
                    flood.say("pour", seconds=window_s)
                asker.say("ask", seconds=window_s)
                (asked,) = stage.hear_all([asker], "asked")
                (beside_us if beside else alone_us).extend(asked["samples_us"])
                if beside:
                    poured += stage.hear_all([flood], "poured")
                node_cpu_s[beside] += stage.cpu_s([node]) - cpu_s
    figures = alone_and_beside(alone_us, beside_us)
    return {**figures, **_greed(poured, params, limited), **_percent(node_cpu_s, params)}


def _percent(node_cpu_s: list[float], params: dict[str, Any]) -> Figures:
    seconds = params["window_s"] * params["rounds"]
    alone_s, beside_s = node_cpu_s
    return {
        "node_cpu_percent_alone": 100 * alone_s / seconds,
        "node_cpu_percent_beside": 100 * beside_s / seconds,
    }


def _greed(poured: list[dict[str, Any]], params: dict[str, Any], limited: bool) -> Figures:
    """What was sent and accepted, as multiples of the limit.

    Raises:
        BenchError: the limit did not hold, or refused where there is none.
    """
    limit = params["limit_per_s"]
    for pour in poured:
        allowed = limit * (pour["seconds"] + BURST_S)
        if limited and not (pour["refused"] and pour["accepted"] <= allowed * 1.01 + 1):
            raise BenchError(f"the limit of {limit}/s did not hold: {pour}")
        if not limited and pour["refused"]:
            raise BenchError(f"refused without a limit: {pour}")
    seconds = sum(pour["seconds"] for pour in poured)
    accepted = sum(pour["accepted"] for pour in poured)
    sent = accepted + sum(pour["refused"] for pour in poured)
    return {
        "sent_of_limit": sent / seconds / limit,
        "accepted_of_limit": accepted / seconds / limit,
    }
