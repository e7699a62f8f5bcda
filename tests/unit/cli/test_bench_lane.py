"""`sira bench --lane`: where it goes, what the SDK is told, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from sira.cli import bench_report
from sira.cli.bench import check_lane, lane_environ, lane_url
from sira.cli.output import CliError, UsageError

BOTH = "unix:/run/a/sira.sock,sira://127.0.0.1:7700"


@pytest.mark.parametrize(
    ("lane", "there"),
    [
        ("auto", BOTH),
        ("grpc", "sira://127.0.0.1:7700"),
        ("socket", "unix:/run/a/sira.sock"),
        ("shm", "unix:/run/a/sira.sock"),
    ],
)
def test_a_lane_goes_to_the_addresses_at_which_it_can_be_had(lane: str, there: str) -> None:
    assert lane_url(BOTH, lane) == there


@pytest.mark.parametrize(
    ("url", "lane"),
    [("sira://h:1", "shm"), ("siras://h:1", "socket"), ("unix:/a/sira.sock", "grpc")],
)
def test_a_lane_that_no_address_has_is_refused(url: str, lane: str) -> None:
    with pytest.raises(UsageError, match=f"no {lane} at"):
        lane_url(url, lane)


@pytest.mark.parametrize(
    ("lane", "shm", "direct"),
    [
        ("shm", "on", "off"),
        ("direct", "on", "on"),
        ("socket", "off", "off"),
        ("grpc", "off", "off"),
    ],
)
def test_a_lane_lends_and_passes_the_node_as_its_name_says(
    lane: str, shm: str, direct: str
) -> None:
    there = {"SIRA_SHM": shm, "SIRA_DIRECT": direct, "HOME": "/h"}
    assert lane_environ({"SIRA_SHM": "off", "HOME": "/h"}, lane) == there
    assert lane_environ({"HOME": "/h"}, lane) == there


def test_auto_leaves_the_environment_alone() -> None:
    base = {"SIRA_SHM": "off", "HOME": "/h"}
    assert lane_environ(base, "auto") == base


def test_a_receipt_that_tells_another_lane_ends_the_bench_and_says_why() -> None:
    check_lane("shm", "shm", 1)
    check_lane("auto", "grpc", 1)
    with pytest.raises(CliError) as small:
        check_lane("shm", "socket", 256)
    assert small.value.code == "UNSUPPORTED" and "64 KiB and more" in str(small.value.help)
    with pytest.raises(CliError) as large:
        check_lane("shm", "socket", 1 << 20)
    assert "sira explain" in str(large.value.help)


def assembled(lanes: dict[str, int] | None) -> dict[str, Any]:
    latency = dict.fromkeys(("p50", "p90", "p99", "p99_9", "max"), 1.0)
    source: dict[str, Any] = {"fill_us": 1.0, "send_us": 1.0, "cpu_s": 0.1, "sent": 3}
    sink = {"latency_us": latency, "measured": 3, "seconds": 1.0, "read_us": 1.0, "cpu_s": 0.1}
    return bench_report.assemble(
        pattern="pub",
        lane_asked="auto",
        payload={"dtype": "f32", "shape": [1 << 18], "bytes": 1 << 20},
        rate_target=None,
        ready={"lanes": ["shm"], "copies": 1},
        source=source if lanes is None else {**source, "lanes": lanes},
        sink={**sink, "broken": 0, "taken": 3},
        node_cpu_s=0.1,
        row={"published": 3, "delivered": 3, "unexplained": 0, "balanced": True},
    )


def test_the_report_tells_the_lane_of_most_and_how_many_took_another() -> None:
    data = assembled({"socket": 1, "shm": 2})
    assert (data["lane"], data["lanes"]) == ("shm", {"socket": 1, "shm": 2})
    data["verdict"] = bench_report.judge(data, None)
    assert "lane      shm (1 by socket, 2 by shm), copies 1" in bench_report.text(data)
    data = assembled(None)
    assert (data["lane"], data["lanes"]) == ("shm", {"shm": 1})
    data["verdict"] = bench_report.judge(data, None)
    assert "lane      shm, copies 1" in bench_report.text(data)
