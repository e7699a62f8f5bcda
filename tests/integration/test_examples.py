"""The examples and the demo do what they say, as processes against a real node."""

from __future__ import annotations

import hashlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.command import node, sira

pytestmark = [pytest.mark.integration, pytest.mark.slow]

EXAMPLES = Path(__file__).parents[2] / "examples"
TIMEOUT_S = 60.0


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with node(tmp_path / "data") as found:
        yield found


@pytest.fixture
def agent(url: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, str(EXAMPLES / "agent.py"), url])
    try:
        assert sira("explain", "lab.normalise", "--wait", "30", url=url).code == 0
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 0
    finally:
        process.kill()
        process.wait()


def run(*words: str) -> str:
    """Run an example; it must end with 0."""
    shown = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


@pytest.mark.usefixtures("agent")
def test_gateway_and_agent_exchange_tensors(url: str) -> None:
    shown = run(str(EXAMPLES / "gateway.py"), url)
    assert shown.splitlines() == [
        "y: float32 [3, 4], mean 0.000, deviation 1.000",
        "accepted, matched 0, 48 bytes",
    ]


@pytest.mark.usefixtures("agent")
def test_a_plain_grpc_client_is_a_full_citizen(url: str) -> None:
    shown = run(str(EXAMPLES / "plain_grpc.py"), url.removeprefix("sira://"))
    assert shown.splitlines() == [
        "receipt: matched 1, 12 bytes",
        "took x = (1.0, 2.0, 3.0) of plain.greeting",
        "reply: ['y']",
    ]


def test_a_gateway_that_names_no_agent_finds_the_one_that_can(url: str) -> None:
    agent = subprocess.Popen(
        [sys.executable, str(EXAMPLES / "capability_agent.py"), "white-1", url]
    )  # fmt: skip
    try:
        while sira("agents", "white-1", "--json", url=url).data["count"] == 0:
            assert agent.poll() is None, "the agent has ended"
        first, *reasons = run(str(EXAMPLES / "capability_gateway.py"), url).splitlines()
        assert re.fullmatch(r"mean 0\.000, by white-1, normalise-\S+", first), first
        assert reasons
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(TIMEOUT_S) == 0
        assert sira("agents", "white-1", "--json", url=url).data["count"] == 0
    finally:
        agent.kill()
        agent.wait()


def test_a_plain_grpc_client_is_told_that_nobody_listens(url: str) -> None:
    shown = run(str(EXAMPLES / "plain_grpc.py"), url.removeprefix("sira://"))
    assert re.fullmatch(r"request: [A-Z_]+: .*lab\.normalise.*", shown.splitlines()[-1])


def test_the_image_is_the_one_its_readme_describes() -> None:
    readme = (EXAMPLES / "data" / "README.md").read_text()
    digest = hashlib.sha256((EXAMPLES / "data" / "coffee.png").read_bytes()).hexdigest()
    assert digest in readme


@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", [(), ("--tls",)], ids=["plain", "tls"])
def test_the_demo_verifies_every_pixel_and_ends_with_0(tmp_path: Path, how: tuple[str]) -> None:
    pytest.importorskip("matplotlib")
    shown = run(str(EXAMPLES / "demo" / "run.py"), "--out", str(tmp_path), "--rounds", "4", *how)
    assert ("at siras://" in shown) == bool(how)
    assert ("edges-1     is sira://local/demo/agent/edges-1" in shown) == bool(how)
    assert "verified" in shown and "NOT BALANCED" not in shown
    assert "killed" in shown and "calls taken over from edges-1: " in shown
    assert "4 of 4 results" in shown and "'how bright is this picture?': exposure-1 4" in shown
    assert "image: float32" in shown and "edges: bfloat16" in shown and "thumbnail: uint8" in shown
    for name in ("thumbnail.png", "demo.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
