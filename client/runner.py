"""The background thread on whose event loop all synchronous connections of a process live."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import signal
import threading
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, TypeVar

import uvloop

from sira.client.lineage import check_fork, forks
from sira.kernel.errors import BadRequest

_T = TypeVar("_T")


class Runner:
    """One daemon thread and its event loop. It lives as long as the process."""

    def __init__(self, name: str = "sira-sync") -> None:
        """Start the thread."""
        self._forks = forks()
        self.loop = uvloop.new_event_loop()
        self.loop.set_exception_handler(quiet_poller)
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine on the loop and wait for it in this thread.

        Interrupted by the keyboard, the coroutine is cancelled.

        Raises:
            Unreachable: this process was forked off since.
            BadRequest: called on the loop itself, which would wait for itself for ever.
        """
        try:
            check_fork(self._forks)
            if threading.current_thread() is self._thread:
                raise BadRequest(
                    "a synchronous call inside the SDK's own event loop would never return",
                    help="use the async names there: sira.connect()",
                )
        except BaseException:
            work.close()
            raise
        future: concurrent.futures.Future[_T] = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


def quiet_poller(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Leave out one report of gRPC's that means nothing; pass on all others.

    gRPC wakes the event loops of a process through one socket: a loop that comes second finds it
    empty, and one that comes first may find what was meant for a loop that is closed by now.
    """
    told = str(context.get("message", "")) + repr(context.get("handle"))
    if "PollerCompletionQueue" in told and isinstance(
        context.get("exception"), BlockingIOError | RuntimeError
    ):
        return
    loop.default_exception_handler(context)


_lock = threading.Lock()
_current: Runner | None = None
_made_at_fork = -1


def runner(make: Callable[[], Runner] = Runner) -> Runner:
    """Return the process's runner, starting it at first use and anew in a forked child."""
    global _current, _made_at_fork
    with _lock:
        if _current is None or _made_at_fork != forks():
            _current, _made_at_fork = make(), forks()
        return _current


@contextlib.contextmanager
def telling(loop: asyncio.AbstractEventLoop, told: asyncio.Event) -> Any:
    """Set `told` on SIGTERM and SIGINT; outside the main thread, which gets none, do nothing."""
    before: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.getsignal(number)
            loop.add_signal_handler(number, told.set)
    except (ValueError, RuntimeError):
        before.clear()
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
