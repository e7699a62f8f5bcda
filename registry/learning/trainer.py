"""Trains while the node runs: one process at a time, under a lease, and never in the node's way.

Who learns is a process of its own (`child`), for it takes a core for seconds and half a gigabyte.
What it made is checked, put in its place by rename, published as a row of the table `learned`, and
used. Whatever goes wrong, discovery goes on with what it had: the process is killed, the kind of
agents rests for longer and longer, and is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, Protocol

from sira.consensus.tables import Tables
from sira.kernel.errors import BadRequest, Conflict, SiraError
from sira.kernel.folders import sync_folder
from sira.kernel.slices import Pace
from sira.kernel.supervisor.child import ONE_THREAD
from sira.registry.learning import child, stored
from sira.registry.learning.lease import TTL_S, Lease
from sira.registry.learning.stored import Trained
from sira.registry.learning.when import Past, Rules, Seen, due_s, rest_until_s
from sira.registry.search import Search

_log = logging.getLogger("sira.registry")

FOLDER = "learned"
TABLE = "learned"
_SUFFIX = ".sira"
_FORMAT = 1
_SLICE_S = 0.002
_CHUNK_BYTES = 1 << 20
_GIVEN_BYTES_MAX = 1 << 30
Of = tuple[str, str]  # tenant, kind


class Told(Protocol):
    """Is told of each training."""

    def trained(self, made: Trained, took_s: float) -> None:
        """One has ended well."""

    def failed(self, tenant: str, kind: str, reason: str, past: Past) -> None:
        """One has not."""


@dataclass(slots=True)
class _State:
    """One kind of agents. `look_s`: when to look at what has moved; inf: nothing has."""

    look_s: float = math.inf
    past: Past | None = None


class _Failed(Exception):
    """A training did not end well."""


class Trainer:
    """All trainings of a node. Belongs to its loop."""

    def __init__(
        self,
        folder: Path,
        tables: Tables,
        rules: Rules,
        *,
        limit_s: float,
        node: str,
        model_dir: str,
        embedder: str,
        search_of: Callable[[str], Search],
        told: Told,
    ) -> None:
        """Prepare.

        Args:
            folder: of the node's data; nobody else writes under FOLDER in it.
            limit_s: of one training, by the clock and of CPU.
            node: its name, for people.
            model_dir, embedder: of the model whose vectors are used; "": none is.
            search_of: the search of a tenant.
        """
        self._folder, self._tables, self._rules = folder / FOLDER, tables, rules
        self._limit_s, self._node = limit_s, node
        self._model_dir, self._embedder = model_dir, embedder
        self._search_of, self._told = search_of, told
        self._states: dict[Of, _State] = {}
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.process: asyncio.subprocess.Process | None = None  # that learns just now
        self.trained = self.failed = 0  # since the start
        self.is_looking = False

    async def start(self) -> None:
        """Use what an earlier life has learned, and go on."""
        await asyncio.to_thread(self._folder.mkdir, exist_ok=True)
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            try:
                made = await asyncio.to_thread(_read, path)
                self._check(made)
                self._check_published(made)
            except (BadRequest, OSError):  # torn, or of another model: it is learned again
                path.unlink(missing_ok=True)
                continue
            self._search_of(made.tenant).use(made)
        self._task = asyncio.get_running_loop().create_task(self._run(), name="sira-trainer")

    async def stop(self) -> None:
        """End, and the process with it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def moved(self, tenant: str, kind: str) -> None:
        """Take note that there may be other examples. It is called for each registration."""
        state = self._states.get((tenant, kind))
        if state is None:
            state = self._states[tenant, kind] = _State()
        if state.look_s == math.inf:
            now_s = asyncio.get_running_loop().time()
            rest_s = rest_until_s(self._rules, state.past)
            state.look_s = max(now_s + self._rules.settle_s, rest_s)
            self._woken.set()

    # ---- inside ----------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Look at what has moved, and learn where it is worth it, one after the other, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            for of, state in list(self._states.items()):
                if state.look_s <= loop.time():
                    self.is_looking = True
                    await self._look(of, state)
            self.is_looking = False
            look_s = min((each.look_s for each in self._states.values()), default=math.inf)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(None if look_s == math.inf else look_s):
                    await self._woken.wait()
            self._woken.clear()

    async def _look(self, of: Of, state: _State) -> None:
        """Learn, if it is worth it; else look again when it may be."""
        loop = asyncio.get_running_loop()
        state.look_s = math.inf  # what moves from now on is looked at later
        search = self._search_of(of[0])
        before = search.trained(of[1])
        if before is None and not search.may_teach(of[1]):
            return  # nothing to go through all registrations for
        began_s = loop.time()
        try:
            seen, marks = await self._gather(search, of, before)
            due = due_s(self._rules, seen, state.past)
            if due > began_s:
                state.look_s = min(state.look_s, due)
                return
            async with Lease(self._tables, self._node) as lease:
                made = await self._learned(of, marks, lease)
                await self._publish(made, lease.token)
        except Conflict:  # another core learns just now
            state.look_s = loop.time() + TTL_S
            return
        except Exception as error:  # whatever it is: the next one may end well
            self.failed += 1
            failures = 1 if state.past is None else state.past.failures + 1
            state.past = Past(loop.time(), loop.time() - began_s, failures)
            state.look_s = rest_until_s(self._rules, state.past)
            reason = str(error) or type(error).__name__
            if not isinstance(error, _Failed | SiraError | OSError):
                _log.exception("learning of %s %s failed", *of)
            self._told.failed(*of, reason, state.past)
            return
        search.use(made)
        self.trained += 1
        state.past = Past(loop.time(), loop.time() - began_s)
        if state.look_s != math.inf:
            state.look_s = rest_until_s(self._rules, state.past)
        self._told.trained(made, state.past.took_s)

    async def _gather(
        self, search: Search, of: Of, before: Trained | None
    ) -> tuple[Seen, dict[int, int]]:
        """Write what there is to learn from for the child; return what it is, mark -> examples.

        Raises:
            _Failed: it is too much. OSError: it cannot be written.
        """
        folder = self._new
        await asyncio.to_thread(_empty, folder)
        marks, pace, size = dict[int, int](), Pace(slice_s=_SLICE_S), 0
        with (folder / child.GIVEN).open("wb") as file:
            chunk = bytearray()
            for entry, liked in search.lessons(of[1]):
                made = stored.made(entry, liked)
                marks[made.mark] = made.examples
                chunk += made.record
                if len(chunk) > _CHUNK_BYTES:
                    size += len(chunk)
                    if size > _GIVEN_BYTES_MAX:
                        raise _Failed(f"there are more than {_GIVEN_BYTES_MAX >> 20} MiB")
                    chunk = await _written(file, chunk)
                await pace.step()
            await _written(file, chunk)
        known = before.marks if before is not None else {}
        changed = stored.changed(marks, known)
        seen = Seen(len(marks), sum(marks.values()), changed, before.examples if before else 0)
        return seen, marks

    async def _learned(self, of: Of, marks: dict[int, int], lease: Lease) -> Trained:
        """Have a process learn from what was gathered; return what it made, kept on disk.

        Raises:
            _Failed: it died, or was late. SiraError: the lease was lost. OSError: no room on disk.
        """
        self.process = process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", child.__name__, str(os.getpid()), str(self._new),
            self._model_dir, *of, str(math.ceil(self._limit_s)),
            stdin=asyncio.subprocess.DEVNULL, env={**os.environ, **ONE_THREAD},
        )  # fmt: skip
        try:
            code = await self._end_of(process, lease)
        finally:
            self.process = None
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if code:
            raise _Failed(f"its process ended with {code}")
        path = self._new / child.LEARNED
        made = await asyncio.to_thread(_read, path)
        self._check(made)
        if made.marks != marks or (made.tenant, made.kind) != of:
            raise _Failed("it learned from something else")
        await asyncio.to_thread(_put, path, self._folder / _name(of))
        return made

    async def _end_of(self, process: asyncio.subprocess.Process, lease: Lease) -> int:
        """Return how the process ended, as long as the lease holds."""
        holding = asyncio.ensure_future(lease.hold())
        waiting = asyncio.ensure_future(process.wait())
        try:
            await asyncio.wait(
                {holding, waiting}, timeout=self._limit_s, return_when=asyncio.FIRST_COMPLETED
            )
            if waiting.done():
                return waiting.result()
            if holding.done():
                holding.result()
            raise _Failed(f"it was not done after {self._limit_s:g} s")
        finally:
            holding.cancel()
            waiting.cancel()
            await asyncio.gather(holding, waiting, return_exceptions=True)

    def _check(self, made: Trained) -> None:
        """Refuse what this node cannot use. Raises BadRequest."""
        if made.embedder != self._embedder:
            raise BadRequest(f"it was learned with {made.embedder or 'no model'}")

    def _check_published(self, made: Trained) -> None:
        """Refuse what the tables do not name. Raises BadRequest."""
        row = self._tables.get(TABLE, f"{made.tenant}/{made.kind}")
        if row is None or json.loads(row.value).get("version") != made.version:
            raise BadRequest(f"{made.version} was never published")

    async def _publish(self, made: Trained, token: int) -> None:
        """Say in the tables what holds, so that every core may take it by its digest.

        Raises:
            Conflict: somebody with a newer lease has. SiraError: it cannot be written.
        """
        key = f"{made.tenant}/{made.kind}"
        row = self._tables.get(TABLE, key)
        if row is not None and json.loads(row.value).get("token", 0) > token:
            raise Conflict("a newer lease has published", details={"row": key})
        said = {
            "v": _FORMAT,
            "version": made.version,
            "node": self._node,
            "token": token,
            "entries": made.entries,
            "examples": made.examples,
            "held_out": made.held_out,
            "right": made.right,
            "trained_ns": made.trained_ns,
        }
        at = [(TABLE, key, row.changed if row is not None else 0)]
        await self._tables.transact(at, puts=[(TABLE, key, json.dumps(said).encode())])

    @property
    def _new(self) -> Path:
        return self._folder / "new"


def _name(of: Of) -> str:
    """Return the name of a file: of any tenant and kind, and no other's."""
    return blake2b("\0".join(of).encode(), digest_size=16).hexdigest() + _SUFFIX


def _read(path: Path) -> Trained:
    """Read and check a file. Raises BadRequest, OSError."""
    return stored.from_bytes(path.read_bytes())


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


async def _written(file: BinaryIO, chunk: bytearray) -> bytearray:
    """Write in a thread; return the next chunk, empty."""
    await asyncio.to_thread(file.write, chunk)
    return bytearray()


def _put(new: Path, path: Path) -> None:
    """Put a synced file in its place, by rename, and sync the folder; take its folder away."""
    new.replace(path)
    sync_folder(path.parent)
    shutil.rmtree(new.parent, ignore_errors=True)
