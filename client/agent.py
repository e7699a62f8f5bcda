"""An agent: a handler, the topic it serves, and its life.

`Agent` owns identity, handler and life cycle, and nothing else. Binding a message to the handler's
parameters is binding.py's, running it and answering is serving.py's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Literal, NoReturn, Self, TypeVar, overload

import uvloop

from sira import _native
from sira.client.binding import Handler
from sira.client.bus import Bus, connect
from sira.client.later import unsupported
from sira.client.retry import Retry
from sira.client.runner import Runner, quiet_poller, runner, telling
from sira.client.security import Security
from sira.client.serving import Serving
from sira.kernel.errors import BadRequest

_log = logging.getLogger("sira.agent")
_F = TypeVar("_F", bound=Callable[..., Any])

# Agents of one topic share its messages, whatever they are called.
GROUP = "agents"
DRAIN_S = 30.0


class Agent:
    """Something that answers the requests of a topic.

    The handler's parameters are tensor names: `def f(image, mask=None, **rest)`. A parameter
    annotated `sira.Message` gets the message itself. It returns tensors by name, bytes, text or
    None. A plain function runs in a worker thread, an `async def` on the event loop; a generator
    answers with one reply for each value (`bus.request_stream`).

    An exception is answered with HANDLER_FAILED; its traceback stays in this process's log
    (logger `sira.agent`). A missing or extra tensor is answered with BAD_REQUEST.
    """

    def __init__(
        self,
        name: str,
        *,
        topic: str | None = None,
        handler: Callable[..., Any] | None = None,
        capabilities: Any = None,
        url: str | None = None,
        max_in_flight: int = 1,
        group: str = GROUP,
        retry: Retry | None = None,
        security: Security | None = None,
        bus: Bus | None = None,
    ) -> None:
        """Describe the agent; nothing is connected yet.

        Args:
            name: who it is; `source` of its replies.
            topic: topic or pattern that it serves.
            handler: a function, an object that can be called, or a class, which is made at start.
            capabilities: with the registry; refused until then.
            url: of the node; None: `SIRA_URL`, else the local node.
            max_in_flight: messages handled at the same time.
            group: queue group; agents of the same topic and group share the messages.
            security: token and certificates; None: what the environment says.
            bus: a connected bus to use instead of `url`; it stays open.
        Raises:
            Unsupported: `capabilities`. BadRequest: a name or number that cannot be.
        """
        if capabilities is not None:
            raise unsupported("Capability")
        if not name:
            raise BadRequest("an agent has a name", help='sira.Agent("segmenter-1", topic=...)')
        if max_in_flight < 1:
            raise BadRequest(f"max_in_flight is {max_in_flight}", help="1 or more")
        if topic is not None:
            _native.check_pattern(topic)
        self.name = name
        self.topic = topic
        self.url = url
        self.max_in_flight = max_in_flight
        self.group = group
        self._retry, self._security = retry, security
        self._bus = bus
        self._own_bus: Bus | None = None
        self._handler = handler
        self._serving: Serving | None = None
        self._runner: Runner | None = None

    @overload
    def handler(self, function: _F, /) -> _F: ...

    @overload
    def handler(self, function: str, /) -> NoReturn: ...

    def handler(self, function: _F | str, /) -> _F:
        """Use the decorated function as the handler: `@agent.handler`.

        Raises:
            BadRequest: there is one already. Unsupported: a capability was named.
        """
        if isinstance(function, str):
            raise unsupported("Capability")
        if self._handler is not None:
            raise BadRequest(f"agent {self.name} has a handler already")
        self._handler = function
        return function

    # ---- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect and serve; messages are taken when this returns.

        Raises:
            Unreachable: no node. BadRequest: no topic or no handler. SiraError: the node refused.
        """
        if self._serving is not None:
            raise BadRequest(f"agent {self.name} was started already")
        if self.topic is None:
            raise BadRequest(f"agent {self.name} has no topic", help="Agent(name, topic=...)")
        if self._handler is None:
            raise BadRequest(
                f"agent {self.name} has no handler", help="decorate one: @agent.handler"
            )
        call = self._handler
        handler = Handler(call() if isinstance(call, type) else call)
        bus = self._bus
        if bus is None:
            bus = self._own_bus = await connect(
                self.url, name=self.name, retry=self._retry, security=self._security
            )
        serving = Serving(
            bus,
            self.topic,
            handler,
            agent=self.name,
            group=self.group,
            max_in_flight=self.max_in_flight,
        )
        try:
            await serving.start()
        except BaseException:
            await self._close_bus()
            raise
        self._serving = serving
        _log.info("agent %s serves %s", self.name, self.topic)

    async def stop(self, *, drain_s: float = DRAIN_S) -> None:
        """Take no more messages, finish those that were taken, disconnect.

        Args:
            drain_s: how long the handlers may take to finish; then they are cancelled.
        """
        serving, self._serving = self._serving, None
        if serving is not None:
            await serving.stop(drain_s=drain_s)
        await self._close_bus()

    async def _close_bus(self) -> None:
        bus, self._own_bus = self._own_bus, None
        if bus is not None:
            await bus.close()

    async def wait(self) -> None:
        """Return when the agent has ended by itself. Raises what ended it."""
        if self._serving is not None:
            await self._serving.wait()

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Stop, finishing what was taken."""
        await self.stop()

    def __enter__(self) -> Self:
        """Start, on the background loop of the synchronous twin."""
        self._runner = runner()
        self._runner.run(self.start())
        return self

    def __exit__(self, *_error: object) -> Literal[False]:
        """Stop, finishing what was taken."""
        assert self._runner is not None, "entered"
        self._runner.run(self.stop())
        return False

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; then finish what was taken, and return.

        Raises:
            Unreachable, SiraError: it could not start, or the node ended it.
        """
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop_runner:
            loop_runner.get_loop().set_exception_handler(quiet_poller)
            loop_runner.run(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        told = asyncio.Event()
        await self.start()
        with telling(loop, told):
            ended = asyncio.ensure_future(self.wait())
            asked = asyncio.ensure_future(told.wait())
            try:
                await asyncio.wait([ended, asked], return_when=asyncio.FIRST_COMPLETED)
            finally:
                asked.cancel()
                if not ended.done():
                    ended.cancel()
                await self.stop()
        if ended.done() and not ended.cancelled():
            ended.result()

    @classmethod
    def quick(cls, *_args: Any, **_settings: Any) -> NoReturn:
        """Reserved for agents driven by a model. Raises Unsupported."""
        raise unsupported("Agent.quick")

    @classmethod
    def builder(cls, *_args: Any, **_settings: Any) -> NoReturn:
        """Reserved for agents driven by a model. Raises Unsupported."""
        raise unsupported("Agent.builder")
