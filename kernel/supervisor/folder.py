"""The data folder: one node holds it, and it says who.

The lock is the kernel's (flock) and belongs to the open file, which the node inherits: it is gone
when supervisor and node both are, so that no second node begins beside one that still dies.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sira.kernel.errors import DataDirInUse, DataDirUnusable

LOCK_NAME = "node.lock"
_FORMAT = "sira-lock 1"  # format name and version: first line of the file


@dataclass(frozen=True, slots=True)
class Folder:
    """A data folder that we hold.

    Attributes:
        path: the folder.
        descriptor: of the locked file; whoever inherits it holds the folder too.
    """

    path: Path
    descriptor: int

    def say(self, *, address: str, node_pid: int = 0) -> None:
        """Write who holds the folder and where the node listens.

        Raises:
            OSError: the disk took nothing, or not all.
        """
        lines = [_FORMAT, f"pid {os.getpid()}", f"address {address}"]
        lines += [f"node {node_pid}"] if node_pid else []
        text = "".join(f"{line}\n" for line in lines).encode()
        os.ftruncate(self.descriptor, 0)
        if os.pwrite(self.descriptor, text, 0) < len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def hold(path: Path, listen: str) -> Iterator[Folder]:
    """Hold the data folder while inside; made if it is not there.

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
    folder = Folder(path, descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataDirInUse(
                f"data folder {path} is held by another node{_holder(lock)}",
                details={"data_dir": str(path)},
            ) from None
        try:
            folder.say(address=listen)
        except OSError as error:
            raise _unusable(path, error) from error
        yield folder
    finally:
        os.close(descriptor)


def holder(path: Path) -> dict[str, str]:
    """Return what the lock file of a folder says: `pid`, `address`, `node`; {}: nothing."""
    try:
        text = (path / LOCK_NAME).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    first, *lines = text.splitlines() or [""]
    return dict(line.split(" ", 1) for line in lines if " " in line) if first == _FORMAT else {}


def _unusable(path: Path, error: OSError) -> DataDirUnusable:
    return DataDirUnusable(
        f"data folder {path} cannot be used: {error.strerror}", details={"data_dir": str(path)}
    )


def _holder(lock: Path) -> str:
    """Return who holds the folder, for the error line; "" where the file does not say."""
    known = holder(lock.parent)
    if "pid" not in known or "address" not in known:
        return ""
    return f" (pid {known['pid']}, address {known['address']})"
