"""`sira up`: a node as a process. Holds the signals, the lock of the data folder, the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import uvloop

import sira.kernel.binding  # noqa: F401  ties the C core to its errors
from sira import __version__, _native
from sira.kernel.errors import DataDirInUse, DataDirUnusable, SiraError
from sira.kernel.logs import Logs
from sira.kernel.methods import Verb
from sira.kernel.settings import Settings

LOCK_NAME = "node.lock"
_LOCK_FORMAT = "sira-lock 1"  # format name and version: first line of the file
EXIT_OK, EXIT_CUT_SHORT, EXIT_CANNOT_START = 0, 1, 3


def run(
    settings: Settings,
    *,
    ready: Callable[[str], None] | None = None,
    failed: Callable[[SiraError], None] | None = None,
    verbs: Iterable[Verb] = (),
) -> int:
    """Run a node until SIGTERM or SIGINT.

    The first signal drains: nothing new is taken, what was accepted is delivered (`drain_s`). A
    second one ends at once.

    Args:
        settings: as `settings.load` gave them.
        ready: told the address when the node serves; None: one line on stdout.
        failed: told why the node could not start; None: one line on stderr.
        verbs: those of the command that runs the node, for `Introspect`.

    Returns:
        0 after an orderly end; 1 when a second signal cut it short; 3 when the node could not
        start (`failed` was told why).
    """
    try:
        with data_dir(settings.data_path, settings.listen) as lock:
            _native.keep_memory_warm()
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(_serve(settings, lock, ready or _print_ready, verbs))
    except SiraError as error:
        (failed or _print_failed)(error)
        return EXIT_CANNOT_START


@contextlib.contextmanager
def data_dir(path: Path, listen: str) -> Iterator[Path]:
    """Hold the data folder while the node lives; made if it is not there. Yields the lock file.

    The lock is the kernel's (flock): it is gone with the process, however that ends.

    Raises:
        DataDirInUse: another node holds it.
        DataDirUnusable: it cannot be made or written.
    """
    lock = path / LOCK_NAME
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = _holder(lock)
            raise DataDirInUse(
                f"data folder {path} is held by another node{holder}",
                details={"data_dir": str(path)},
            ) from None
        try:
            _write_lock(descriptor, listen)
        except OSError as error:
            raise _unusable(path, error) from error
        yield lock
    finally:
        os.close(descriptor)


def _unusable(path: Path, error: OSError) -> DataDirUnusable:
    return DataDirUnusable(
        f"data folder {path} cannot be used: {error.strerror}", details={"data_dir": str(path)}
    )


def _write_lock(descriptor: int, address: str) -> None:
    """Say who holds the folder.

    Raises:
        OSError: the disk took nothing, or not all.
    """
    text = f"{_LOCK_FORMAT}\npid {os.getpid()}\naddress {address}\n".encode()
    os.ftruncate(descriptor, 0)
    if os.pwrite(descriptor, text, 0) < len(text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _holder(lock: Path) -> str:
    """Return who holds the folder, for the error line; "" where the file does not say."""
    try:
        lines = lock.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return f" ({lines[1]}, {lines[2]})" if lines[:1] == [_LOCK_FORMAT] and len(lines) > 2 else ""


def _print_ready(address: str) -> None:
    print(f"sira {__version__} ready on {address}", flush=True)


def _print_failed(error: SiraError) -> None:
    print(f"sira: {error}; {error.help}", file=sys.stderr)


async def _serve(
    settings: Settings, lock: Path, ready: Callable[[str], None], verbs: Iterable[Verb]
) -> int:
    from sira.kernel.node import Node  # loads gRPC, which reads its environment then

    logs = Logs(node=settings.node_name, level=settings.log_level, queue_max=settings.log_queue_max)
    node = Node(settings, logs=logs)
    for verb in verbs:
        node.catalog.add_verb(verb)
    signals = _Signals()
    try:
        await node.start()
        _name_address(lock, node.address, logs)
        ready(node.address)
        await signals.first.wait()
        logs.info("daemon", "signal", "draining; a second signal ends at once")
        stopping = asyncio.ensure_future(node.stop())
        hurry = asyncio.ensure_future(signals.second.wait())
        await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        in_time = stopping.done()
        if not in_time:
            logs.warning("daemon", "signal", "ending at once; what was not taken is lost")
            stopping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await stopping
        return EXIT_OK if in_time else EXIT_CUT_SHORT
    finally:
        signals.close()
        logs.close()


def _name_address(lock: Path, address: str, logs: Logs) -> None:
    """Write the address that port 0 became. It informs only: a full disk must not end a node."""
    try:
        descriptor = os.open(lock, os.O_WRONLY | os.O_CLOEXEC)
        try:
            _write_lock(descriptor, address)
        finally:
            os.close(descriptor)
    except OSError as error:
        logs.warning("daemon", "lock", f"{lock} does not say the address: {error.strerror}")


class _Signals:
    """SIGTERM and SIGINT as events: the first, and any after it."""

    def __init__(self) -> None:
        self.first, self.second = asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._note)

    def close(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.remove_signal_handler(number)

    def _note(self) -> None:
        (self.second if self.first.is_set() else self.first).set()
