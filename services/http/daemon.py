"""The HTTP listener as a process: a child of the supervisor, which starts it by name."""

from __future__ import annotations

import asyncio
import os
import socket

import uvloop

import sira.kernel.binding  # noqa: F401  ties the C core to its errors
from sira.kernel.errors import SiraError
from sira.kernel.logs import Logs
from sira.kernel.process import Signals, begin, let_go_of_log
from sira.kernel.settings import Settings
from sira.kernel.supervisor.child import EXIT_ORPHAN
from sira.kernel.supervisor.control import Control, error_fields
from sira.kernel.supervisor.pure import EXIT_CANNOT_START, EXIT_CUT_SHORT, EXIT_OK
from sira.services.http.listener import HttpServer


def main(control_fd: int) -> int:
    """Serve HTTP until SIGTERM, which lets calls finish (`drain_s`); a second one ends at once.

    Returns:
        0 after an orderly end; 1 when a second signal cut it short; 3 when it could not start.
    """
    control = Control(socket.socket(fileno=control_fd))
    settings = Settings(**begin(control)["settings"])
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(settings, control))
    except SiraError as error:
        control.send(failed=error_fields(error))
        return EXIT_CANNOT_START
    finally:
        let_go_of_log()


async def _serve(settings: Settings, control: Control) -> int:
    logs = Logs(node=settings.node_name, level=settings.log_level, queue_max=settings.log_queue_max)
    signals = Signals()
    loop = asyncio.get_running_loop()

    def heard() -> None:
        control.receive()
        if control.ended:  # nobody is left to end us in order
            os._exit(EXIT_ORPHAN)

    try:
        server = HttpServer(settings, logs)
        await server.start()
        loop.add_reader(control.fileno(), heard)
        control.send(ready={"http": server.address})
        await signals.first.wait()
        stopping = asyncio.ensure_future(server.stop(settings.drain_s))
        hurry = asyncio.ensure_future(signals.second.wait())
        await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if stopping.done():
            return EXIT_OK
        stopping.cancel()
        return EXIT_CUT_SHORT
    finally:
        loop.remove_reader(control.fileno())
        signals.close()
        logs.close()
