"""Documents that are what happens: their commands are run in one shell, their outputs compared.

In a `console` block, a line that starts with `$ ` is typed into bash, and the lines up to the next
one are what must come. `...` matches anything, over several lines where it stands alone.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PORT_OF_THE_DOC = "7700"
COMMAND_TIMEOUT_S = 60.0
END = "--- end of the command ---"


def blocks(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (kind, lines) of each fenced block."""
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield match[1], match[2].splitlines()


def commands(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield (command, expected output) of a console block."""
    command, expected = "", []
    for line in lines:
        if line.startswith("$ "):
            if command:
                yield command, expected
            command, expected = line[2:], []
        else:
            assert command, f"output without a command: {line}"
            expected.append(line)
    yield command, expected


def pattern(expected: list[str]) -> str:
    """Regular expression of what must come."""
    found = ""
    for line in expected:
        if line.strip() == "...":
            found += r"(?:.*\n)*?"
        else:
            found += ".*?".join(re.escape(part) for part in line.split("...")) + "\n"
    return found


class Shell:
    """One bash, so that jobs and variables live from command to command."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
        self._unread = ""
        self._has_jobs = False

    def run(self, command: str, wanted: str) -> str:
        """Type `command`; return what came until it ended and `wanted` matches.

        What runs in the background may print after the command has ended: so, once there is some,
        reading goes on until the expected text is there, under a watchdog.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{command}\necho '{END}'\n".encode())
        self._process.stdin.flush()
        self._has_jobs |= command.rstrip().endswith("&")
        deadline_s = time.monotonic() + COMMAND_TIMEOUT_S
        while True:
            shown = self._unread.replace(f"{END}\n", "")
            if f"{END}\n" in self._unread and re.fullmatch(wanted, shown):
                self._unread = ""
                return shown
            ended = f"{END}\n" in self._unread
            if ended and (not self._has_jobs or time.monotonic() > deadline_s):
                self._unread = ""
                return shown
            fd = self._process.stdout.fileno()
            ready, _, _ = select.select([fd], [], [], max(deadline_s - time.monotonic(), 0))
            data = os.read(fd, 1 << 16) if ready else b""
            if ended and not ready:
                continue  # it is late: what has come is told
            if not data:
                raise AssertionError(f"$ {command}\nhangs, or the shell ended, after:\n{shown}")
            self._unread += data.decode()

    def close(self) -> None:
        """End the shell and what runs in it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(b"kill -KILL $(jobs -p) 2> /dev/null; exit\n")
        self._process.stdin.close()
        self._process.stdout.read()
        self._process.stdout.close()
        self._process.wait(30)


@contextmanager
def shell_in(folder: Path, **more: str) -> Iterator[Shell]:
    """A shell in a folder, with a home of its own there; `more` is environment."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SIRA_")}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}",
        "SIRA_HOME": str(folder / "home"),
        "PYTHONUNBUFFERED": "1",
        **more,
    }
    found = Shell(folder, environment)
    try:
        yield found
    finally:
        found.close()


def at(port: str) -> dict[str, str]:
    """Environment: nodes listen at a port of loopback, and clients look for them there."""
    return {"SIRA_LISTEN": f"127.0.0.1:{port}", "SIRA_URL": f"sira://127.0.0.1:{port}"}
