"""Where a child begins: `python -m sira.kernel.supervisor.child PARENT_PID CONTROL_FD MODULE`.

Before anything else, the child asks to die with its parent. gRPC and the rest load after that.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module

EXIT_ORPHAN = 4
# Environment of who multiplies small matrices between other things. Threads of a BLAS spin while
# they wait for each other: three times the CPU, and slower where other processes want it.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent dies; end now if that has happened.

    On systems without prctl the end of the control line does the same, as soon as the loop runs.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(EXIT_ORPHAN)


def main() -> int:
    """Become what the module is: its `main` is given the control line."""
    die_with(int(sys.argv[1]))
    exit_code: int = import_module(sys.argv[3]).main(int(sys.argv[2]))
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
