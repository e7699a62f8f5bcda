"""An agent as people start it: a process with `agent.run()`, found, fed, and told to stop."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sira

pytestmark = pytest.mark.integration

AGENT = """
import sys, time
import sira

agent = sira.Agent("slow-doubler", topic="lab.double", url=sys.argv[1])

@agent.handler
def double(x, wait_s=0.0):
    time.sleep(float(wait_s))
    return {"y": x * 2}

agent.run()
print("drained", flush=True)
"""


@pytest.fixture
def agent(sira_node: Any, sira_bus: Any, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    script = tmp_path / "agent.py"
    script.write_text(AGENT)
    process = subprocess.Popen(
        [sys.executable, str(script), sira_node.url], stdout=subprocess.PIPE, text=True
    )
    waited = threading.Event()
    while not sira_bus.explain("lab.double").matches:
        assert process.poll() is None, "the agent has ended"
        waited.wait(0.02)
    yield process
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_it_answers(agent: Any, sira_bus: Any) -> None:
    assert sira_bus.request("lab.double", {"x": 21}, timeout_s=60)["y"] == 42


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda each: each.name)
def test_a_signal_lets_it_finish_what_it_took(
    agent: Any, sira_bus: Any, number: signal.Signals
) -> None:
    answers: list[Any] = []

    def ask() -> None:
        answers.append(sira_bus.request("lab.double", {"x": 1, "wait_s": 0.5}, timeout_s=60)["y"])

    asking = threading.Thread(target=ask)
    asking.start()
    waited = threading.Event()
    while not any(row.delivered for row in sira_bus.ledger("lab.double")):
        waited.wait(0.01)
    agent.send_signal(number)
    asking.join(30)
    assert answers == [2]
    assert agent.wait(30) == 0
    assert agent.stdout.read() == "drained\n"
    with pytest.raises(sira.NoMatch):
        sira_bus.request("lab.double", {"x": 1}, timeout_s=60)


def test_it_comes_back_when_its_node_does(agent: Any, sira_node: Any) -> None:
    sira_node.kill()
    sira_node.start()
    with sira.connect_sync(sira_node.url) as bus:
        waited = threading.Event()
        while not bus.explain("lab.double").matches:
            waited.wait(0.02)
        assert bus.request("lab.double", {"x": 4}, timeout_s=60)["y"] == 8
