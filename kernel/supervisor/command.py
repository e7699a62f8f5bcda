"""A service that is a command line: this child becomes it.

The control line closes itself at exec, which tells the supervisor that the command runs.
"""

from __future__ import annotations

import os
import socket

from sira.kernel.errors import BadSetting
from sira.kernel.process import begin
from sira.kernel.supervisor.control import Control, error_fields
from sira.kernel.supervisor.pure import EXIT_CANNOT_START


def main(control_fd: int) -> int:
    """Become the command. Returns 3 when there is none to become."""
    os.set_inheritable(control_fd, False)
    control = Control(socket.socket(fileno=control_fd))
    command: list[str] = begin(control)["command"]
    try:
        os.execvp(command[0], command)
    except OSError as error:
        refused = BadSetting(f"{command[0]} cannot be run: {error.strerror}")
        control.send(failed=error_fields(refused))
        return EXIT_CANNOT_START
