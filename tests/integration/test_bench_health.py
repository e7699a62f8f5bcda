"""The figures of health are measured by clients that do what they say: few agents, no clock."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benches.health import GOALS

pytestmark = [pytest.mark.integration, pytest.mark.redis]
ROOT = Path(__file__).parents[2]
WATCHDOG_S = 240


@pytest.mark.parametrize("figure", ["flush", "crash", "again"])
def test_a_figure_is_measured_and_written(figure: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "benches.health", figure, "--quick", "--agents", "400",
            "--processes", "2", "--beat-s", "1", "--window-s", "0.5", "--out", str(tmp_path),
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=WATCHDOG_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].startswith(f"{figure}: "), done.stdout
    (file,) = tmp_path.iterdir()
    line = json.loads(file.read_text())
    assert (line["figure"], line["goal"]) == (figure, GOALS[figure][0])
    assert line["median"] >= 0 and line["machine"]["versions"]["redis"]
