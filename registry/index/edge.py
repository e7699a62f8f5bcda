"""Qdrant embedded: a graph of most vectors in a process of its own, and an exact scan of the rest.

All vectors lie in memory, in blocks by their tags (`exact`). A block of `graph_min` vectors and
more gets a graph, built by one process in a new folder beside the old one and held by another
(`graph`). Until it is there, and if it dies, the exact scan serves: only speed depends on it.

A hit of the graph counts only where the vector that it was built of is still the one in memory;
what is newer is in `fresh` and is scanned. When that has grown past a share, the graph is made
anew. A graph left by an earlier life is compared with the vectors in memory and serves for those
that are the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sira.registry.index.exact import Block, Blocks, name_of
from sira.registry.index.graph import HEAD
from sira.registry.index.interface import Collection, Hit, Index, Point, Vector

_log = logging.getLogger("sira.registry")
_NO_TAGS: Mapping[str, str] = {}
_FRESH_MIN, _FRESH_SHARE = 2_048, 0.1
_STALE_SHARE = 0.3
_SLACK = 16
_ROWS_A_STEP = 512  # compared at once: 2 ms
_LOOK_S = 1.0
_AGAIN_S = 60.0  # after a process that failed


class Held:
    """A graph that a process holds, and what is to be scanned beside it.

    Attributes:
        count: vectors that it was built of.
        current: ids of those that are in memory as they were.
        fresh: vectors in memory that it has not.
    """

    def __init__(self, folder: Path, process: asyncio.subprocess.Process, dims: int) -> None:
        """Own the process; `open` connects."""
        self.folder, self.process = folder, process
        self.count = 0
        self.current: set[int] = set()
        self.fresh = Block(dims)
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._number = 0
        self._waiting: dict[int, asyncio.Future[list[Hit]]] = {}
        self._task: asyncio.Task[None]

    @classmethod
    async def open(cls, folder: Path, dims: int) -> Held:
        """Start a process that serves the graph in `folder`; return when it does.

        Raises:
            OSError: it did not start, or could not open the graph.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            process = await _start("serve", folder, dims, theirs.fileno())
        held = cls(folder, process, dims)
        held._reader, held._writer = await asyncio.open_connection(sock=ours)
        try:
            await held._reader.readexactly(HEAD.size)
        except (asyncio.IncompleteReadError, OSError) as error:
            await held.close()
            raise OSError(f"the graph in {folder} was not opened") from error
        held._task = asyncio.get_running_loop().create_task(held._read(), name="sira-graph")
        return held

    @property
    def lost(self) -> bool:
        """Whether the process has ended."""
        return self._task.done()

    async def search(self, vector: Vector, k: int) -> list[Hit]:
        """Return the nearest of the graph, stale ones included. Raises OSError: it is lost."""
        if self.lost:
            raise ConnectionResetError("the graph's process has ended")
        self._number = self._number % 0xFFFF_FFFF + 1
        future: asyncio.Future[list[Hit]] = asyncio.get_running_loop().create_future()
        self._waiting[self._number] = future
        self._writer.write(HEAD.pack(self._number, k) + vector.astype("<f4").tobytes())
        return await future

    async def close(self) -> None:
        """End the process."""
        self._writer.close()
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        if hasattr(self, "_task"):
            await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while True:
                number, hits = HEAD.unpack(await self._reader.readexactly(HEAD.size))
                ids = np.frombuffer(await self._reader.readexactly(8 * hits), "<u8")
                scores = np.frombuffer(await self._reader.readexactly(4 * hits), "<f4")
                future = self._waiting.pop(number, None)
                if future is not None and not future.done():
                    future.set_result(
                        [Hit(*each) for each in zip(ids.tolist(), scores.tolist(), strict=True)]
                    )
        except (asyncio.IncompleteReadError, OSError):
            pass  # it has ended
        finally:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(ConnectionResetError("the graph's process has ended"))
            self._waiting.clear()


class _Large:
    """A block that has a graph, or is to have one."""

    def __init__(self) -> None:
        self.held: Held | None = None  # that serves
        self.coming: Held | None = None  # that is compared with what is in memory
        self.after_s = 0.0  # not tried before

    def put(self, point: Point) -> None:
        """Take note of a vector that has changed."""
        for held in (self.held, self.coming):
            if held is not None:
                held.current.discard(point.id)
                held.fresh.put(point)

    def remove(self, id_: int) -> None:
        """Take note that one is no more."""
        for held in (self.held, self.coming):
            if held is not None:
                held.current.discard(id_)
                if id_ in held.fresh:
                    held.fresh.remove(id_)

    def is_due(self, size: int) -> bool:
        """Whether a graph should be made anew."""
        held = self.held
        if held is None:
            return True
        return len(held.fresh) > max(_FRESH_MIN, _FRESH_SHARE * size) or (
            held.count - len(held.current) > max(_FRESH_MIN, _STALE_SHARE * held.count)
        )


class Edge(Index):
    """The embedded index."""

    def __init__(self, collection: Collection, folder: Path, *, graph_min: int) -> None:
        """Keep graphs under `folder`/NAME-DIGEST; those of other embedders there are removed.

        Args:
            graph_min: vectors of a block from which on there is one. Fewer than 131,072 are
                scanned faster, and all are found (benches/README.md, row recall).
        """
        super().__init__(collection)
        self._folder, self.graph_min = folder / collection.versioned, graph_min
        self._blocks = Blocks(collection)
        self._large: dict[str, _Large] = {}
        for other in folder.glob(f"{collection.name}-*"):
            if other != self._folder:
                shutil.rmtree(other, ignore_errors=True)
        self._task = asyncio.get_running_loop().create_task(self._look(), name="sira-edge")
        self.built = 0  # graphs made since the start

    async def upsert(self, points: Sequence[Point]) -> None:
        """Put points in."""
        self.check(points)
        for each in points:
            self._blocks.put(each)
            large = self._large.get(name_of(self.collection, each.tags))
            if large is not None:
                large.put(each)

    async def delete(self, ids: Sequence[int]) -> None:
        """Take points out."""
        for each in ids:
            if self._blocks.remove(each):
                for large in self._large.values():
                    large.remove(each)

    async def search(
        self, vector: Vector, k: int, *, where: Mapping[str, str] = _NO_TAGS
    ) -> list[Hit]:
        """Return the nearest points: exactly, where there are few or no graph serves."""
        found: list[Hit] = []
        for name, block in self._blocks.matching(where):
            large = self._large.get(name)
            held = large.held if large is not None else None
            if held is None or held.lost:
                found += block.nearest(vector, k)
            else:
                found += await self._search_graph(held, block, vector, k)
        return sorted(found, key=lambda hit: (-hit.score, hit.id))[:k]

    @staticmethod
    async def _search_graph(held: Held, block: Block, vector: Vector, k: int) -> list[Hit]:
        fresh = held.fresh.nearest(vector, k)
        asked = _SLACK + k
        while True:
            try:
                hits = await held.search(vector, min(asked, 0xFFFF))
            except OSError:
                return block.nearest(vector, k)
            found = [hit for hit in hits if hit.id in held.current]
            if len(found) >= k or len(hits) < asked or asked > 0xFFFF:
                return [*found, *fresh]
            asked *= 4

    async def count(self) -> int:
        """Return how many points there are."""
        return len(self._blocks)

    async def close(self) -> None:
        """End all processes."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for large in self._large.values():
            if large.held is not None:
                await large.held.close()

    # ---- making graphs ---------------------------------------------------------------------------

    async def _look(self) -> None:
        """Make graphs for the blocks that are due, one at a time, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            for name, block in self._blocks.blocks():
                if len(block) < self.graph_min:
                    continue
                large = self._large.setdefault(name, _Large())
                if large.held is not None and large.held.lost:
                    held, large.held = large.held, None  # all is scanned until there is another
                    await held.close()
                if loop.time() >= large.after_s and large.is_due(len(block)):
                    try:
                        await self._make(name, large, block)
                    except OSError as error:
                        large.after_s = loop.time() + _AGAIN_S
                        _log.warning("no graph of %s vectors: %s", len(block), error)
            await asyncio.sleep(_LOOK_S)

    async def _make(self, name: str, large: _Large, block: Block) -> None:
        """Make a graph and put it in the place of the old one.

        Raises:
            OSError: no room on disk, or a process failed.
        """
        folder = self._folder / blake2b(name.encode(), digest_size=8).hexdigest()
        dims = self.collection.dims
        if large.held is None and (folder / "graph").exists():
            with contextlib.suppress(OSError):  # of another life; if it cannot be used, a new one
                await self._take(large, block, await Held.open(folder / "graph", dims))
                return
        new = folder / "new"
        await asyncio.to_thread(_write, new, block.parts(), dims)
        process = await _start("build", new, dims)
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        if code:
            raise OSError(f"its process ended with {code}")
        held = await Held.open(new, dims)
        await asyncio.to_thread(_swap, folder)
        held.folder = folder / "graph"
        self.built += 1
        await self._take(large, block, held)

    async def _take(self, large: _Large, block: Block, held: Held) -> None:
        """Serve from a graph, once it is known what of it is as it is in memory."""
        ids = np.load(held.folder / "ids.npy")
        vectors = np.load(held.folder / "vectors.npy", mmap_mode="r")
        held.count, large.coming = len(ids), held
        try:
            for row, id_ in enumerate(ids.tolist()):
                point = block.get(id_)
                if point is not None and np.array_equal(point.vector, vectors[row]):
                    held.current.add(id_)
                    if id_ in held.fresh:
                        held.fresh.remove(id_)
                if row % _ROWS_A_STEP == 0:
                    await asyncio.sleep(0)
            # Rows move while others have the loop; what is put meanwhile is in `fresh` already.
            there = [id_ for _, of_part in block.parts() for id_ in of_part.tolist()]
            for step, id_ in enumerate(there):
                point = block.get(id_)
                if point is not None and id_ not in held.current and id_ not in held.fresh:
                    held.fresh.put(point)
                if step % _ROWS_A_STEP == 0:
                    await asyncio.sleep(0)
        except BaseException:
            await held.close()
            raise
        finally:
            large.coming = None
        before, large.held = large.held, held
        if before is not None:
            await before.close()


async def _start(
    mode: str, folder: Path, dims: int, fd: int | None = None
) -> asyncio.subprocess.Process:
    """Start a process of `graph`. Raises OSError."""
    command = [sys.executable, "-m", "sira.registry.index.graph", str(os.getpid()), mode]
    command += [str(folder), str(dims), *([] if fd is None else [str(fd)])]
    return await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, pass_fds=() if fd is None else (fd,)
    )


def _write(folder: Path, parts: Sequence[tuple[Vector, NDArray[np.int64]]], dims: int) -> None:
    """Write what a graph is to be built of. In a thread: a row that changes meanwhile is stale."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    np.save(folder / "ids.npy", np.concatenate([ids for _, ids in parts]))
    shape = (sum(len(ids) for _, ids in parts), dims)
    with (folder / "vectors.npy").open("wb") as file:
        head = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(file, head)
        for vectors, _ in parts:
            file.write(vectors.data)  # others have the interpreter meanwhile


def _swap(folder: Path) -> None:
    """Put the graph that was made in the place of the old one, by rename."""
    shutil.rmtree(folder / "old", ignore_errors=True)
    if (folder / "graph").exists():
        (folder / "graph").rename(folder / "old")
    (folder / "new").rename(folder / "graph")
    shutil.rmtree(folder / "old", ignore_errors=True)
