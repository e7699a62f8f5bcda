"""A service in a process of its own: what `run = "package.module:factory"` of a node starts.

The factory returns a `sira.Service` or a `sira.Agent`; what it needs to connect stands in the
environment (`SIRA_URL`, `SIRA_TOKEN_FILE`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from importlib import import_module
from typing import Any, Protocol

import uvloop

from sira.client.runner import quiet_poller
from sira.kernel.errors import BadSetting, SiraError
from sira.kernel.process import Signals, begin, let_go_of_log
from sira.kernel.supervisor.child import EXIT_ORPHAN
from sira.kernel.supervisor.control import Control, error_fields
from sira.kernel.supervisor.pure import EXIT_CANNOT_START, EXIT_CUT_SHORT, EXIT_OK


class Hosted(Protocol):
    """What a factory returns."""

    async def start(self) -> None:
        """Begin to serve."""

    async def wait(self) -> None:
        """Return when it has ended by itself. Raises what ended it."""

    async def stop(self) -> None:
        """End in order."""


def main(control_fd: int) -> int:
    """Serve until SIGTERM, which finishes what was taken; a second one ends at once.

    Returns:
        0 after an orderly end; 1 when it was cut short or ended by itself; 3 when it could not
        start for a reason that will not pass by itself.
    """
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    control = Control(socket.socket(fileno=control_fd))
    told = begin(control)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.get_loop().set_exception_handler(quiet_poller)
            return runner.run(_serve(told["run"], control))
    except SiraError as error:
        control.send(failed=error_fields(error))
        return EXIT_CUT_SHORT if error.retryable else EXIT_CANNOT_START
    finally:
        let_go_of_log()


async def _serve(run: str, control: Control) -> int:
    loop, signals = asyncio.get_running_loop(), Signals()

    def heard() -> None:
        control.receive()
        if control.ended:  # nobody is left to end us in order
            os._exit(EXIT_ORPHAN)

    loop.add_reader(control.fileno(), heard)
    hosted = _make(run)
    try:
        await hosted.start()
        control.send(ready={})
        ended = asyncio.ensure_future(hosted.wait())
        asked = asyncio.ensure_future(signals.first.wait())
        await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if ended.done():
            ended.result()
            return EXIT_CUT_SHORT  # nobody asked it to end
        stopping = asyncio.ensure_future(hosted.stop())
        hurry = asyncio.ensure_future(signals.second.wait())
        await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        ended.cancel()
        if not stopping.done():
            stopping.cancel()
            return EXIT_CUT_SHORT
        stopping.result()
        return EXIT_OK
    finally:
        loop.remove_reader(control.fileno())
        signals.close()


def _make(run: str) -> Hosted:
    """Call the factory.

    Raises:
        BadSetting: it cannot be loaded, or returns nothing that serves.
    """
    module, _, name = run.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        factory: Any = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise BadSetting(f"run = {run!r} cannot be loaded: {error}") from error
    made: Hosted = factory()
    for method in ("start", "wait", "stop"):
        if not hasattr(made, method):
            raise BadSetting(f"{run} returns a {type(made).__name__}, no service or agent")
    return made
