"""Kills process groups when its parent is gone: `python -I -S reaper.py GROUP...`.

Lines `+GROUP` and `-GROUP` on stdin change them; those that were there before it are arguments, so
that it knows them however soon after its start the parent goes. The kernel ends a child with its
parent, but not what that child has started; so this process waits for the end of its input, which
comes with the supervisor's, however that ends. It loads next to nothing: it is there for as long as
services are.
"""

import os
import signal
import sys


def main() -> None:
    """Read until the end, then kill what is left."""
    groups = {int(each) for each in sys.argv[1:]}
    for line in sys.stdin:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    for group in groups:
        try:  # noqa: SIM105  contextlib is one module more
            os.killpg(group, signal.SIGKILL)
        except OSError:
            pass


if __name__ == "__main__":
    main()
