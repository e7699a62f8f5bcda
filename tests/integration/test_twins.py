"""Two agents that say the same, each a process: one is killed while both are at work."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import sira

pytestmark = pytest.mark.integration

AGENT = """
import sys, time
import sira

agent = sira.Agent(sys.argv[2], url=sys.argv[1], max_in_flight=4, capabilities=[
    sira.Capability("double numbers", effects=sys.argv[3])])

@agent.handler
def double(x, wait_s=0.0):
    time.sleep(float(wait_s))
    return {"y": x * 2}

agent.run()
print("drained", flush=True)
"""
CALLS = 400


@pytest.fixture
def start(sira_node: Any, sira_bus: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Start an agent's process, and wait until it is found."""
    script = tmp_path / "agent.py"
    script.write_text(AGENT)
    begun: list[subprocess.Popen[str]] = []
    waited = threading.Event()

    def begin(name: str, *, effects: str, url: str = "") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(script), url or sira_node.socket_url, name, effects],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        begun.append(process)
        while not sira_bus.agents(name=name):
            assert process.poll() is None, "the agent has ended"
            waited.wait(0.02)
        return process

    yield begin
    for process in begun:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize("way", ["url", "socket_url"])
def test_no_call_that_may_be_repeated_is_lost_when_one_is_killed(
    start: Any, sira_node: Any, way: str
) -> None:
    url = getattr(sira_node, way)
    twins = {name: start(name, effects="idempotent", url=url) for name in ("twin-1", "twin-2")}
    with sira.connect_sync(url) as bus:
        answered: list[str] = []
        killed = threading.Event()

        def call(number: int) -> None:
            reply = bus.call("double numbers", {"x": number, "wait_s": 0.005}, timeout_s=60)
            assert reply["y"] == 2 * number
            assert reply.receipt is not None
            answered.append(reply.receipt.agent)
            if len(answered) > CALLS // 4 and not killed.is_set():
                killed.set()
                twins["twin-1"].kill()

        with ThreadPoolExecutor(6) as threads:
            list(threads.map(call, range(CALLS)))
        assert len(answered) == CALLS
        assert killed.is_set()
        assert set(answered[: CALLS // 4]) == set(twins), "both were asked"
        assert set(answered[-20:]) == {"twin-2"}


def test_a_call_that_may_not_be_repeated_is_told_that_its_agent_is_gone(
    start: Any, sira_node: Any
) -> None:
    """On one host that is known by the closed socket, not by the time that the caller waits."""
    only = start("only", effects="once")
    with sira.connect_sync(sira_node.socket_url) as bus, ThreadPoolExecutor(1) as threads:
        asking = threads.submit(bus.call, "double numbers", {"x": 1, "wait_s": 600}, timeout_s=600)
        waited = threading.Event()
        while not any(each.state.in_flight for each in bus.agents(name="only")):
            waited.wait(0.05)
        only.kill()
        with pytest.raises(sira.PeerLost) as caught:
            asking.result(60)
        assert caught.value.details["agent"] == "only"


def test_sigterm_drains_and_leaves_the_registry(start: Any, sira_bus: Any) -> None:
    agent = start("leaver", effects="once")
    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(
            sira_bus.call, "double numbers", {"x": 21, "wait_s": 0.5}, timeout_s=60
        )
        waited = threading.Event()
        while not any(row.delivered for row in sira_bus.ledger("agents.leaver.>")):
            waited.wait(0.01)
        agent.send_signal(signal.SIGTERM)
        assert asking.result(60)["y"] == 42
    assert agent.wait(60) == 0
    assert agent.stdout.read() == "drained\n"
    assert sira_bus.agents(name="leaver") == []
    with pytest.raises(sira.NoMatch):
        sira_bus.call("double numbers", {"x": 1}, timeout_s=20)


def test_agents_are_found_again_when_their_node_has_come_back(start: Any, sira_node: Any) -> None:
    start("stays", effects="idempotent", url=sira_node.url)
    with sira.connect_sync(sira_node.url) as bus:
        assert bus.call("double numbers", {"x": 2}, timeout_s=60)["y"] == 4
        sira_node.kill()
        sira_node.start()
        waited = threading.Event()
        while [each.status for each in bus.agents(name="stays")] != ["up"]:
            waited.wait(0.05)
        assert bus.call("double numbers", {"x": 3}, timeout_s=60)["y"] == 6
