"""Our end of the reaper: which process groups must not outlive us."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

_REAPER = str(Path(__file__).with_name("reaper.py"))


class Guard:
    """Starts the reaper with the first group, and again when it was killed."""

    def __init__(self) -> None:
        self._popen: subprocess.Popen[bytes] | None = None
        self._groups: set[int] = set()

    def add(self, group: int) -> None:
        """Have a process group killed when we are gone."""
        self._groups.add(group)
        if self._popen is None:
            self._start()
        else:
            self._write(f"+{group}\n")

    def remove(self, group: int) -> None:
        """It has ended."""
        if group in self._groups:
            self._groups.discard(group)
            self._write(f"-{group}\n")

    def tend(self) -> None:
        """Start the reaper again if somebody killed it."""
        if self._popen is not None and self._popen.poll() is not None:
            self._forget()
            if self._groups:
                self._start()

    def close(self) -> None:
        """End the reaper; it kills what was not removed."""
        if self._popen is not None:
            popen = self._popen
            self._forget()
            popen.wait()

    def _start(self) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-I", "-S", _REAPER, *map(str, self._groups)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _write(self, line: str) -> None:
        if self._popen is not None and self._popen.stdin is not None:
            with contextlib.suppress(OSError):  # it was killed: `tend` starts another
                self._popen.stdin.write(line.encode())
                self._popen.stdin.flush()

    def _forget(self) -> None:
        if self._popen is not None and self._popen.stdin is not None:
            with contextlib.suppress(OSError):
                self._popen.stdin.close()
        self._popen = None
