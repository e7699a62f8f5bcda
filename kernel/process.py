"""What a child of the supervisor does as a process: hears its settings, its signals, its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import sys
from typing import Any

from sira.kernel.supervisor.child import EXIT_ORPHAN
from sira.kernel.supervisor.control import Control


def begin(control: Control) -> dict[str, Any]:
    """Wait for the first message: settings and verbs."""
    while not control.ended:
        select.select([control], [], [])
        for message in control.receive():
            told: dict[str, Any] = message["begin"]
            return told
    os._exit(EXIT_ORPHAN)


def let_go_of_log() -> None:
    """Drop log lines that cannot be written: Python would try once more at exit, and exit 120."""
    try:
        sys.stderr.flush()
    except (OSError, ValueError):  # a full disk; a closed stream
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


class Signals:
    """SIGTERM and SIGINT as events: the first, and any after it."""

    def __init__(self) -> None:
        """Listen for them on the loop that runs."""
        self.first, self.second = asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._note)

    def close(self) -> None:
        """Listen no more."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.remove_signal_handler(number)

    def _note(self) -> None:
        (self.second if self.first.is_set() else self.first).set()
