"""Where a journal keeps its files: a folder, or memory. It may block: call it in a thread."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Protocol

from sira.kernel.folders import sync_folder


class Storage(Protocol):
    """Files by name, and what a disk promises of them.

    What was written is there after power loss once `sync` of its file has returned; that a file is
    there under its name, once `sync_folder` has. Every method may raise OSError. Two threads may
    use two files at once.

    Attributes:
        waits: whether it may keep its caller waiting for a disk.
    """

    waits: bool

    def names(self) -> list[str]:
        """Return the names of all files."""
        ...

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        ...

    def create(self, name: str) -> None:
        """Make a file, empty; one that is there is emptied."""
        ...

    def append(self, name: str, data: bytes) -> None:
        """Write at the end of a file. When it raises, a part of `data` may be there."""
        ...

    def truncate(self, name: str, length_bytes: int) -> None:
        """Cut a file."""
        ...

    def sync(self, name: str) -> None:
        """Wait until what was written to a file is on disk."""
        ...

    def rename(self, name: str, to: str) -> None:
        """Give a file another name; one that has it already goes."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file."""
        ...

    def sync_folder(self) -> None:
        """Wait until all names are on disk."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


class FolderStorage:
    """A folder of the real disk; made, mode 0700, when it is not there."""

    waits = True

    def __init__(self, path: Path) -> None:
        """Open the folder.

        Raises:
            OSError: it cannot be made or opened.
        """
        made = not path.is_dir()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if made:
            sync_folder(path.parent)
        self._path = path
        self._open: dict[str, int] = {}  # descriptors of files that are written

    def names(self) -> list[str]:
        """Return the names of all files."""
        return sorted(each.name for each in self._path.iterdir() if each.is_file())

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        return (self._path / name).read_bytes()

    def create(self, name: str) -> None:
        """Make a file, empty."""
        self._close(name)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        self._open[name] = os.open(self._path / name, flags, 0o600)

    def append(self, name: str, data: bytes) -> None:
        """Write all of it at the end of a file."""
        descriptor, left = self._descriptor(name), memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]

    def truncate(self, name: str, length_bytes: int) -> None:
        """Cut a file."""
        os.ftruncate(self._descriptor(name), length_bytes)

    def sync(self, name: str) -> None:
        """Wait for the disk (fdatasync)."""
        os.fdatasync(self._descriptor(name))

    def rename(self, name: str, to: str) -> None:
        """Give a file another name."""
        self._close(to)
        os.replace(self._path / name, self._path / to)
        if name in self._open:
            self._open[to] = self._open.pop(name)

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is removed already."""
        self._close(name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path / name)

    def sync_folder(self) -> None:
        """Wait until all names are on disk."""
        sync_folder(self._path)

    def close(self) -> None:
        """Close what is open."""
        for name in list(self._open):
            self._close(name)

    def _descriptor(self, name: str) -> int:
        if name not in self._open:
            flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
            self._open[name] = os.open(self._path / name, flags)
        return self._open[name]

    def _close(self, name: str) -> None:
        if name in self._open:
            os.close(self._open.pop(name))


class MemoryStorage:
    """Files in memory, for a node that has no folder; gone with the process."""

    waits = False

    def __init__(self) -> None:
        """Begin empty."""
        self._files: dict[str, bytearray] = {}

    def names(self) -> list[str]:
        """Return the names of all files."""
        return sorted(self._files)

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        return bytes(self._files[name])

    def create(self, name: str) -> None:
        """Make a file, empty."""
        self._files[name] = bytearray()

    def append(self, name: str, data: bytes) -> None:
        """Write at the end of a file."""
        self._files[name] += data

    def truncate(self, name: str, length_bytes: int) -> None:
        """Cut a file."""
        del self._files[name][length_bytes:]

    def sync(self, name: str) -> None:
        """Nothing to wait for."""

    def rename(self, name: str, to: str) -> None:
        """Give a file another name."""
        self._files[to] = self._files.pop(name)

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is removed already."""
        self._files.pop(name, None)

    def sync_folder(self) -> None:
        """Nothing to wait for."""

    def close(self) -> None:
        """Nothing to let go of: who holds it may open it again."""
