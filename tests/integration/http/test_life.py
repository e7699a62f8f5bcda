"""The listener beside its node: either may die and come back; both end in order."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import psutil
import pytest

import sira
from sira.testing import Node

from .calls import Http, listening, until

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture
def node_and_http() -> Iterator[tuple[Node, Http]]:
    with listening(restart_s_min=0.01) as both:
        yield both


def listener_pid(node: Node) -> int:
    """Return the process of the listener, 0 while there is none."""
    children = psutil.Process(node.supervisor_pid).children()
    return next((each.pid for each in children if each.pid != node.pid), 0)


def ready(http: Http) -> int:
    try:
        return http.get("/readyz").status
    except OSError:
        return 0


def test_it_is_a_process_of_its_own_that_holds_no_folder(
    node_and_http: tuple[Node, Http],
) -> None:
    node, _ = node_and_http
    pid = listener_pid(node)
    assert pid and pid != node.pid
    assert not [each for each in psutil.Process(pid).open_files() if "node.lock" in each.path]


def test_a_node_that_is_stopped_makes_it_unready_and_it_recovers(
    node_and_http: tuple[Node, Http],
) -> None:
    node, http = node_and_http
    assert http.post("/v1/publish/lab.x", "x").status == 200
    with http.events("lab.x") as events:
        first = node.pid
        os.kill(first, signal.SIGSTOP)
        problem = http.get("/readyz")
        assert problem.status in (503, 504) and http.get("/healthz").status == problem.status
        os.kill(first, signal.SIGKILL)
        until(lambda: node.pid not in (0, first), "another life of the node")
        until(lambda: ready(http) == 200, "it is ready again")
        answer = until(
            lambda: (a := http.post("/v1/publish/lab.x", "again")).status == 200
            and a.json["matched"] and a,
            "both are back, callers and listeners",
        )  # fmt: skip
        assert answer.json["matched"] == 1
        assert events.message()["text"] == "again"


def test_a_listener_that_dies_comes_back_on_its_port_and_the_node_stays(
    node_and_http: tuple[Node, Http],
) -> None:
    node, http = node_and_http
    first, of_node = listener_pid(node), node.pid
    with sira.connect_sync(node.url) as bus, bus.subscribe("sira.child.*") as facts:
        os.kill(first, signal.SIGKILL)
        until(lambda: listener_pid(node) not in (0, first), "another life of the listener")
        until(lambda: ready(http) == 200, "it listens again")
        assert facts.next(timeout_s=60).topic == "sira.child.ended"
    assert node.pid == of_node


def test_the_end_in_order_ends_streams_of_events_with_a_word(
    node_and_http: tuple[Node, Http],
) -> None:
    node, http = node_and_http
    with http.events("lab.x") as events:
        os.kill(listener_pid(node), signal.SIGTERM)
        said = events.next()
        assert said["event"] == "end", said
        assert events.next() == {}
    until(lambda: ready(http) == 200, "it is started again")
    assert node.stop() == 0


def test_a_caller_that_leaves_takes_its_request_with_it() -> None:
    """What was held for it is given back long before anybody answers or its time is over."""
    half = 700 << 10
    with (
        listening(http_held_bytes_max=1 << 20, http_body_bytes_max=1 << 20) as (node, http),
        sira.connect_sync(node.url) as bus,
        bus.subscribe("lab.ask") as asked,
    ):
        head = (
            f"POST /v1/request/lab.ask?timeout_s=3600 HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: application/octet-stream\r\nContent-Length: {half}\r\n\r\n"
        )
        caller = http.raw(head.encode() + bytes(half))
        assert asked.next(timeout_s=60).reply_to, "it is on its way, and never answered"
        body, kind = bytes(half), "application/octet-stream"
        http.post("/v1/publish/lab.x", body, kind).problem(429, "QUOTA_EXCEEDED")
        caller.close()
        until(
            lambda: http.post("/v1/publish/lab.x", body, kind).status == 200,
            "there is room for another body",
        )


def test_nothing_is_left_behind(node_and_http: tuple[Node, Http]) -> None:
    node, _ = node_and_http
    pids = [node.pid, listener_pid(node)]
    node.kill()
    until(lambda: not any(psutil.pid_exists(pid) for pid in pids), "all are gone")
