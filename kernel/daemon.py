"""The node as a process: a child of the supervisor. Holds its loop, its signals, its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import uvloop

import sira.kernel.binding  # noqa: F401  ties the C core to its errors
from sira import _native
from sira.kernel.errors import SiraError
from sira.kernel.events import Field
from sira.kernel.logs import Logs
from sira.kernel.methods import Verb
from sira.kernel.node import Node  # loads gRPC, which reads its environment then
from sira.kernel.parts import Part
from sira.kernel.process import Signals, begin, let_go_of_log
from sira.kernel.settings import Settings
from sira.kernel.supervisor.child import EXIT_ORPHAN
from sira.kernel.supervisor.control import Control, error_fields
from sira.kernel.supervisor.pure import EXIT_CANNOT_START, EXIT_CUT_SHORT, EXIT_OK

# Facts about the node's own end: clients must have come back to hear them.
_LATE_S = 10.0
_LATE_LOOK_S = 0.05

# What is under way on 1,000 connections comes and goes by the thousand objects and is no garbage:
# with Python's own 700 a tenth of the node's work was looking through it, again and again. A look
# through everything holds all streams up; what closed streams leave behind waits for one, so it
# comes about half as often as with Python's own thresholds (9 x 20,000 new objects), not seldom.
_GC_OBJECTS, _GC_TURNS = 20_000, 2


def main(control_fd: int, parts: Callable[[], Iterable[Part]] = tuple) -> int:
    """Run the node that the supervisor describes on the control line, until SIGTERM.

    The first signal drains: nothing new is taken, what was accepted is delivered (`drain_s`). A
    second one ends at once.

    Args:
        control_fd: the control line.
        parts: makes what the node has beside the bus.

    Returns:
        0 after an orderly end; 1 when a second signal cut it short, or gRPC gave up; 3 when the
        node could not start (the supervisor was told why).
    """
    control = Control(socket.socket(fileno=control_fd))
    told = begin(control)
    settings = Settings(**told["settings"])
    try:
        _native.keep_memory_warm()
        gc.set_threshold(_GC_OBJECTS, _GC_TURNS, _GC_TURNS)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            verbs = [Verb(*each) for each in told["verbs"]]
            return runner.run(_serve(settings, control, verbs, parts()))
    except SiraError as error:
        control.send(failed=error_fields(error))
        return EXIT_CANNOT_START
    finally:
        let_go_of_log()


async def _serve(
    settings: Settings, control: Control, verbs: list[Verb], parts: Iterable[Part]
) -> int:
    logs = Logs(node=settings.node_name, level=settings.log_level, queue_max=settings.log_queue_max)
    node = Node(settings, logs=logs, holds_folder=True, parts=parts)
    for verb in verbs:
        node.catalog.add_verb(verb)
    signals = Signals()
    told = _Told(node, control)
    try:
        await node.start()
        gc.freeze()  # what the node is made of stays until its end
        control.send(ready={"listen": node.address})
        told.begin()
        if not await _is_asked_to_end(node, signals):
            return EXIT_CUT_SHORT  # no orderly end: the supervisor starts it again
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
        told.close()
        signals.close()
        logs.close()


async def _is_asked_to_end(node: Node, signals: Signals) -> bool:
    """Wait for the first signal; False: the node has died before it came."""
    asked = asyncio.ensure_future(signals.first.wait())
    died = asyncio.ensure_future(node.died.wait())
    await asyncio.wait({asked, died}, return_when=asyncio.FIRST_COMPLETED)
    died.cancel()
    asked.cancel()
    return asked.done() and not asked.cancelled()


class _Told:
    """Says on the bus what the supervisor tells: ends and starts of this node and its siblings."""

    def __init__(self, node: Node, control: Control) -> None:
        self._node, self._control = node, control
        self._loop = asyncio.get_running_loop()
        self._late: asyncio.Queue[tuple[str, dict[str, Field]]] = asyncio.Queue()
        self._saying: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Listen. Requires: the node is started."""
        self._loop.add_reader(self._control.fileno(), self._hear)
        self._saying = self._loop.create_task(self._say_late(), name="sira-late-facts")

    def close(self) -> None:
        self._loop.remove_reader(self._control.fileno())
        if self._saying is not None:
            self._saying.cancel()

    def _hear(self) -> None:
        for message in self._control.receive():
            told: Mapping[str, Any] = message["tell"]
            if told["late"]:
                self._late.put_nowait((told["topic"], told["fields"]))
            else:
                self._node.say(told["topic"], **told["fields"])
        if self._control.ended:  # nobody is left to end us in order
            os._exit(EXIT_ORPHAN)

    async def _say_late(self) -> None:
        """Say what happened while nobody could listen, once somebody does or time is up."""
        end_s = self._loop.time() + _LATE_S
        while True:
            topic, fields = await self._late.get()
            while not self._node.is_heard(topic) and self._loop.time() < end_s:  # noqa: ASYNC110
                await asyncio.sleep(_LATE_LOOK_S)
            self._node.say(topic, **fields)
