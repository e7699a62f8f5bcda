"""A real node: a process of its own, a temporary data folder, a free port of loopback."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Self

from sira.kernel.errors import Timeout, Unreachable
from sira.kernel.local.record import SOCKET_NAME
from sira.kernel.supervisor.folder import LOCK_NAME, holder

READY_S = 60.0
STOP_S = 60.0
_LOG_CHARS = 2_000
_REMOVE_S = 5.0


class Node:
    """A node in a process. `url` is where it listens, also after `kill` and `start`.

    Attributes:
        url: "sira://127.0.0.1:PORT".
        data_dir: its folder; removed at the end, also of one that never started.
        log_path: what it wrote to stderr.
    """

    def __init__(self, *, settings: dict[str, object] | None = None) -> None:
        """Prepare; `settings` by name, as in `sira config show`."""
        self.data_dir = Path(tempfile.mkdtemp(prefix="sira-node-"))
        self._remove_folder = weakref.finalize(self, _remove, self.data_dir)
        self.log_path = self.data_dir / "stderr.log"
        self.url = ""
        self._settings = dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the node itself, the one of its last life; 0 when it does not run."""
        if self._process is None:
            return 0
        return int(holder(self._folder).get("node", "0"))

    @property
    def supervisor_pid(self) -> int:
        """Process id of `sira up`, which starts the node again; 0 when it does not run."""
        return self._process.pid if self._process is not None else 0

    @property
    def socket_url(self) -> str:
        """Where it is reached by its Unix socket."""
        return f"unix:{self._folder / SOCKET_NAME}"

    @property
    def _folder(self) -> Path:
        return self.data_dir / "data"

    def start(self, *, timeout_s: float = READY_S) -> Self:
        """Start it and wait until it serves; a second start takes the same port.

        Raises:
            Unreachable: it ended. Timeout: it did not serve in time.
        """
        assert self._process is None, "it runs"
        listen = self.url.removeprefix("sira://") or "127.0.0.1:0"
        command = [sys.executable, "-m", "sira.cli", "up", "--json", "--listen", listen]
        command += ["--data-dir", str(self._folder)]
        for name, value in self._settings.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SIRA_")}
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
            )
        assert self._process.stdout is not None
        started = _Started(self._process.stdout)
        address = started.wait(timeout_s)
        if not address:
            ended = started.exit_code(self._process)
            self.kill()
            log_text = self.log_path.read_text(errors="replace")[-_LOG_CHARS:]
            if ended is None:
                raise Timeout(
                    f"the node does not serve after {timeout_s:g} s; its log:\n{log_text}"
                )
            raise Unreachable(f"the node ended with exit code {ended}; its log:\n{log_text}")
        self.url = f"sira://{address}"
        return self

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None, "it does not run"
        self._process.send_signal(number)

    def stop(self, *, timeout_s: float = STOP_S) -> int:
        """Let it drain (SIGTERM) and return its exit code; killed when it takes longer.

        Raises:
            Timeout: it had to be killed.
        """
        process = self._process
        if process is None:
            return 0
        process.terminate()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Timeout(f"the node did not stop in {timeout_s:g} s") from None
        self._forget(process)
        return process.returncode

    def kill(self) -> None:
        """Kill the supervisor (SIGKILL), and with it the node; it stays down until `start`.

        To see the supervisor start a node again that crashed, kill `pid`.
        """
        process = self._process
        if process is None:
            return
        process.kill()
        process.wait()
        self._forget(process)
        # The node dies with its supervisor, a moment later: then the folder is free.
        lock = self._folder / LOCK_NAME
        if lock.exists():
            with lock.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX)

    def close(self) -> None:
        """Kill it where it still runs, and remove its folder: the end without `with`."""
        try:
            self.kill()
        finally:
            self._remove_folder()

    def _forget(self, process: subprocess.Popen[bytes]) -> None:
        self._process = None
        if process.stdout is not None:
            process.stdout.close()

    def __enter__(self) -> Self:
        """Start it; the folder of one that does not start is removed."""
        try:
            return self.start()
        except BaseException:
            self._remove_folder()
            raise

    def __exit__(self, *_error: object) -> None:
        """Stop it and remove its folder."""
        try:
            self.stop()
        finally:
            self._remove_folder()


def _remove(folder: Path) -> None:
    """Remove a folder in which children of a killed supervisor may still write their last."""
    end_s = time.monotonic() + _REMOVE_S
    while folder.exists() and time.monotonic() < end_s:
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            time.sleep(0.01)


class _Started:
    """Waits for the line with which `sira up --json` says that it serves, and reads on after it."""

    def __init__(self, stdout: IO[bytes]) -> None:
        self._said = threading.Event()
        self._address = ""
        self._thread = threading.Thread(target=self._read, args=(stdout,), daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float) -> str:
        self._said.wait(timeout_s)
        return self._address

    def exit_code(self, process: subprocess.Popen[bytes]) -> int | None:
        """Return how the process ended, once it has closed its stdout; None: it runs."""
        if not self._said.is_set():
            return None
        try:
            return process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            return None

    def _read(self, stdout: IO[bytes]) -> None:
        try:
            for line in stdout:
                envelope = json.loads(line)
                if envelope.get("type") == "start":
                    self._address = envelope["data"]["address"]
                    self._said.set()
        except ValueError:  # no JSON, or closed under our hands: it has ended
            pass
        finally:
            self._said.set()


@contextmanager
def node(**settings: object) -> Iterator[Node]:
    """Run a real node while inside; `settings` by name: `node(stall_s=0.5)`."""
    with Node(settings=settings) as running:
        yield running
