"""A service: gRPC methods of one's own, on the node, answered by this process.

`Service` owns names, handlers and life. The node sees to it who may call (`call` on the method) and
hands calls down one stream; attached.py answers them. What was brought is in the node's table for
as long as the stream lasts, so a client of any language calls it like a method of the node.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import uvloop
from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor import FileDescriptor

from sira.client.attached import Attached, Served
from sira.client.bus import Bus, connect
from sira.client.connection import TRANSIENT, Connection
from sira.client.deadline import Deadline
from sira.client.retry import Retry
from sira.client.runner import quiet_poller, telling
from sira.client.security import Security, with_token
from sira.kernel.errors import BadRequest, Conflict, SiraError, Timeout
from sira.v1 import kernel_pb2

_log = logging.getLogger("sira.service")
_F = TypeVar("_F", bound=Callable[..., Any])
_METHOD = "/sira.v1.Kernel/Attach"

START_S = 20.0
DRAIN_S = 30.0
# A service killed a moment ago may still stand in the table when its next life comes.
_CONFLICT_S = 5.0
_LAST_WORDS_S = 2.0


@dataclass(frozen=True, slots=True)
class _Offered:
    served: Served
    effects: str
    summary: str


class Service:
    """gRPC methods that this process answers.

        service = sira.Service("acme.echo", echo_pb2)

        @service.method("acme.v1.Echo/Say", effects="read", summary="says it again")
        async def say(request: echo_pb2.SayRequest) -> echo_pb2.SayReply: ...

        service.run()

    A handler takes the request, and a `sira.client.attached.Call` where it has a second parameter.
    An `async def` runs on the event loop, a plain function in a thread; an `async def` that yields
    answers a method with a stream of replies. What it raises is the caller's error: a `SiraError`
    as it is, anything else as HANDLER_FAILED.
    """

    def __init__(
        self,
        name: str,
        *modules: Any,
        url: str | None = None,
        token: str | None = None,
        security: Security | None = None,
        retry: Retry | None = None,
        topic_classes: tuple[kernel_pb2.TopicClass, ...] = (),
        settings: tuple[kernel_pb2.Setting, ...] = (),
        verbs: tuple[kernel_pb2.Verb, ...] = (),
    ) -> None:
        """Describe the service; nothing is connected yet.

        Args:
            name: dotted; the right `attach` is asked for it, and for each gRPC service of its
                methods.
            modules: generated `..._pb2` modules in which the methods are declared.
            url, token, security, retry: as of `sira.connect`.
            topic_classes, settings, verbs: what else it brings into the node's table.
        """
        self.name = name
        self._files = [module.DESCRIPTOR for module in modules]
        self._known = {
            f"{service.full_name}/{method.name}": method
            for file in self._files
            for service in file.services_by_name.values()
            for method in service.methods
        }
        self._offered: dict[str, _Offered] = {}
        self._url, self._retry = url, retry
        self._security = with_token(security, token)
        self._extras: dict[str, tuple[Any, ...]] = {
            "topic_classes": topic_classes, "settings": settings, "verbs": verbs,
        }  # fmt: skip
        self._bus: Bus | None = None
        self._attached: Attached | None = None
        self._is_up = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._leaving = False

    def method(
        self, name: str, *, effects: str, summary: str, verb: str = ""
    ) -> Callable[[_F], _F]:
        """Answer a method with the decorated function.

        Args:
            name: as `acme.v1.Echo/Say`.
            effects: `read` changes nothing, `idempotent` may be repeated, `once` may not.
            summary: one line, for people.
            verb: by which it is called from the command line: `echo say` is `sira echo say`.

        Raises:
            BadRequest: not declared in the modules, answered already, or the function's kind does
                not fit it.
        """

        def use(function: _F) -> _F:
            path = name.removeprefix("/")
            declared = self._known.get(path)
            if declared is None:
                raise BadRequest(f"no module of service {self.name} declares {name!r}")
            if path in self._offered:
                raise BadRequest(f"{name} is answered already")
            streams = inspect.isasyncgenfunction(function)
            if declared.client_streaming or declared.server_streaming != streams:
                raise BadRequest(
                    f"{name} does not fit {getattr(function, '__name__', function)}",
                    help="a stream of replies is an async generator; a stream of requests is not "
                    "to be had",
                )
            served = Served(
                f"/{path}",
                function,
                message_factory.GetMessageClass(declared.input_type),
                message_factory.GetMessageClass(declared.output_type),
                takes_call=len(inspect.signature(function).parameters) > 1,
            )
            self._offered[path] = _Offered(served, effects, summary)
            if verb:
                called = kernel_pb2.Verb(name=verb, summary=summary, method=served.name)
                self._extras["verbs"] = (*self._extras["verbs"], called)
            return function

        return use

    @property
    def bus(self) -> Bus:
        """The connection, for messages. Requires: started."""
        assert self._bus is not None, "start() the service"
        return self._bus

    # ---- life ------------------------------------------------------------------------------------

    async def start(self, *, timeout_s: float = START_S) -> None:
        """Connect and bring the methods; they can be called when this returns.

        Raises:
            Unreachable: no node. Timeout: not taken in time. SiraError: the node refused.
        """
        if self._keeping is not None:
            raise BadRequest(f"service {self.name} was started already")
        self._bus = await connect(
            self._url, name=self.name, retry=self._retry, timeout_s=timeout_s,
            security=self._security,
        )  # fmt: skip
        self._leaving = False
        self._keeping = asyncio.ensure_future(self._keep(self._bus.connection))
        up = asyncio.ensure_future(self._is_up.wait())
        try:
            await asyncio.wait(
                {up, self._keeping}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if self._keeping.done():
                self._keeping.result()  # raises what the node said
            if not self._is_up.is_set():
                raise Timeout(f"service {self.name} was not taken within {timeout_s:g} s")
        except BaseException:
            await self.stop(drain_s=0)
            raise
        finally:
            up.cancel()
        _log.info("service %s is attached", self.name)

    async def stop(self, *, drain_s: float = DRAIN_S) -> None:
        """Take no more calls, finish those under way, disconnect.

        Args:
            drain_s: how long the handlers may take to finish; then they are cancelled.
        """
        self._leaving = True
        if self._attached is not None:
            await self._attached.leave(drain_s)
        keeping, self._keeping = self._keeping, None
        if keeping is not None:
            if drain_s:  # the node ends the stream when it has read all
                await asyncio.wait({keeping}, timeout=_LAST_WORDS_S)
            keeping.cancel()
            await asyncio.wait({keeping})
        bus, self._bus = self._bus, None
        if bus is not None:
            await bus.close()

    async def wait(self) -> None:
        """Return when the service has ended. Raises what ended it."""
        if self._keeping is not None:
            await asyncio.shield(self._keeping)

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Stop, finishing what was taken."""
        await self.stop()

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; then finish what was taken, and return.

        Raises:
            Unreachable, SiraError: it could not start, or the node ended it.
        """
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop_runner:
            loop_runner.get_loop().set_exception_handler(quiet_poller)
            loop_runner.run(self._run())

    async def _run(self) -> None:
        told = asyncio.Event()
        await self.start()
        with telling(asyncio.get_running_loop(), told):
            ended = asyncio.ensure_future(self.wait())
            asked = asyncio.ensure_future(told.wait())
            try:
                await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                asked.cancel()
                await self.stop()
        if ended.done() and not ended.cancelled():
            ended.result()
        ended.cancel()

    # ---- the stream ------------------------------------------------------------------------------

    async def _keep(self, connection: Connection) -> None:
        """Be attached, again after each loss. Raises what ends it for good."""
        retry = self._retry or Retry()
        loop = asyncio.get_running_loop()
        conflict_until_s = loop.time() + _CONFLICT_S
        delays_s = retry.delays_s(connection.rng)
        while not self._leaving:
            transport = await connection.up(Deadline(None, loop))
            stream = transport.stream(_METHOD, metadata=connection.metadata())
            attached = Attached(
                stream, {o.served.name: o.served for o in self._offered.values()}, self.name
            )
            lost: SiraError | None = None
            try:
                await attached.begin(self._offer())
                self._attached = attached
                self._is_up.set()
                delays_s = retry.delays_s(connection.rng)
                await attached.serve()
            except SiraError as error:
                lost = error
            finally:
                self._attached = None
                stream.cancel()
            if self._leaving:
                return
            if isinstance(lost, Conflict):
                if loop.time() > conflict_until_s and not self._is_up.is_set():
                    raise lost
            elif lost is not None and lost.code not in TRANSIENT:
                raise lost
            else:
                _log.warning("service %s is detached: %s", self.name, lost)
                connection.lost(transport, lost)
            await asyncio.sleep(next(delays_s))

    def _offer(self) -> kernel_pb2.AttachOffer:
        """Return what the node is told first."""
        files: dict[str, FileDescriptor] = {}
        waiting = list(self._files)
        while waiting:
            file = waiting.pop()
            if file.name not in files:
                files[file.name] = file
                waiting += file.dependencies
        every = descriptor_pb2.FileDescriptorSet()
        for file in files.values():
            file.CopyToProto(every.file.add())
        return kernel_pb2.AttachOffer(
            name=self.name,
            descriptors=every.SerializeToString(),
            methods=[
                kernel_pb2.AttachMethod(name=o.served.name, effects=o.effects, summary=o.summary)
                for o in self._offered.values()
            ],
            **self._extras,
        )
