"""The stage of a walk: a node, a pair beside, a bystander, and what they wrote down."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import tempfile
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple, Self

import psutil

import sira
from sira.kernel.local.record import SOCKET_NAME
from tests.fault import bus as fault
from tests.fault.bus import Broken

from . import actors

# Of each wait. Nothing takes so long but on a machine where much else runs.
WATCHDOG_S = 300.0
wait_for = partial(fault.wait_for, timeout_s=WATCHDOG_S)
BESIDE = "beside.w"  # topics of the pair that nobody breaks
PAUSE_S, BESIDE_PAUSE_S = 0.004, 0.02


class Sent(NamedTuple):
    """One message that was accepted."""

    number: int
    matched: int
    lane: str


class Actor:
    """One process, and the facts that it wrote."""

    def __init__(self, process: BaseProcess, path: Path) -> None:
        self.process, self.path = process, path
        self._read_bytes = 0
        self.said: set[str] = set()
        self.sent: dict[str, int] = defaultdict(int)  # by topic, how many
        self.ok: dict[str, list[Sent]] = defaultdict(list)
        self.no: dict[str, dict[int, str]] = defaultdict(dict)
        self.got: dict[str, list[int]] = defaultdict(list)
        self.passes: dict[str, dict[str, int]] = {}
        self.answered = self.opens = 0
        self.wrong: list[str] = []

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def look(self) -> Self:
        """Read what it has written since."""
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(self._read_bytes)
            data = file.read()
            end = data.rfind(b"\n") + 1
            self._read_bytes += end
            for line in data[:end].decode().splitlines():
                self._take(line)
        return self

    def _take(self, line: str) -> None:
        match line.split(" ", 2):
            case ["sent", topic, _]:
                self.sent[topic] += 1
            case ["ok", topic, rest]:
                number, matched, lane = rest.split()
                self.ok[topic].append(Sent(int(number), int(matched), lane))
            case ["no", topic, rest]:
                number, code = rest.split()
                self.no[topic][int(number)] = code
            case ["got", topic, number]:
                self.got[topic].append(int(number))
            case ["passes", when, found]:
                self.passes[when] = json.loads(found)
            case ["answered"]:
                self.answered += 1
            case ["unanswered"]:
                pass
            case ["open"]:
                self.opens += 1
                self.said.add(line)
            case ["CORRUPT" | "HELD", *_]:
                self.wrong.append(f"{self.path.stem}: {line}")
            case _:
                self.said.add(line)

    def has(self, word: str) -> bool:
        return word in self.look().said

    @property
    def opened(self) -> int:
        """How many subscriptions it has open."""
        return self.look().opens

    @property
    def is_over(self) -> bool:
        return self.process.exitcode is not None

    @property
    def is_stopped(self) -> bool:
        try:
            return psutil.Process(self.pid).status() == psutil.STATUS_STOPPED
        except psutil.NoSuchProcess:
            return False

    def signal(self, number: signal.Signals) -> None:
        if not self.is_over:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def join(self) -> None:
        self.process.join(WATCHDOG_S)
        if not self.is_over:
            raise Broken(f"{self.path.stem} does not end")
        self.look()

    def end(self) -> None:
        """End it in order."""
        self.signal(signal.SIGTERM)
        self.join()
        if "done" not in self.said:
            raise Broken(f"{self.path.stem} ended with {self.process.exitcode}, not in order")


class Stage:
    """All that runs beside the one that is broken, and the node between them."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([actors.__name__])
        self.folder = Path(tempfile.mkdtemp(prefix="sira-w-"))
        self.url = f"unix:{self.folder / SOCKET_NAME}"
        self._every: list[Actor] = []
        self.node = self._start_node()
        self.node_died = False
        reader = self.start(actors.subscriber, f"{BESIDE}.>")
        self.bystander = self.start(actors.subscriber, "walk.*.d", "walk.*.n")
        wait_for(lambda: reader.opened + self.bystander.opened == 3, "all have subscribed")
        self.beside = [reader, self.start(actors.beside, BESIDE, BESIDE_PAUSE_S)]
        self.bus = sira.connect_sync(self.url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        with contextlib.suppress(sira.SiraError):
            self.bus.close()
        for each in self._every:
            each.signal(signal.SIGKILL)
            each.process.join()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(
        self, work: Callable[..., None], *given: Any, fault: actors.Fault | None = None
    ) -> Actor:
        """Fork a client."""
        return self._fork(work, fault, self.url, *given)

    def _fork(self, work: Callable[..., None], fault: actors.Fault | None, *given: Any) -> Actor:
        path = self.folder / f"{work.__name__}{len(self._every)}"
        process = self._context.Process(target=work, args=(str(path), fault, *given))
        process.start()
        actor = Actor(process, path)
        self._every.append(actor)
        return actor

    def _start_node(self) -> Actor:
        made = self._fork(actors.node, None, str(self.folder))
        wait_for(lambda: made.has("ready") or made.is_over, "the node serves")
        if made.is_over:
            raise Broken("the node does not start")
        return made

    def start_node_again(self) -> None:
        """Start a node in the place of the one that is dead."""
        self.node_died = True
        self.node.process.join()
        self.node = self._start_node()

    def arm(self, actor: Actor, fault: actors.Fault) -> None:
        """Arm a process that runs."""
        armed = [fault.point, fault.count, fault.signal]
        Path(f"{actor.path}.arm").write_text(json.dumps(armed))
        actor.signal(signal.SIGUSR1)
        wait_for(lambda: actor.has("armed"), "it is armed")

    def cpu_s(self) -> float:
        """Return what all processes have used so far, in s."""
        own = psutil.Process()
        every = [own.cpu_times(), *(each.cpu_times() for each in own.children(recursive=True))]
        forked = [each.cpu_times() for each in own.children()]
        return sum(each.user + each.system for each in every) + sum(
            each.children_user + each.children_system for each in forked
        )

    # ---- what is seen ----------------------------------------------------------------------------

    def beside_got(self) -> int:
        """Return how many messages the pair beside has exchanged."""
        return sum(len(got) for got in self.beside[0].look().got.values())

    def ledger(self, pattern: str) -> sira.Ledger | None:
        """Return the node's ledger; None: there is no node right now."""
        try:
            return self.bus.ledger(pattern)
        except sira.SiraError:
            return None

    def memory(self, base: str) -> str:
        """Return what is wrong with the memory that the node knows of; "": nothing of `base`."""
        try:
            found = self.bus.memory()
        except sira.SiraError as error:
            return f"no node: {error}"
        live = {f"pid={each.pid}," for each in self._every if not each.is_over}
        live.add(f"pid={os.getpid()},")

        def dead(*parties: Any) -> bool:
            return any(
                each.gone or not any(pid in f"{each.peer}," for pid in live) for each in parties
            )

        for segment in found.segments:
            holders = [holder.party for holder in segment.holders]
            if segment.topic.startswith(f"{base}.") or dead(segment.owner, *holders):
                return f"segment {segment}"
        for link in found.links:
            cells = [cell for cell in link.cells if cell.topic.startswith(f"{base}.")]
            if cells or dead(link.writer, link.reader):
                return f"link {link}"
        return ""
