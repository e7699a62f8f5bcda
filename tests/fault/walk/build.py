"""The C core with fault points, built beside the installed one: `build/faults/_native*.so`.

Unoptimised, for it is built once and runs for seconds; only what changed is compiled.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "build" / "faults"


def build() -> Path:
    """Build it where need be; return the module's path.

    Raises:
        subprocess.CalledProcessError: it cannot be built; stderr says why.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    # cmake and ninja of the venv, as for the build that is installed.
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    with (FOLDER / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (
            ["cmake", "-G", "Ninja", "-S", str(ROOT), "-B", str(FOLDER), "-DSIRA_FAULTS=ON",
             "-DCMAKE_BUILD_TYPE=Faults", "-DCMAKE_C_FLAGS_FAULTS=-O0",
             f"-DPython_EXECUTABLE={sys.executable}"],
            ["cmake", "--build", str(FOLDER), "--target", "_native"],
        ):  # fmt: skip
            done = subprocess.run(
                command, env={**os.environ, "PATH": tools}, capture_output=True, text=True
            )
            if done.returncode:
                raise RuntimeError(f"{command[:2]} failed:\n{done.stdout}\n{done.stderr}")
    (found,) = FOLDER.glob("_native*.so")
    return found
