"""Start the processes of one measurement, keep their line, read their CPU and memory, stop them.

A `Stage` is one measurement: every participant is a process of its own, started fresh and always
stopped, also on Ctrl-C or an error. `run_group` interleaves measurements that are to be compared.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


class Skipped(Exception):
    """This machine cannot do it; why is said beside the case."""


class BenchError(Exception):
    """A participant failed, or said nothing in time. The measurement has no result."""


def die_with_parent() -> None:
    """Between fork and exec: a killed coordinator must not leave servers behind."""
    if hasattr(_LIBC, "prctl"):
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def free_port() -> int:
    """Give a TCP port on loopback that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Process:
    """A process of the stage, with its output in a file that is shown only when it fails."""

    def __init__(
        self, name: str, argv: Sequence[str], *, log: Path, env: dict[str, str], fds: Sequence[int]
    ) -> None:
        self.name, self._log = name, log
        with log.open("wb") as out:
            self._popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", **env},
                pass_fds=fds,
                start_new_session=True,  # Ctrl-C reaches the coordinator alone, which stops us
                preexec_fn=die_with_parent,
            )
        self.pid = self._popen.pid

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._popen.poll() is None

    def output_tail(self) -> str:
        """Last lines it printed."""
        return self._log.read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        """End it: SIGTERM, then after 5 s SIGKILL to it and its children."""
        children = _tree(self.pid)[1:]
        if self.alive():
            self._popen.terminate()
            try:
                self._popen.wait(5)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait(5)
        for child in children:
            if child.is_running():
                child.kill()


class Participant(Process):
    """A `benches.worker` process and the coordinator's end of its line."""

    def __init__(
        self,
        name: str,
        entry: str,
        params: dict[str, Any],
        *,
        cpu: int | None,
        log: Path,
        env: dict[str, str],
    ) -> None:
        self._sock, theirs = socket.socketpair()
        with theirs:
            argv = [sys.executable, "-m", "benches.worker", str(theirs.fileno())]
            super().__init__(name, argv, log=log, env=env, fds=[theirs.fileno()])
        self._pending = b""
        self.say("start", entry=entry, params=params, cpu=cpu)

    def say(self, event: str, **fields: Any) -> None:
        """Send it one event."""
        try:
            self._sock.sendall(json.dumps({"event": event, **fields}).encode() + b"\n")
        except OSError as error:
            raise BenchError(f"{self.name} is gone: {self.output_tail()}") from error

    def hear(self, event: str, *, timeout_s: float) -> dict[str, Any]:
        """Wait for the next event, which must be `event`.

        Raises:
            BenchError: it failed, died, or said nothing for `timeout_s`.
        """
        deadline_s = time.monotonic() + timeout_s
        while b"\n" not in self._pending:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not select.select([self._sock], [], [], left_s)[0]:
                raise BenchError(f"{self.name}: no {event!r} in {timeout_s:.0f} s")
            data = self._sock.recv(1 << 16)
            if not data:
                raise BenchError(f"{self.name} died: {self.output_tail()}")
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        if message["event"] == "error":
            raise BenchError(f"{self.name}: {message['traceback']}")
        if message["event"] != event:
            raise BenchError(f"{self.name} said {message['event']!r}, {event!r} was due")
        return message

    def stop(self) -> None:
        """Close the line, on which it leaves by itself; else as `Process.stop`."""
        self._sock.close()
        try:
            self._popen.wait(2)
        except subprocess.TimeoutExpired:
            super().stop()


def _tree(pid: int) -> list[psutil.Process]:
    """Process `pid` and its descendants; empty when it is gone."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _cpu_s(process: psutil.Process) -> float:
    """User plus system seconds of a process with all its threads so far; 0 when it is gone."""
    try:
        if sys.platform == "linux":  # the clock of clock_getcpuclockid(3): nanoseconds, not ticks
            return time.clock_gettime(~process.pid << 3 | 2)
        times = process.cpu_times()
    except (OSError, psutil.NoSuchProcess):
        return 0.0
    return float(times.user + times.system)


class Stage:
    """The processes of one measurement and a folder of their own."""

    def __init__(self, *, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._exits = ExitStack()
        self.processes: list[Process] = []
        self.shared: dict[str, Any] = {}  # parameters of all participants: how to be let in
        self.environ: dict[str, str] = {}  # of all participants

    def __enter__(self) -> Stage:
        """Make the folder."""
        folder = tempfile.TemporaryDirectory(prefix="sira-bench-", ignore_cleanup_errors=True)
        self.folder = Path(self._exits.enter_context(folder))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop every process, the last one first, and remove the folder."""
        self._exits.close()

    def at_exit(self, work: Callable[[], None]) -> None:
        """Do `work` after everything that is started from now on has been stopped."""
        self._exits.callback(work)

    def _keep(self, process: Process) -> None:
        self.processes.append(process)
        self._exits.callback(process.stop)

    def server(self, name: str, argv: Sequence[str], *, port: int, env: dict[str, str]) -> Process:
        """Start a broker or node and wait until `port` on loopback accepts."""
        log = self.folder / f"{len(self.processes)}-{name}.log"
        process = Process(name, argv, log=log, env=env, fds=[])
        self._keep(process)
        deadline_s = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return process
            except OSError as error:
                if not process.alive() or time.monotonic() > deadline_s:
                    message = f"{name} does not listen: {process.output_tail()}"
                    raise BenchError(message) from error
                time.sleep(0.02)  # polled under the deadline above

    def participant(
        self,
        entry: str,
        params: dict[str, Any],
        *,
        cpu: int | None = None,
        env: dict[str, str] | None = None,
    ) -> Participant:
        """Start a process that runs `entry`, written `module:function`, on `cpu` alone if given."""
        name = entry.rpartition(".")[2]
        log = self.folder / f"{len(self.processes)}-{name.replace(':', '-')}.log"
        environ = {**self.environ, **(env or {})}
        told = {**self.shared, **params}
        process = Participant(name, entry, told, cpu=cpu, log=log, env=environ)
        self._keep(process)
        return process

    def hear_all(self, participants: Iterable[Participant], event: str) -> list[dict[str, Any]]:
        """`event` from each, in their order, each within the stage's time limit."""
        return [p.hear(event, timeout_s=self.timeout_s) for p in participants]

    def cpu_s(self, processes: Iterable[Process] | None = None) -> float:
        """User plus system seconds used so far by `processes` (default all) and their children."""
        total_s = 0.0
        for process in self.processes if processes is None else processes:
            total_s += sum(_cpu_s(member) for member in _tree(process.pid))
        return total_s


def rss_bytes(process: Process) -> int:
    """Resident bytes of `process` and its children."""
    return sum(member.memory_info().rss for member in _tree(process.pid))


def pids(process: Process) -> list[int]:
    """`process` and its children: a node of ours runs in a child of its supervisor."""
    return [member.pid for member in _tree(process.pid)]


def connection_count(process: Process, port: int) -> int:
    """Established TCP connections that `process` and its children hold on local port `port`."""
    return sum(
        1
        for member in _tree(process.pid)
        for c in member.net_connections("tcp")
        if c.status == psutil.CONN_ESTABLISHED and c.laddr and c.laddr.port == port
    )


Figures = dict[str, float]


@dataclass
class Case:
    """One line of a group: a system under one set of parameters, and how to measure it."""

    row: str
    system: str
    params: dict[str, Any]
    measure: Callable[[], Figures] | None
    missing: str = ""  # what is not installed; then `measure` is None


@dataclass
class Result:
    """Figures of one case over all repeats."""

    row: str
    system: str
    params: dict[str, Any]
    status: str = "ok"
    detail: str = ""
    samples: dict[str, list[float]] = field(default_factory=dict)


def run_group(cases: Sequence[Case], *, repeats: int, tell: Callable[[str], None]) -> list[Result]:
    """Measure every case once, then all again, `repeats` times, each round from another start.

    A case that fails keeps what it has, says why, and is not tried again in this group.
    """
    results = [Result(c.row, c.system, c.params) for c in cases]
    for case, result in zip(cases, results, strict=True):
        if case.measure is None:
            result.status, result.detail = "not installed", case.missing
    for repeat in range(repeats):
        for turn in range(len(cases)):
            index = (turn + repeat) % len(cases)
            case, result = cases[index], results[index]
            if case.measure is None or result.status != "ok":
                continue
            try:
                figures = case.measure()
            except Skipped as error:
                result.status, result.detail = "skipped", str(error)
                tell(f"{case.row} {case.system}: skipped: {error}")
                continue
            except BenchError as error:
                result.status, result.detail = "failed", str(error)
                tell(f"{case.row} {case.system}: failed: {error}")
                continue
            for name, value in figures.items():
                result.samples.setdefault(name, []).append(value)
            shown = " ".join(f"{name}={value:.4g}" for name, value in figures.items())
            tell(f"{case.row} {case.system} [{repeat + 1}/{repeats}] {shown}")
    return results
