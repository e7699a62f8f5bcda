"""What verbs that talk to a node share: the loop, signals, the connection."""

from __future__ import annotations

import asyncio
import os
import signal
from argparse import Namespace
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import uvloop

from sira.cli.output import EXIT_INTERRUPTED, CliError, Output, Result
from sira.client.address import local_addresses
from sira.client.address import url_of as to_url

if TYPE_CHECKING:
    from sira.client.bus import Bus
    from sira.client.retry import Retry
    from sira.client.security import Security

T = TypeVar("T")
Handler = Callable[[Namespace, Output, "Stop"], Awaitable[Result]]

# Long enough for a node that is just starting, short enough to be told that there is none.
_CONNECT_S = 3.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# What says in the environment what an argument says.
_VARIABLES = {
    "token_file": "SIRA_TOKEN_FILE",
    "tls_ca": "SIRA_TLS_CA",
    "tls_cert": "SIRA_CLIENT_CERT",
    "tls_key": "SIRA_CLIENT_KEY",
}


class Stop:
    """Set by the first SIGINT or SIGTERM while an endless verb runs."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.signal: str | None = None

    def set(self, number: signal.Signals) -> None:
        """Ask the verb to end."""
        self.signal = number.name
        self._event.set()

    @property
    def asked(self) -> bool:
        """Whether it was asked to end."""
        return self._event.is_set()

    async def sleep(self, seconds: float) -> bool:
        """Wait for `seconds`, or less when asked to end; true when asked."""
        try:
            await asyncio.wait_for(self._event.wait(), max(seconds, 0.0))
        except TimeoutError:
            return False
        return True

    async def race(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Run `work` to its end, or until asked to end: then it is cancelled, and None returned."""
        task = asyncio.ensure_future(work)
        stopped = asyncio.ensure_future(self._event.wait())
        try:
            await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            return None
        finally:
            for future in (task, stopped):
                if not future.done():
                    future.cancel()
                    await asyncio.gather(future, return_exceptions=True)


def run_async(handler: Handler, args: Namespace, out: Output, *, endless: bool) -> Result:
    """Run an asynchronous verb on a loop of its own.

    Raises:
        CliError: INTERRUPTED, when a signal came and the verb is not one that signals end well, or
            came twice.
    """

    async def guarded() -> Result:
        loop, stop = asyncio.get_running_loop(), Stop()
        task = asyncio.ensure_future(handler(args, out, stop))

        def on_signal(number: signal.Signals) -> None:
            if endless and not stop.asked:
                stop.set(number)
            else:
                task.cancel()

        for number in _SIGNALS:
            loop.add_signal_handler(number, on_signal, number)
        try:
            return await task
        except asyncio.CancelledError:
            raise CliError(
                "INTERRUPTED", "interrupted before it was done", exit_code=EXIT_INTERRUPTED
            ) from None

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(guarded())


def url_of(args: Namespace) -> str:
    """--url, else SIRA_URL, else where the node of this host may be, in order."""
    named = args.url or os.environ.get("SIRA_URL")
    return str(named or ",".join(to_url(each) for each in local_addresses(os.environ)))


def shown_environ(args: Namespace) -> dict[str, str]:
    """Return the environment in which a child process shows the node what this one does."""
    environ = dict(os.environ)
    for name, variable in _VARIABLES.items():
        value = getattr(args, name)
        if value is not None:
            environ[variable] = os.fspath(value)
    if args.token_file is not None:
        environ.pop("SIRA_TOKEN", None)  # the file was named in its place
    return environ


def security_of(args: Namespace) -> Security:
    """Return what the arguments say that is shown to the node."""
    from sira.client.security import Security

    return Security(
        token_file=args.token_file, tls_ca=args.tls_ca, tls_cert=args.tls_cert, tls_key=args.tls_key
    )


@asynccontextmanager
async def connected(
    args: Namespace, *, timeout_s: float = _CONNECT_S, retry: Retry | None = None
) -> AsyncIterator[Bus]:
    """Connect to the node that the arguments name.

    Args:
        args: with what every verb has.
        timeout_s: how long it may take.
        retry: what is tried again; None: as the SDK does by itself.

    Raises:
        Unreachable: it does not answer within `timeout_s`.
    """
    from sira.client.bus import connect

    async with connect(
        args.url,
        name="sira-cli",
        retry=retry,
        timeout_s=timeout_s,
        security=security_of(args),
    ) as bus:
        yield bus
