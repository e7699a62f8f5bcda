"""docs/deploy.md is what happens: a TLS node, two tenants, a Prometheus that scrapes them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.docs_blocks import DOCS
from tests.integration.ports import free_port
from tests.integration.shell import blocks, commands, pattern, shell_in

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

PAGE = DOCS / "deploy.md"
OF_PROMETHEUS = re.compile(r"\bprometheus --|\bpromtool|%\?prometheus")


def test_the_page_is_what_happens(tmp_path: Path) -> None:
    for folder in ("deploy", "examples"):
        (tmp_path / folder).symlink_to(DOCS.parent / folder)
    ports = {port: str(free_port()) for port in ("7700", "8080", "9090")}
    scrapes = bool(shutil.which("prometheus") and shutil.which("promtool"))
    done = 0
    with shell_in(tmp_path) as bash:
        for kind, lines in blocks(PAGE.read_text()):
            for command, expected in commands(lines) if kind == "console" else ():
                if not scrapes and OF_PROMETHEUS.search(command):
                    continue
                for port, ours in ports.items():
                    command = command.replace(f":{port}", f":{ours}")
                    expected = [line.replace(f":{port}", f":{ours}") for line in expected]
                if "> cluster/prometheus.yml" in command:
                    command = command.replace(f"node:{ports['8080']}", "node:8080", 1)
                wanted = pattern(expected)
                shown = bash.run(command, wanted)
                assert re.fullmatch(wanted, shown), (
                    f"$ {command}\ncame:\n{shown}\nwanted:\n{wanted}"
                )
                done += 1
    assert done >= 35 - 4 * (not scrapes)
    if not scrapes:
        pytest.skip("prometheus is not installed: all of the page ran but its scrapes")
