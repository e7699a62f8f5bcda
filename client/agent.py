"""An agent: what it can do, its handlers, and its life.

`Agent` owns identity, handlers and life cycle, and nothing else. Binding a message to the handler's
parameters is binding.py's, running it and answering is serving.py's, being found is beats.py's.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Literal, NoReturn, Self, TypeVar, overload

import uvloop

from sira import _native
from sira.client import beats, capability
from sira.client.binding import Handler
from sira.client.bus import CONNECT_S, Bus, connect
from sira.client.capability import Capability
from sira.client.later import unsupported
from sira.client.registering import Load
from sira.client.retry import Retry
from sira.client.runner import Runner, quiet_poller, runner, telling
from sira.client.security import Security
from sira.client.serving import Serving
from sira.kernel.errors import BadRequest, SiraError
from sira.v1 import registry_pb2

_log = logging.getLogger("sira.agent")
_F = TypeVar("_F", bound=Callable[..., Any])

# Agents of one topic share its messages, whatever they are called.
GROUP = "agents"
DRAIN_S = 30.0


class Agent:
    """Something that answers requests: those of its capabilities, those of a topic.

    With capabilities it is found by them: it registers when it starts, beats, and leaves the
    registry when it has finished. The registration is made again by itself after a lost connection.

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
        capabilities: Sequence[Capability] | None = None,
        kind: str = "agent",
        description: str = "",
        labels: Mapping[str, str] | None = None,
        version: str = "",
        requires: Sequence[str] = (),
        capacity: Mapping[str, float] | None = None,
        endpoints: Sequence[str] = (),
        digest: bytes = b"",
        signature: bytes = b"",
        extra: Mapping[str, bytes | str] | None = None,
        url: str | None = None,
        max_in_flight: int = 1,
        group: str = GROUP,
        retry: Retry | None = None,
        security: Security | None = None,
        bus: Bus | None = None,
    ) -> None:
        """Describe the agent; nothing is connected yet.

        Args:
            name: who it is, unique among those registered; `source` of its replies.
            topic: topic or pattern that it serves, besides those of its capabilities.
            handler: a function, an object that can be called, or a class, which is made at start.
            capabilities: what it can do; without, it is not registered.
            kind: agent, tool, device, service, worker, ...
            description, labels: for people, and to choose by.
            version: of what it runs, as "1.4.0".
            requires: capabilities that it needs itself.
            capacity: resource -> amount.
            endpoints: where else it is reached.
            digest, signature: of what it runs.
            extra: kept with the registration, unchanged.
            url: of the node; None: `SIRA_URL`, else the local node.
            max_in_flight: messages handled at the same time.
            group: queue group; agents of the same topic and group share the messages.
            security: token and certificates; None: what the environment says.
            bus: a connected bus to use instead of `url`; it stays open.
        Raises:
            BadRequest: a name or number that cannot be, or two capabilities of one name.
        """
        if not name:
            raise BadRequest("an agent has a name", help='sira.Agent("segmenter-1", topic=...)')
        if max_in_flight < 1:
            raise BadRequest(f"max_in_flight is {max_in_flight}", help="1 or more")
        if topic is not None:
            _native.check_pattern(topic)
        self.name = name
        self.topic = topic
        self.capabilities = tuple(capabilities or ())
        self.url = url
        self.max_in_flight = max_in_flight
        self.group = group
        self._names = capability.names(self.capabilities)
        self._registration = registry_pb2.Registration(
            name=name,
            kind=kind,
            description=description,
            labels=labels,
            capabilities=[
                each.to_proto(name, own)
                for each, own in zip(self.capabilities, self._names, strict=True)
            ],
            capacity=capacity,
            endpoints=endpoints,
            version=version,
            requires=requires,
            digest=digest,
            signature=signature,
            extra={
                key: value.encode() if isinstance(value, str) else value
                for key, value in (extra or {}).items()
            },
            max_in_flight=max_in_flight,
        )
        self._retry, self._security = retry, security
        self._bus = bus
        self._own_bus: Bus | None = None
        self._handler = handler
        self._handlers: dict[str, Callable[..., Any]] = {}  # by the name of a capability
        self._servings: list[Serving] = []
        self._membership: beats.Membership | None = None
        self._runner: Runner | None = None

    @overload
    def handler(self, function: str, /) -> Callable[[_F], _F]: ...

    @overload
    def handler(self, function: _F, /) -> _F: ...

    def handler(self, function: _F | str, /) -> _F | Callable[[_F], _F]:
        """Use the decorated function as the handler of all: `@agent.handler`.

        Or of one capability, by its name or its text: `@agent.handler("segment")`.

        Raises:
            BadRequest: there is one already, or there is no such capability.
        """
        if isinstance(function, str):
            return self._handler_of(function)
        if self._handler is not None:
            raise BadRequest(f"agent {self.name} has a handler already")
        self._handler = function
        return function

    def _handler_of(self, wanted: str) -> Callable[[_F], _F]:
        for each, name in zip(self.capabilities, self._names, strict=True):
            if wanted in (name, each.text):
                break
        else:
            raise BadRequest(
                f"agent {self.name} has no capability {wanted!r}",
                help=f"it has: {', '.join(self._names) or 'none'}",
            )
        if name in self._handlers:
            raise BadRequest(f"agent {self.name} has a handler of {name} already")

        def use(function: _F) -> _F:
            self._handlers[name] = function
            return function

        return use

    # ---- life ------------------------------------------------------------------------------------

    async def start(self, *, timeout_s: float = CONNECT_S) -> None:
        """Connect, serve and register; messages are taken, and it is found, when this returns.

        Args:
            timeout_s: how long connecting, and then registering, may take.
        Raises:
            Unreachable: no node. BadRequest: nothing to serve, or no handler for it.
            Conflict: an agent of this name lives. SiraError: the node refused.
        """
        if self._servings:
            raise BadRequest(f"agent {self.name} was started already")
        served = self._served()
        bus = self._bus
        if bus is None:
            bus = self._own_bus = await connect(
                self.url, name=self.name, retry=self._retry, timeout_s=timeout_s,
                security=self._security,
            )  # fmt: skip
        load = Load()
        turns = asyncio.Semaphore(self.max_in_flight) if len(served) > 1 else None
        try:
            for topic, handler in served:
                serving = Serving(
                    bus,
                    topic,
                    handler,
                    agent=self.name,
                    group=self.group,
                    max_in_flight=self.max_in_flight,
                    load=load,
                    turns=turns,
                )
                self._servings.append(serving)
                await serving.start()
            if self.capabilities:  # who finds it finds it listening
                self._registration.instance = secrets.token_hex(16)
                self._membership = await beats.enrol(
                    bus, self._registration, load, timeout_s=timeout_s, listens=self._listens
                )
        except BaseException:
            servings, self._servings = self._servings, []
            for serving in servings:
                await serving.stop(drain_s=0)
            await self._close_bus()
            raise
        _log.info("agent %s serves %s", self.name, ", ".join(topic for topic, _ in served))

    def _listens(self) -> bool:
        return all(each.listens for each in self._servings)

    def _served(self) -> list[tuple[str, Handler]]:
        """Return each topic with its handler. Raises BadRequest."""
        wanted = {
            told.topic: self._handlers.get(told.name, self._handler)
            for told in self._registration.capabilities
        }
        if self.topic is not None:
            wanted[self.topic] = self._handler
        if not wanted:
            raise BadRequest(
                f"agent {self.name} has no capability and no topic",
                help="Agent(name, capabilities=[...]) or Agent(name, topic=...)",
            )
        made: dict[int, Handler] = {}  # one of each, whatever it serves
        served = []
        for topic, call in wanted.items():
            if call is None:
                raise BadRequest(
                    f"agent {self.name} has no handler of {topic}",
                    help="decorate one: @agent.handler, or @agent.handler(capability)",
                )
            handler = made.get(id(call))
            if handler is None:
                handler = made[id(call)] = Handler(call() if isinstance(call, type) else call)
            served.append((topic, handler))
        return served

    async def stop(self, *, drain_s: float = DRAIN_S) -> None:
        """Take no more messages, finish those that were taken, leave the registry, disconnect.

        Whoever looks meanwhile finds it draining: it is registered for as long as it may answer.

        Args:
            drain_s: how long the handlers may take to finish; then they are cancelled.
        """
        membership, self._membership = self._membership, None
        servings, self._servings = self._servings, []
        if membership is not None:
            await self._quietly(membership.drain())
        if servings:
            await asyncio.gather(*[each.stop(drain_s=drain_s) for each in servings])
        if membership is not None:
            await self._quietly(membership.leave())
        await self._close_bus()

    async def _quietly(self, work: Coroutine[Any, Any, None]) -> None:
        """Tell the node, if it listens: whether or not, the agent goes on."""
        try:
            await work
        except (SiraError, TimeoutError) as error:
            _log.warning("agent %s: the node was not told: %s", self.name, error)

    async def _close_bus(self) -> None:
        bus, self._own_bus = self._own_bus, None
        if bus is not None:
            await bus.close()

    async def wait(self) -> None:
        """Return when the agent has ended by itself. Raises what ended it."""
        if not self._servings:
            return
        waiting = [asyncio.ensure_future(each.wait()) for each in self._servings]
        try:
            await asyncio.gather(*waiting)
        finally:
            for each in waiting:
                each.cancel()

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
