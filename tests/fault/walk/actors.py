"""The processes of a walk: a publisher, subscribers, a node. Forked, so `sira` is imported once.

Each fact is one line of a file, written with one write(2) before the next step, so that whoever
is killed leaves whole lines: `sent L N` before, `ok L N MATCHED LANE` or `no L N CODE` after, `got
L N` when the application has it. L is the topic, N counts from 0 on each.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import itertools
import json
import os
import signal
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

import sira
import sira.client.bus
import sira.client.local.transport  # both are imported late otherwise: in each process
from sira import _native
from sira.kernel.local import record
from sira.kernel.local.channel import Channel, Record
from tests.integration.local.raw import running

# Of each six messages: three go in a slot, two in chunks, one is a loan. Those in slots come first
# and together: a route is used before it is left for want of memory that its readers have mapped.
FLOATS = (4, 4, 4, 2_000, 2_000, 16_000)
VIEWS = 4  # what a subscriber keeps looking at
IDLE_S = 0.05  # nothing comes for so long: it looks at nothing more
CHURN_S = 0.5
ASK_S = 2.0  # who is asked may be dead
ANSWER_S = 200.0  # shorter than the watchdog of who waits for it
_PR_SET_PDEATHSIG = 1
_native_faults: Any = _native  # the test build has more than the stubs say


@dataclass(frozen=True)
class Fault:
    """What is to happen to a process: a signal at the n-th pass of a point."""

    point: str
    count: int
    signal: signal.Signals


class Facts:
    """The file that one process writes its facts to."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def say(self, text: str) -> None:
        os.write(self._fd, f"{text}\n".encode())

    def passes(self, when: str) -> None:
        """Say how often each point was passed up to now."""
        found = _native_faults.fault_passes() | _records
        self.say(f"passes {when} {json.dumps({k: n for k, n in found.items() if n})}")


# ---- fault points of the records -----------------------------------------------------------------
RECORDS = {
    getattr(record, name): name.lower()
    for name in ("SEGMENT", "GONE", "RETURNED", "STOP", "LINK", "LINK_OVER", "PAGE", "ROUTE",
                 "ROUTE_LEFT")
}  # fmt: skip
_records: Counter[str] = Counter()


def _point(name: str) -> None:
    _records[name] += 1
    _native_faults.fault_point(name)


def install_record_points() -> None:
    """Have a point behind each record of shared memory that leaves, before each that is taken."""
    send, send_descriptors, init = Channel.send, Channel.send_descriptors, Channel.__init__

    def send_(self: Channel, kind: int, *rest: Any) -> None:
        send(self, kind, *rest)
        if kind in RECORDS:
            _point(f"{RECORDS[kind]}.sent")

    def send_descriptors_(self: Channel, kind: int, *rest: Any) -> None:
        send_descriptors(self, kind, *rest)
        if kind in RECORDS:
            _point(f"{RECORDS[kind]}.sent")

    def init_(self: Channel, *rest: Any, taken: Callable[[list[Record]], None], lost: Any) -> None:
        def taken_(records: list[Record]) -> None:
            for each in records:
                if each[0] in RECORDS:
                    _point(f"{RECORDS[each[0]]}.came")
            taken(records)

        init(self, *rest, taken=taken_, lost=lost)

    Channel.send = send_  # type: ignore[method-assign]
    Channel.send_descriptors = send_descriptors_  # type: ignore[method-assign]
    Channel.__init__ = init_  # type: ignore[method-assign]


# ---- processes -----------------------------------------------------------------------------------
_Work = Callable[[Facts, asyncio.Event], Coroutine[Any, Any, None]]


def _process(path: str, fault: Fault | None, work: _Work) -> None:
    """Be one process: SIGTERM ends it in order, SIGUSR1 arms what the file beside says.

    SIGUSR2 has it say how often it has passed each point.
    """
    # Whoever forked it, and so the walk itself, takes it along, whatever kills that.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    facts = Facts(path)
    os.environ["SIRA_SHM_BYTES_MIN"] = "1024"
    install_record_points()
    if fault is not None:
        _native_faults.fault_arm(fault.point, fault.count, fault.signal)

    async def main() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_signal_handler(signal.SIGUSR1, arm)
        loop.add_signal_handler(signal.SIGUSR2, facts.passes, "asked")
        await work(facts, stop)

    def arm() -> None:
        point, count, number = json.loads(Path(f"{path}.arm").read_text())
        _native_faults.fault_arm(point, count, number)
        facts.say("armed")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
    facts.passes("end")
    facts.say("done")


def node(path: str, fault: Fault | None, folder: str) -> None:
    """Be a node with its socket in `folder`."""

    async def work(facts: Facts, stop: asyncio.Event) -> None:
        async with running(Path(folder)):
            facts.say("ready")
            await stop.wait()
            facts.passes("flow")

    _process(path, fault, work)


def subscriber(path: str, fault: Fault | None, url: str, *patterns: str) -> None:
    """Take what comes on the patterns, answer requests, keep views for a while."""

    async def take(bus: sira.Bus, pattern: str, facts: Facts, stop: asyncio.Event) -> None:
        views: deque[tuple[int, np.ndarray[Any, Any]]] = deque()

        def let_go(kept: int) -> None:
            while len(views) > kept:
                number, view = views.popleft()
                if not (view == np.float32(number)).all():
                    facts.say(f"CORRUPT {number}")

        async with bus.subscribe(pattern) as messages:
            facts.say("open")
            while not stop.is_set():
                try:
                    message = await messages.next(timeout_s=IDLE_S)
                except sira.Timeout:
                    let_go(0)
                    continue
                if message.reply_to:
                    with contextlib.suppress(sira.SiraError):  # who asked is gone
                        await message.reply({"y": message["x"]})
                    continue
                number = int(message["n"])
                views.append((number, message["x"]))
                let_go(VIEWS)
                facts.say(f"got {message.topic} {number}")
                del message
            let_go(0)

    async def work(facts: Facts, stop: asyncio.Event) -> None:
        async with sira.connect(url, timeout_s=ANSWER_S) as bus, asyncio.TaskGroup() as tasks:
            for pattern in patterns:
                tasks.create_task(take(bus, pattern, facts, stop))
            await stop.wait()
            facts.passes("flow")

    _process(path, fault, work)


def beside(path: str, fault: Fault | None, url: str, base: str, pause_s: float) -> None:
    """Publish past the node and by it, and nothing more."""

    async def work(facts: Facts, stop: asyncio.Event) -> None:
        async with (
            sira.connect(url, timeout_s=ANSWER_S) as bus,
            by_node(url) as noded,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(flow(bus, f"{base}.d", facts, stop, pause_s))
            tasks.create_task(flow(noded, f"{base}.n", facts, stop, 4 * pause_s))

    _process(path, fault, work)


def publisher(path: str, fault: Fault | None, url: str, base: str, pause_s: float) -> None:
    """Publish past the node, by it, what expires, and requests, until SIGTERM."""

    async def work(facts: Facts, stop: asyncio.Event) -> None:
        async with sira.connect(url, timeout_s=ANSWER_S) as bus, by_node(url) as noded:
            facts.say("ready")
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(flow(bus, f"{base}.d", facts, stop, pause_s))
                tasks.create_task(flow(noded, f"{base}.n", facts, stop, 5 * pause_s))
                tasks.create_task(expiring(bus, f"{base}.e", stop, 5 * pause_s))
                tasks.create_task(asks(bus, f"{base}.q", facts, stop, 5 * pause_s))
                tasks.create_task(churn(bus, url, base, stop))
            facts.passes("flow")
            await all_back(facts, bus, noded)

    _process(path, fault, work)


@contextlib.asynccontextmanager
async def by_node(url: str) -> AsyncIterator[sira.Bus]:
    """Connect a client whose messages all go by the node, tensors by reference."""
    os.environ["SIRA_DIRECT"] = "off"
    try:
        async with sira.connect(url, timeout_s=ANSWER_S) as bus:
            del os.environ["SIRA_DIRECT"]
            yield bus
    finally:
        os.environ.pop("SIRA_DIRECT", None)


async def flow(
    bus: sira.Bus, topic: str, facts: Facts, stop: asyncio.Event, pause_s: float
) -> None:
    for number in itertools.count():
        if stop.is_set():
            return
        floats = FLOATS[number % len(FLOATS)]
        facts.say(f"sent {topic} {number}")
        try:
            if floats == max(FLOATS):
                tensors = {"n": "i64", "x": f"f32[{floats}]"}
                async with bus.loan(topic, tensors, timeout_s=ANSWER_S) as out:
                    out["n"][...] = number
                    out["x"][:] = number
                receipt = out.receipt
                del out
            else:
                body = {"n": np.int64(number), "x": np.full(floats, number, np.float32)}
                receipt = await bus.publish(topic, body, timeout_s=ANSWER_S)
        except sira.SiraError as error:
            facts.say(f"no {topic} {number} {error.code}")
        else:
            facts.say(f"ok {topic} {number} {receipt.matched} {receipt.lanes[0]}")
        await asyncio.sleep(pause_s)


async def expiring(bus: sira.Bus, topic: str, stop: asyncio.Event, pause_s: float) -> None:
    """Publish what nobody can take in time."""
    body = {"n": np.int64(0), "x": np.zeros(2_000, np.float32)}
    while not stop.is_set():
        with contextlib.suppress(sira.SiraError):
            await bus.publish(topic, body, ttl_s=1e-6, timeout_s=ANSWER_S)
        await asyncio.sleep(pause_s)


async def asks(
    bus: sira.Bus, topic: str, facts: Facts, stop: asyncio.Event, pause_s: float
) -> None:
    for number in itertools.count():
        if stop.is_set():
            return
        try:
            reply = await bus.request(topic, {"x": number}, timeout_s=ASK_S)
        except sira.SiraError:
            facts.say("unanswered")
        else:
            facts.say("answered" if int(reply["y"]) == number else f"CORRUPT {number}")
        await asyncio.sleep(pause_s)


async def churn(bus: sira.Bus, url: str, base: str, stop: asyncio.Event) -> None:
    """Ask for routes that are refused; move the words of all topics; borrow for a moment."""
    while not stop.is_set():
        with contextlib.suppress(sira.SiraError):
            for _ in range(3):
                await bus.publish(f"nobody.{base}", b"")
            # Who subscribes to a pattern moves all words: routes are left, and asked for anew.
            async with (
                sira.connect(url) as other,
                other.subscribe(f"{base}.nothing.*"),
                other.subscribe(f"{base}.n") as messages,
            ):
                await messages.next(timeout_s=CHURN_S)
                await asyncio.sleep(CHURN_S)


async def all_back(facts: Facts, *clients: sira.Bus) -> None:
    """Wait until nobody looks at anything that was lent."""
    until_s = time.monotonic() + ANSWER_S
    while any(each.connection.lender.arenas.lent_bytes for each in clients):
        if time.monotonic() > until_s:
            left = [each.connection.lender.arenas.lent_bytes for each in clients]
            facts.say(f"HELD {left} bytes")
            return
        gc.collect()
        await asyncio.sleep(0.02)


def native_points() -> list[str]:
    """Return the names of all points in C."""
    return list(_native_faults.fault_passes())
