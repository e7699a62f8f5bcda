"""Services as children of the supervisor: commands, grandchildren, ends that are for good."""

from __future__ import annotations

import json
import os
import signal
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

import sira
from sira.kernel.errors import BadSetting
from sira.kernel.settings import load
from sira.kernel.settings.services import ServiceSpec
from sira.testing import Node

from .test_supervisor import gone, wait_until

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[3]
# Writes its pid and that of a child that would live on, then waits for its end.
_PARENT = """
import os, signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
part = sys.argv[1] + ".part"
open(part, "w").write(f"{os.getpid()} {child.pid} {os.environ['SIRA_URL']}")
os.rename(part, sys.argv[1])
signal.pause()
"""


@contextmanager
def node_with(folder: Path, text: str) -> Iterator[Node]:
    file = folder / "sira.toml"
    file.write_text("restart_s_min = 0.01\n" + textwrap.dedent(text))
    with Node(settings={"config": file}) as node:
        yield node


def parent(folder: Path) -> str:
    """Settings of the service above."""
    script = folder / "parent.py"
    script.write_text(_PARENT)
    command = json.dumps([sys.executable, str(script), str(folder / "pids")])
    return f"[services.parent]\ncommand = {command}\n"


def pids(folder: Path, before: int = 0) -> tuple[int, int, str]:
    """What the service wrote, in a life that is not `before`'s."""
    path = folder / "pids"

    def new() -> bool:
        return path.exists() and int(path.read_text().split()[0]) != before

    wait_until(new, "the service runs")
    own, child, url = path.read_text().split()
    return int(own), int(child), url


def test_a_killed_service_takes_its_children_along_and_comes_back(tmp_path: Path) -> None:
    with node_with(tmp_path, parent(tmp_path)) as node:
        own, child, url = pids(tmp_path)
        assert url == node.url
        os.kill(own, signal.SIGKILL)
        again, second_child, _ = pids(tmp_path, own)
        wait_until(lambda: gone(child), "its child is gone")
        assert psutil.pid_exists(again) and not gone(second_child)
    wait_until(lambda: gone(second_child), "the end of the node is the end of all")


@pytest.mark.parametrize("reaper", ["lives", "was killed before"])
def test_kill_9_of_the_supervisor_takes_even_grandchildren_along(
    tmp_path: Path, reaper: str
) -> None:
    with node_with(tmp_path, parent(tmp_path)) as node:
        own, child, _ = pids(tmp_path)
        if reaper != "lives":
            before = _reaper(node)
            os.kill(before, signal.SIGKILL)
            wait_until(lambda: _reaper(node) not in (0, before), "another reaper")
        node.kill()
        for pid in (own, child):
            wait_until(lambda pid=pid: gone(pid), "it is gone")  # type: ignore[misc]


def _reaper(node: Node) -> int:
    for each in psutil.Process(node.supervisor_pid).children():
        try:
            if "reaper.py" in " ".join(each.cmdline()):
                return each.pid
        except psutil.Error:
            continue
    return 0


@pytest.mark.parametrize(
    ("line", "words"),
    [('run = "no.such.module:make"', "cannot be loaded"),
     ('run = "os:getcwd"', "no service or agent"),
     ('command = ["/no/such/program"]', "cannot be run")],
)  # fmt: skip
def test_a_service_that_cannot_start_is_left_out_with_one_line_and_the_bus_stays(
    tmp_path: Path, line: str, words: str
) -> None:
    with node_with(tmp_path, f"[services.wrong]\n{line}\n") as node:
        wait_until(lambda: words in node.log_path.read_text(), "the log says why")
        with sira.connect_sync(node.url) as bus:
            assert bus.publish("a").matched == 0
        lines = [each for each in node.log_path.read_text().splitlines() if words in each]
        assert len(lines) == 1 and "Traceback" not in node.log_path.read_text()


def test_an_agent_can_be_run_as_well(tmp_path: Path) -> None:
    (tmp_path / "my_agent.py").write_text(
        "import sira\n"
        "def make():\n"
        "    return sira.Agent('a1', topic='lab.echo', handler=lambda x: {'x': x})\n"
    )
    service = f'[services.agent]\nrun = "my_agent:make"\nfolder = "{tmp_path}"\n'
    with node_with(tmp_path, service) as node, sira.connect_sync(node.url) as bus:

        def answers() -> bool:
            try:
                return bool(bus.request("lab.echo", {"x": 5}, timeout_s=5)["x"] == 5)
            except sira.NoMatch:
                return False

        wait_until(answers, "the agent answers")


def test_the_section_is_read_and_its_mistakes_are_named(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(
        '[services.echo]\nrun = "a.b:make"\ntoken_file = "t"\nrestart = "failed"\n'
        'env = { A = "b" }\n[services.other]\ncommand = ["x", "y"]\n'
    )
    got = load(file=file, environ={}).services
    assert got == (
        ServiceSpec("echo", run="a.b:make", token_file="t", restart="failed", env=(("A", "b"),)),
        ServiceSpec("other", command=("x", "y")),
    )
    for text in (
        "services = 3", "[services.node]\nrun = 'a:b'", "[services.x]", "[services.X]\nrun = 'a:b'",
        "[services.x]\nrun = 'a'", "[services.x]\nrun = 'a:b'\ncommand = ['c']",
        "[services.x]\ncommand = 'c'", "[services.x]\nrun = 'a:b'\nrestart = 'maybe'",
        "[services.x]\nrun = 'a:b'\nspeed = 3", "[services.x]\nrun = 'a:b'\nenv = { A = 1 }",
    ):  # fmt: skip
        file.write_text(text)
        with pytest.raises(BadSetting, match="services"):
            load(file=file, environ={})
