"""The rows of the benches about the door do what they say they time: small, with real nodes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benches.harness import BenchError, Case
from benches.nodes import start_ruled
from benches.rows import crowd, greedy, idle, rtt, rules, tls
from benches.systems import SIRA, start_node

pytestmark = pytest.mark.integration


def case_of(cases: list[Case], name: str) -> Case:
    (found,) = [case for case in cases if case.system == name]
    return found


def figures_of(case: Case, **smaller: Any) -> dict[str, float]:
    """Measure a case once, with some of its parameters smaller."""
    assert case.measure is not None, case.missing
    case.params.update(smaller)
    return case.measure()


@pytest.mark.parametrize("name", ["sira", "sira-tls", "grpc", "grpc-tls"])
def test_small_messages_go_over_tls_1_3_where_the_name_says_so(name: str) -> None:
    case = case_of(tls.groups(quick=True)[0], name)
    figures = figures_of(case, warmup=50, calls=50, send_s=0.1)
    assert figures.get("tls_version") == (1.3 if name.endswith("tls") else None)
    assert figures["messages_per_s"] > 0 and figures["latency_us_p99"] > 0


@pytest.mark.parametrize("name", ["sira-tls", "grpc-tls"])
def test_tensors_go_over_tls_whole(name: str) -> None:
    case = case_of(tls.groups(quick=True)[1], name)
    assert figures_of(case, warmup=4, count=8)["gb_per_s"] > 0


def test_a_plain_node_does_not_pass_for_one_with_tls() -> None:
    plain = replace(SIRA, name="sira-tls")
    params = case_of(tls.groups(quick=True)[0], "sira-tls").params
    look = partial(tls._tls_seen, wanted=True)
    with pytest.raises(BenchError, match="authority None"):
        rtt.measure(plain, {**params, "warmup": 5, "calls": 5}, seen=look)


@pytest.mark.parametrize("name", ["sira", "sira-10k-limits"])
def test_the_flow_passes_the_rules_and_limits_that_are_in_force(name: str) -> None:
    figures = figures_of(case_of(rules.groups(quick=True)[0], name), warmup=100, send_s=0.2)
    assert figures["messages_per_s"] > 0 and figures["server_cpu_us_per_message"] >= 0


@pytest.mark.parametrize(("rules_there", "limits_there"), [(10, False), (0, True)], ids=str)
def test_a_node_without_the_rules_or_limits_is_not_measured(
    rules_there: int, limits_there: bool
) -> None:
    start = partial(start_ruled, rules=rules_there, limited=limits_there)
    params = {"message_bytes": 256, "warmup": 100, "send_s": 0.1, "rules": 10, "limited": True}
    with pytest.raises(BenchError, match="wanted True, True"):
        rules.measure(replace(SIRA, start=start), params)


def test_the_greedy_tenant_is_held_to_its_limit_and_the_polite_one_is_answered() -> None:
    limited, free = greedy.groups(quick=True)[0]
    smaller = {"limit_per_s": 500, "sent_per_s": 5_000, "window_s": 0.5, "rounds": 1}
    figures = figures_of(limited, **smaller)
    assert figures["requests"] > 0 and figures["accepted_of_limit"] < figures["sent_of_limit"]
    figures = figures_of(free)  # the parameters are the same ones
    assert figures["accepted_of_limit"] == figures["sent_of_limit"] > 1


def test_more_than_the_limit_allows_is_a_failure_of_the_row() -> None:
    params = {"limit_per_s": 100}
    held = {"seconds": 1.0, "accepted": 200, "refused": 800}
    figures = greedy._greed([held], params, True)
    assert (figures["sent_of_limit"], figures["accepted_of_limit"]) == (10.0, 2.0)
    for wrong in ({"accepted": 204}, {"refused": 0}):
        with pytest.raises(BenchError, match="did not hold"):
            greedy._greed([{**held, **wrong}], params, True)
    with pytest.raises(BenchError, match="without a limit"):
        greedy._greed([held], params, False)


def test_idle_connections_are_counted_at_the_node_while_they_are_there() -> None:
    ((case,),) = idle.groups(quick=True)
    figures = figures_of(case, connections=2 * idle.PROCESSES, window_s=0.3, idle_s=0.1)
    assert figures["idle_clients_seen"] == 2 * idle.PROCESSES
    assert figures["requests"] > 0 and figures["p99_ratio"] > 0


def test_one_idle_connection_less_is_a_failure_of_the_row() -> None:
    idle._check(5, 5.0, 8)
    for clients, sockets in ((4.0, 8), (6.0, 8), (5.0, 4)):
        with pytest.raises(BenchError, match="5 idle connections"):
            idle._check(5, clients, sockets)


def test_local_clients_are_linked_and_every_message_of_the_row_comes() -> None:
    ((case,),) = crowd.groups(quick=True)
    smaller = {"clients": 4, "processes": 2, "publishers": 2, "topics": 3, "idle_s": 0.1}
    figures = figures_of(case, **smaller)
    assert figures["links_seen"] == 4 and figures["rounds"] >= 1
    assert 0 < figures["kib_per_link_shared"] < figures["client_kib"]
    assert 0 < figures["connect_ms_p50"] <= figures["connect_ms_p99"]
    assert 0 < figures["connect_cpu_ms_p50"] <= figures["connect_cpu_ms_p99"]


def test_a_link_or_a_message_less_is_a_failure_of_the_row() -> None:
    crowd.check(links=(5, 5), messages=(50, 50))
    with pytest.raises(BenchError, match="messages: 49, not 50"):
        crowd.check(links=(5, 5), messages=(49, 50))


def test_lines_of_json_carry_figures_samples_machine_and_goals(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benches", "rules", "--quick", "--json"]
    command += ["--only", "sira,sira-10k-limits", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["system"] for line in lines] == ["sira", "sira-10k-limits"]
    for line in lines:
        assert line["status"] == "ok" and line["machine"]["versions"]["sira-kernel"]
        assert line["samples"]["server_cpu_us_per_message"] == [
            line["figures"]["server_cpu_us_per_message"]
        ]
    (saved,) = tmp_path.glob("*.jsonl")
    judged = [json.loads(line) for line in saved.read_text().splitlines()[len(lines) :]]
    (cost,) = [line for line in judged if line["goal"].startswith("authorize + admit")]
    assert cost["value"] is not None and cost["at_most"] == 1


def test_a_node_that_does_not_start_says_why() -> None:
    broken = replace(SIRA, start=partial(_with_flags, flags=("--policy", "no-such-policy")))
    with pytest.raises(BenchError, match="no-such-policy"):
        rules.measure(broken, {"message_bytes": 256, "warmup": 1, "send_s": 0.1})


def _with_flags(stage: Any, port: int, *, flags: tuple[str, ...]) -> Any:
    return start_node(stage, port, *flags)
