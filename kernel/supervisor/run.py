"""The driver: processes, signals, poll(2), the clock. What is decided stands in pure.py."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from sira import __version__
from sira.kernel.errors import SiraError
from sira.kernel.logs import line
from sira.kernel.settings import Settings
from sira.kernel.supervisor import pure
from sira.kernel.supervisor.control import Control, error_of
from sira.kernel.supervisor.folder import Folder, hold
from sira.kernel.supervisor.guard import Guard
from sira.kernel.supervisor.ports import Ports
from sira.kernel.supervisor.spawn import HTTP, plan, start

EXIT_CANNOT_START = pure.EXIT_CANNOT_START
# Over the time that the node itself takes to drain; past it, it hangs.
_DRAIN_MORE_S = 10.0
_HURRY_S = 5.0
_ADDRESSES = ("listen", "listen_mtls", "http")
_FACTS_MAX = 64
_EXIT_NOT_STARTED = 1
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run(
    settings: Settings,
    *,
    ready: Callable[[str], None] | None = None,
    failed: Callable[[SiraError], None] | None = None,
    verbs: Iterable[tuple[str, str]] = (),
) -> int:
    """Run a node until SIGTERM or SIGINT, and start it again when it dies.

    The first signal drains: nothing new is taken, what was accepted is delivered (`drain_s`). A
    second one ends at once. Belongs to the main thread of a process without other threads.

    Args:
        settings: as `settings.load` gave them.
        ready: told the address when the node serves for the first time; None: a line on stdout.
        failed: told why the node could not start; None: one line on stderr.
        verbs: name and summary of those of the command that runs the node, for `Introspect`.

    Returns:
        0 after an orderly end; 1 when a second signal cut it short; 3 when the node could not
        start (`failed` was told why).
    """
    try:
        with hold(settings.data_path, settings.listen) as folder:
            supervisor = Supervisor(settings, folder, ready or _print_ready, verbs)
            with supervisor.ending_all():
                return supervisor.run()
    except SiraError as error:
        (failed or _print_failed)(error)
        return EXIT_CANNOT_START


def _print_ready(address: str) -> None:
    print(f"sira {__version__} ready on {address}", flush=True)


def _print_failed(error: SiraError) -> None:
    print(f"sira: {error}; {error.help}", file=sys.stderr)


@dataclass(slots=True)
class _Process:
    """A running child."""

    popen: subprocess.Popen[bytes]
    control: Control
    failure: SiraError | None = None  # what it said before it ended
    ended: bool = field(default=False)

    def send(self, number: int) -> None:
        """Send a signal; SIGKILL goes to all that it has started as well."""
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self.popen.pid, number)  # its own session: group and pid are one
            else:
                os.kill(self.popen.pid, number)

    @property
    def runs(self) -> bool:
        """Whether it has not ended; where the system cannot say, it runs until it is reaped."""
        if not hasattr(os, "waitid"):
            return True
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.popen.pid, options) is None

    def reap(self) -> int | None:
        """Return the exit code once it has ended (negative: a signal); None: it runs.

        What it had started is killed first, while its pid cannot be anybody else's.
        """
        if hasattr(os, "waitid"):
            if self.runs:
                return None
            self.send(signal.SIGKILL)
        return self.popen.poll()


class Supervisor:
    """Carries out what `pure.step` decides."""

    def __init__(
        self,
        settings: Settings,
        folder: Folder,
        ready: Callable[[str], None],
        verbs: Iterable[tuple[str, str]],
    ) -> None:
        """Prepare; nothing is started before `run`."""
        self._settings, self._folder, self._ready = settings, folder, ready
        self._verbs = list(verbs)
        self._ports, self._guard = Ports(), Guard()
        self._processes: dict[str, _Process] = {}
        self._facts: deque[pure.Tell] = deque(maxlen=_FACTS_MAX)
        self._unsaid = ""  # address that `ready` has not been told: stdout is full
        self._said = False
        self._failure: SiraError | None = None
        rules = pure.Rules(
            wait_s_min=settings.restart_s_min,
            wait_s_max=settings.restart_s_max,
            drain_s=settings.drain_s + _DRAIN_MORE_S,
            hurry_s=_HURRY_S,
        )
        children = {pure.NODE: pure.Child(pure.NODE)}
        if settings.http:
            children[HTTP] = pure.Child(HTTP, required=True)
        for each in settings.services:
            children[each.name] = pure.Child(each.name, restart=each.restart)
        self._state = pure.State(rules, children)
        self._exit_code: int | None = None

    def run(self) -> int:
        """Start and tend the children until the end; return the exit code.

        Raises:
            SiraError: the node could not start.
        """
        taken = {name: getattr(self._settings, name) for name in _ADDRESSES}
        self._pin({name: self._ports.reserve(each) for name, each in taken.items() if each})
        with _woken_by_signals() as wake:
            self._apply(pure.Passed(time.monotonic_ns()))
            while self._exit_code is None:
                self._wait(wake)
        if self._exit_code == EXIT_CANNOT_START and self._failure is not None:
            raise self._failure
        return self._exit_code

    @contextlib.contextmanager
    def ending_all(self) -> Iterator[None]:
        """Leave no process and no port behind, however the inside ends."""
        try:
            yield
        finally:
            for each in self._processes.values():
                each.send(signal.SIGKILL)
                each.popen.wait()
                each.control.close()
            self._guard.close()
            self._ports.close()

    # ---- what happens ----------------------------------------------------------------------------

    def _wait(self, wake: int) -> None:
        """Wait for the next thing to happen and handle it."""
        poller = select.poll()
        poller.register(wake, select.POLLIN)
        for each in self._processes.values():
            if not each.control.ended:
                more = select.POLLOUT if each.control.unsent else 0
                poller.register(each.control, select.POLLIN | more)
        if self._unsaid and self._all_served:
            poller.register(1, select.POLLOUT)
        poller.poll(self._timeout_ms())
        signals = _drain(wake)
        self._say_ready()
        for name, each in list(self._processes.items()):
            each.control.flush()
            self._hear(name, each)
        for _ in range(sum(number in _SIGNALS for number in signals)):
            self._apply(pure.Asked(time.monotonic_ns()))
        self._reap()
        due_ns = pure.due_ns(self._state)
        if due_ns is not None and due_ns <= time.monotonic_ns():
            self._apply(pure.Passed(time.monotonic_ns()))

    def _timeout_ms(self) -> float | None:
        due_ns = pure.due_ns(self._state)
        return None if due_ns is None else max(0, due_ns - time.monotonic_ns()) / 1e6 + 1

    def _hear(self, name: str, process: _Process) -> None:
        """Handle what a child has said."""
        for message in process.control.receive():
            if "failed" in message:
                process.failure = error_of(message["failed"])
            elif "ready" in message:
                self._serves(name, process, message["ready"])
        starting = self._state.children[name].phase is pure.Phase.STARTING
        if process.control.ended and starting and process.failure is None and process.runs:
            self._apply(pure.Served(name, time.monotonic_ns()))  # it has become its command

    def _serves(self, name: str, process: _Process, addresses: dict[str, str]) -> None:
        self._pin(addresses)
        if name == pure.NODE:
            address = addresses["listen"]
            self._note_address(address, process.popen.pid)
            if not self._said:
                self._said, self._unsaid = True, address
            while self._facts:
                self._tell(process, self._facts.popleft(), late=True)
        self._apply(pure.Served(name, time.monotonic_ns()))
        self._say_ready()

    def _say_ready(self) -> None:
        """Call `ready` once all serve and stdout takes a line.

        A reader that never reads must not stop us.
        """
        if self._unsaid and self._all_served and _writable(1):
            address, self._unsaid = self._unsaid, ""
            self._ready(address)

    @property
    def _all_served(self) -> bool:
        """Whether what `sira up` is there for has served; services come when they can."""
        children = self._state.children.values()
        return all(each.served for each in children if each.required or each.name == pure.NODE)

    def _reap(self) -> None:
        self._guard.tend()
        for name, process in list(self._processes.items()):
            code = process.reap()
            if code is None:
                continue
            self._hear(name, process)  # its last words
            process.control.close()
            self._guard.remove(process.popen.pid)
            del self._processes[name]
            if name == pure.NODE or process.failure is not None:
                # At the end the node goes last: why a child could not start is what one asks then.
                kept = self._failure if self._state.asked else None
                self._failure = process.failure or kept
            now_ns, luck = time.monotonic_ns(), random.random()
            self._apply(pure.Died(name, code, now_ns, luck), process.failure)

    # ---- what is done ----------------------------------------------------------------------------

    def _apply(self, event: pure.Event, failure: SiraError | None = None) -> None:
        self._state, commands = pure.step(self._state, event)
        for command in commands:
            match command:
                case pure.Start(name):
                    self._start(name)
                case pure.Send(name, number):
                    if name in self._processes:
                        self._processes[name].send(number)
                case pure.Tell():
                    self._told(command, failure)
                case pure.Finish(code):
                    self._exit_code = code

    def _start(self, name: str) -> None:
        # The node holds the folder with us; the others may not keep it from the next one.
        held = (self._folder.descriptor,) if name == pure.NODE else ()
        try:
            made = start(plan(name, self._settings, self._verbs), held)
        except OSError as error:
            self._log("error", "start", f"{name} cannot be started: {error}")
            died = pure.Died(name, _EXIT_NOT_STARTED, time.monotonic_ns(), random.random())
            self._apply(died)
            return
        self._processes[name] = _Process(*made)
        if name != pure.NODE:
            self._guard.add(made[0].pid)

    def _pin(self, addresses: dict[str, str]) -> None:
        """Have the next life listen on the same ports."""
        self._settings = dataclasses.replace(self._settings, **addresses)  # type: ignore[arg-type]

    def _note_address(self, address: str, node_pid: int) -> None:
        """Write where the node is. It informs only: a full disk must not end a node."""
        try:
            self._folder.say(address=address, node_pid=node_pid)
        except OSError as error:
            self._log("warning", "lock", f"the lock file does not say the address: {error}")

    def _told(self, fact: pure.Tell, failure: SiraError | None) -> None:
        """Have the node say a fact; of its own end it can say it only later, so we log it."""
        node = self._processes.get(pure.NODE)
        if node is None or self._state.children[pure.NODE].phase is not pure.Phase.SERVING:
            self._facts.append(fact)
            self._log("warning", fact.topic, _why(fact, failure), fact.fields)
        else:
            if failure is not None:
                self._log("error", fact.topic, _why(fact, failure), fact.fields)
            self._tell(node, fact, late=fact.fields["child"] == pure.NODE)

    @staticmethod
    def _tell(node: _Process, fact: pure.Tell, *, late: bool) -> None:
        node.control.send(tell={"topic": fact.topic, "fields": fact.fields, "late": late})

    def _log(
        self, level: str, event: str, message: str, fields: dict[str, str | int] | None = None
    ) -> None:
        """Write a line of the log; one that nobody would read is left out."""
        made = line(self._settings.node_name, level, "supervisor", event, message, fields or {})
        with contextlib.suppress(OSError):
            if _writable(2):
                os.write(2, json.dumps(made).encode() + b"\n")


def _why(fact: pure.Tell, failure: SiraError | None) -> str:
    why = f"{fact.fields['child']}: {fact.fields['reason']}"
    return f"{why}; {failure}" if failure is not None else why


@contextlib.contextmanager
def _woken_by_signals() -> Iterator[int]:
    """Turn signals into bytes of a pipe, its reading end given, while inside."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    numbers = (*_SIGNALS, signal.SIGCHLD)
    kept = {number: signal.signal(number, lambda *_: None) for number in numbers}
    woken_before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield read
    finally:
        signal.set_wakeup_fd(woken_before)
        for number, handler in kept.items():
            signal.signal(number, handler)
        os.close(read)
        os.close(write)


def _drain(descriptor: int) -> bytes:
    """Return what waits in a pipe."""
    try:
        return os.read(descriptor, 65_536)
    except BlockingIOError:
        return b""


def _writable(descriptor: int) -> bool:
    """Whether a write of one line would not block; also where it would fail at once."""
    poller = select.poll()
    poller.register(descriptor, select.POLLOUT)
    return bool(poller.poll(0))
