"""Files that hold while the node runs: read at the start, and again when they change.

One with an error never takes hold: at the start the node does not start, later the old one stays
and the error is told, once for each state of the file.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from sira.kernel.errors import BadSetting, SiraError

_Signature = tuple[tuple[int, int, int] | None, ...]


@dataclass(slots=True)
class _Watched:
    name: str
    paths: Callable[[], tuple[str, ...]]
    read: Callable[[], Any]
    apply: Callable[[Any], Awaitable[None]]
    seen: _Signature


class Reloader:
    """Looks at files every so often and applies what they have become. Belongs to one loop."""

    def __init__(
        self,
        *,
        every_s: float,
        refused: Callable[[str, SiraError], None],
    ) -> None:
        """Begin with nothing to look at.

        Args:
            every_s: between two looks.
            refused: told the name and what is wrong with what the file has become.
        """
        self._every_s, self._refused = every_s, refused
        self._watched: list[_Watched] = []
        self._look_now = asyncio.Event()

    def add(
        self,
        name: str,
        paths: tuple[str, ...] | Callable[[], tuple[str, ...]],
        read: Callable[[], Any],
        apply: Callable[[Any], Awaitable[None]],
    ) -> Any:
        """Read files now, and again whenever one of them changes.

        Args:
            name: of the setting, for those who are told.
            paths: what is looked at; one that does not exist may come later. A function is
                asked anew each time: a file may name others.
            read: gives the value; called in a thread later on.
            apply: puts a later value in force; the first is returned instead.

        Raises:
            SiraError: what `read` raises the first time.
        """
        named = paths if callable(paths) else lambda: paths
        seen = _signature(named())
        value = read()
        self._watched.append(_Watched(name, named, read, apply, seen))
        return value

    def look(self) -> None:
        """Look at all files at once (SIGHUP)."""
        self._look_now.set()

    async def run(self) -> None:
        """Look every so often, for ever."""
        while True:
            try:
                async with asyncio.timeout(self._every_s):
                    await self._look_now.wait()
            except TimeoutError:
                pass
            self._look_now.clear()
            for each in self._watched:
                await self._look_at(each)

    async def _look_at(self, each: _Watched) -> None:
        found = _signature(each.paths())
        if found == each.seen:
            return
        each.seen = found
        try:
            value = await asyncio.to_thread(each.read)
            await each.apply(value)
        except SiraError as error:
            self._refused(each.name, error)
        except Exception as error:  # a reader's fault must not end all reloading
            self._refused(each.name, BadSetting(f"{each.name}: {type(error).__name__}: {error}"))


def _signature(paths: tuple[str, ...]) -> _Signature:
    """Return what changes when a file does: a new one, a rewritten one, one that is gone."""
    found: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            stat = os.stat(path)
        except OSError:
            found.append(None)
        else:
            found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return tuple(found)
