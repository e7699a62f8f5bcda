"""Each fault point of the shared-memory lane once; `make fault ISSUE=shm` walks all there is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sira import _native

pytestmark = [pytest.mark.integration, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(1_800)  # a build, and sixty processes that end; each wait has a watchdog
def test_a_process_may_end_or_stop_at_every_step_and_nobody_else_is_disturbed() -> None:
    # The seed is fixed: which role, what and when. `make fault` draws others.
    command = [sys.executable, "-m", "tests.fault.walk", "--quick", "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    facts = [json.loads(line) for line in done.stdout.splitlines()]
    problems = [line for fact in facts for line in fact.get("problems", ())]
    assert not problems and done.returncode == 0, "\n".join([*problems, done.stderr[-4_000:]])
    assert facts[-1]["what"] == "end" and facts[-1]["ok"]
    (plan,) = (fact for fact in facts if fact["what"] == "plan")
    walked = [case for fact in facts if fact["what"] == "case" for case in fact["cases"]]
    assert len(walked) == plan["cases"] >= 60


def test_a_release_has_no_fault_points() -> None:
    assert _native.__file__ is not None
    core = Path(_native.__file__).read_bytes()
    assert b"take.committed" not in core and b"sira_faults" not in core
    assert not [name for name in dir(_native) if name.startswith("fault")]
