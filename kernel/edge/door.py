"""The one door: every call passes here, is identified, authorised, admitted and translated."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import grpc
from google.protobuf.message import DecodeError, Message

from sira.kernel import lanes, rpc
from sira.kernel.clients import Hello
from sira.kernel.direct import Past
from sira.kernel.edge.connections import Connections
from sira.kernel.edge.link import CallLink, Links
from sira.kernel.edge.strangers import Strangers
from sira.kernel.edge.strays import Traffic
from sira.kernel.edge.world import World, Worlds
from sira.kernel.errors import (
    BadRequest,
    FrameCorrupt,
    Internal,
    MessageTooLarge,
    NodeDraining,
    RateLimited,
    SiraError,
    Unauthenticated,
    Unsupported,
)
from sira.kernel.identity import SYSTEM, Principal
from sira.kernel.lent import Lender, Reader
from sira.kernel.logs import Logs
from sira.kernel.methods import Catalog, Method
from sira.kernel.telemetry import Telemetry
from sira.kernel.trust.credential import Credential
from sira.v1 import bus_pb2

EOF = grpc.aio.EOF
NOBODY = "nobody"  # kind of the credential of a caller that has shown none
INTENT_KEY = "sira-intent"
_INTENT_CHARS = 32
_ASK_AGAIN_S = 0.01  # a stream that waits to be let in asks for room no more often
_HEADER_FIELD_BYTES = 32  # of each, by the reckoning of HTTP/2 (RFC 9113, 6.5.2)
_YOUNG = 1  # of Python's garbage: what came with the last 60,000 objects (daemon.py); some ms
_BOMB = 4  # times metadata_bytes_max: no mistake any more
RpcHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


@dataclass(slots=True)
class Call:
    """One call under way: who asks, and the stream to read from and write to.

    Who reads from `context` directly tells `traffic` what it has got.
    """

    context: Any  # grpc.aio.ServicerContext, of bytes
    method: Method
    credential: Credential
    world: World
    hello: Hello
    peer: str
    metadata: Mapping[str, str | bytes]
    traffic: Traffic = field(default_factory=lambda: Traffic(0.0))

    @property
    def principal(self) -> Principal:
        """Who asks."""
        return self.credential.principal

    @property
    def lane(self) -> bus_pb2.Lane:
        """The way the call came, a number of `sira.v1.Lane`."""
        lane: bus_pb2.Lane = getattr(self.context, "lane", lanes.GRPC)
        return lane

    @property
    def proved(self) -> Credential | None:
        """What the caller has proved; None: nothing, and the method is public."""
        return None if self.credential.kind == NOBODY else self.credential

    def introduce(self, client: str) -> None:
        """Let the caller's connection know which client uses it, where it shares memory."""
        taken = getattr(self.context, "introduce", None)
        if taken is not None:
            taken(self.world.tenant, client)

    def lender(self) -> Lender | None:
        """Return what finds the bytes that chunks name, not carry; None: none may."""
        offered = getattr(self.context, "lender", None)
        return None if offered is None else cast("Lender | None", offered(self.world.tenant))

    def reader(self) -> Reader | None:
        """Return what lends bytes to the caller's stream; None: all are copied."""
        offered = getattr(self.context, "reader", None)
        if offered is None:
            return None
        return cast("Reader | None", offered(self.credential, self.world.bus.access))

    def direct(self) -> Past | None:
        """Return the caller's way past the node; None: its connection takes no links."""
        offered = getattr(self.context, "direct", None)
        return None if offered is None else cast("Past | None", offered())

    async def read(self) -> Any:
        """Return the next request of the stream, decoded; None at its end.

        Raises:
            FrameCorrupt: it is not of the method's type.
        """
        data = await self.context.read()
        if data is EOF:
            return None
        self.traffic.take(len(data))
        return _decode(self.method, cast("bytes", data))

    async def write(self, reply: Message) -> None:
        """Send one reply of the stream."""
        await self.context.write(reply.SerializeToString())

    def time_remaining_s(self) -> float | None:
        """Return how long the caller still waits; None: for ever."""
        remaining = self.context.time_remaining()
        return None if remaining is None else float(remaining)


class Door(grpc.GenericRpcHandler):
    """Finds the method in the table and wraps its handler."""

    def __init__(
        self,
        catalog: Catalog,
        worlds: Worlds,
        *,
        identify: Callable[[Any, Mapping[str, str | bytes]], Credential | None],
        logs: Logs,
        telemetry: Telemetry | None,
        connections: Connections,
        strangers: Strangers,
        links: Links,
        unary_bytes_max: int,
        metadata_bytes_max: int,
    ) -> None:
        """Guard the methods of `catalog`.

        Args:
            catalog: what can be called.
            worlds: where calls lead, by the tenant of who calls.
            identify: says what a gRPC context and its metadata prove; None: nothing was shown.
                Raises Unauthenticated where what was shown proves nothing.
            logs, telemetry: where refusals and spans go.
            connections: told of calls that their callers took back.
            strangers: told on which connection somebody has shown who he is, and which have made
                calls without a request.
            links: end calls whose callers' rights have ended.
            unary_bytes_max: longest request of a unary call.
            metadata_bytes_max: headers of a call. gRPC keeps to it by itself, but not for who has
                never confirmed it: a call of 16 MiB costs 10 ms before it is here.
        """
        self._catalog, self._worlds = catalog, worlds
        self._identify, self._logs, self._telemetry = identify, logs, telemetry
        self._metadata_bytes_max = metadata_bytes_max
        self._connections, self._unary_bytes_max = connections, unary_bytes_max
        self._strangers = strangers
        self._links = links
        self._nobody = Credential(
            Principal(worlds.default.bus.settings.cluster_name, "default", "user", "nobody"), NOBODY
        )
        self._handlers: dict[str, tuple[Method, RpcHandler]] = {}
        self.calls = 0
        self.calls_now = 0
        self.unidentified = 0  # calls refused before anybody was known to have made them

    @property
    def calls_taken_back(self) -> int:
        """Calls that their callers did not wait for."""
        return self._connections.resets

    @property
    def connections_closed(self) -> int:
        """Connections ended because they passed a limit."""
        return self._connections.closed_count

    @property
    def strangers(self) -> int:
        """Connections on which nothing was proved, when they were last counted."""
        return self._strangers.count

    @property
    def addresses_held(self) -> int:
        """Addresses that nothing new is let in from."""
        return len(self._strangers.held)

    @property
    def addresses_held_total(self) -> int:
        """How often an address began to be held."""
        return self._strangers.held_count

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> RpcHandler:
        """Return the handler of a call; called by grpcio for each one."""
        if self._has_long_headers(handler_call_details):
            return grpc.stream_stream_rpc_method_handler(self._refuse_headers)
        name = str(handler_call_details.method)
        method = self._catalog.get(name)
        if method is None:
            return self._brought(name)
        kept = self._handlers.get(name)
        if kept is None or kept[0] is not method:  # new, or replaced while the node runs
            kept = self._handlers[name] = method, self._wrap(method)
        return kept[1]

    def _has_long_headers(self, details: grpc.HandlerCallDetails) -> bool:
        fields, limit = details.invocation_metadata or (), _BOMB * self._metadata_bytes_max
        return len(fields) * _HEADER_FIELD_BYTES > limit or limit < sum(
            len(key) + len(value) + _HEADER_FIELD_BYTES for key, value in fields
        )

    async def _refuse_headers(self, _: Any, context: Any) -> None:
        """End the connection of a call whose headers no honest client would send."""
        # grpcio leaves the headers of each call in a circle of references; these are up to 16 MiB,
        # and what counts objects would let a dozen calls wait.
        gc.collect(_YOUNG)
        self.unidentified += 1
        self._connections.end(context.peer(), "metadata_bytes_max", None)
        limit = self._metadata_bytes_max
        await rpc.abort(
            context,
            MessageTooLarge(
                f"the headers of a call are at most {limit} bytes",
                details={"setting": "metadata_bytes_max", "limit_bytes": str(limit)},
            ),
        )

    def _wrap(self, method: Method) -> RpcHandler:
        """Return what serves a method of the table.

        gRPC is told that every request is a stream. It is the same on the wire, and so the call is
        ours before its request has come: one that never does is counted, too.
        """
        if not method.response_stream:
            assert not method.request_stream, f"{method.name}: streams in, one answer: not used"

            async def unary(_: Any, context: Any) -> bytes:
                return cast("bytes", await self._pass(method, context))

            return grpc.stream_unary_rpc_method_handler(unary)

        async def both(_: Any, context: Any) -> None:
            await self._pass(method, context)

        return grpc.stream_stream_rpc_method_handler(both)

    def _brought(self, name: str) -> RpcHandler:
        """Return what answers a name that is not the node's own.

        Whether a service brought it depends on who asks, and so does whether one is told: to all
        others the name is unknown. A bidirectional stream on our side serves calls of any shape.
        """
        if name.count("/") != 2 or not name.startswith("/"):
            return _unknown(name)
        asked = Method(name=name, effects="once", summary="", handler=self._call_service,
                       request=Message, response=Message,
                       request_stream=True, response_stream=True)  # fmt: skip

        async def both(_: Any, context: Any) -> None:
            await self._pass(asked, context)

        return grpc.stream_stream_rpc_method_handler(both)

    async def _call_service(self, call: Call, _: None) -> None:
        """Hand a call to the service that brought its method.

        Raises:
            Unsupported: the caller's tenant has no such method. SiraError: what became of it.
        """
        method = self._catalog.get_brought(call.method.name, call.principal.tenant)
        if method is None:
            name = call.method.name[:200]
            raise Unsupported(f"this node has no method {name}", details={"method": name})
        if call.world.bus.draining:
            raise NodeDraining(retry_after_ms=1_000)
        call.method = method
        await method.handler(call, await self._request_bytes(call))

    async def _request(self, call: Call) -> Message:
        """Return the one request of a call.

        Raises:
            BadRequest, MessageTooLarge, FrameCorrupt: what is wrong with it.
        """
        return _decode(call.method, await self._request_bytes(call))

    async def _request_bytes(self, call: Call) -> bytes:
        request = await call.context.read()
        if request is EOF:
            raise BadRequest("the call has no request", details={"method": call.method.name})
        call.traffic.take(len(request))
        self._check_size(request)
        return cast("bytes", request)

    async def _pass(self, method: Method, context: Any) -> bytes | None:
        """Let one call through: identify, authorise, run, translate what it raises."""
        self.calls += 1
        self.calls_now += 1
        call: Call | None = None
        link: CallLink | None = None
        ids: dict[str, str] = {}  # kept: what fails is logged when its span has ended
        peer = context.peer()
        strays, clock, owes = (
            self._connections.strays,
            asyncio.get_running_loop().time,
            _owes(method),
        )
        traffic = strays.begin(peer, clock(), owes=owes)
        try:
            call = self._identified(method, context, peer, traffic)
            await self._allow(call)
            if not (method.public or method.parting):
                link = CallLink(call.credential, method.name)
            with self._span(call), self._links.watching(link) if link else nullcontext():
                ids = self._trace_ids()
                return await call.world.loop.steps(self._run(call))
        except grpc.aio.AbortError:
            raise  # a library's handler has ended the call itself
        except SiraError as error:
            await self._refuse(method, context, call, error, ids)
        except grpc.aio.BaseError:
            return None  # the peer is gone: there is nobody to tell
        except asyncio.CancelledError:  # by the caller, or the node stops
            ended = link.ended() if link is not None else None
            if ended is not None:
                await self._refuse(method, context, call, ended, ids)
                return None
            tenant = call.principal.tenant if call is not None and call.proved else None
            self._connections.taken_back(peer, tenant)
            raise
        except Exception as error:
            self._log_fault(method, call, error, ids)
            await rpc.abort(context, Internal(f"{type(error).__name__} inside {method.name}"))
        finally:
            self.calls_now -= 1
            if strays.end(traffic, clock(), owes=owes):
                self._strangers.came_empty(peer)
        return None

    async def _run(self, call: Call) -> bytes | None:
        message = None if call.method.request_stream else await self._request(call)
        reply = await call.method.handler(call, message)
        if call.method.administrative:
            self._audit(call, message)
        return encoded(reply) if reply is not None else None

    def _identified(self, method: Method, context: Any, peer: str, traffic: Traffic) -> Call:
        """Say who calls and where that leads.

        Raises:
            Unauthenticated: nothing was proved, and the method is not for everybody.
            QuotaExceeded: a tenant too many.
        """
        metadata: dict[str, str | bytes] = dict(context.invocation_metadata() or ())
        who = self._identify(context, metadata)
        if who is None and not method.public:
            raise Unauthenticated("the call shows neither a token nor a certificate")
        if who is not None:
            self._strangers.proved(peer)
        world = self._worlds.of(who.principal.tenant) if who else self._worlds.default
        hello = Hello.read(metadata)
        return Call(context, method, who or self._nobody, world, hello, peer, metadata, traffic)

    @staticmethod
    async def _allow(call: Call) -> None:
        """Ask the rules and the limits; a stream whose messages wait for these waits, too.

        Its first messages have left the client already, and some may not be sent twice.

        Raises:
            Denied, Revoked, RateLimited, QuotaExceeded: the refusal.
        """
        if call.method.public:
            return
        bus = call.world.bus
        loop = asyncio.get_running_loop()
        until_s = loop.time() + bus.settings.publish_block_s
        while True:
            bus.may(call.credential, "call", call.method.name)
            try:
                bus.admission.check(call.principal, call.method.name)
                return
            except RateLimited as error:
                wait_s = max(_ASK_AGAIN_S, error.retry_after_ms / 1e3)
                if not call.hello.waits or loop.time() + wait_s > until_s:
                    raise
            await asyncio.sleep(wait_s)

    def _span(self, call: Call) -> AbstractContextManager[Any]:
        if self._telemetry is None:
            return nullcontext()
        return self._telemetry.span(
            call.method.name, call.metadata, **{"sira.principal": str(call.principal)}
        )

    def _check_size(self, request: bytes) -> None:
        limit = self._unary_bytes_max
        if len(request) > limit:
            raise MessageTooLarge(
                f"{len(request)} bytes in a unary call, at most {limit}; streams take any size",
                details={"setting": "unary_bytes_max", "limit_bytes": str(limit)},
            )

    async def _refuse(
        self,
        method: Method,
        context: Any,
        call: Call | None,
        error: SiraError,
        ids: Mapping[str, str],
    ) -> None:
        principal = call.principal if call else self._nobody.principal
        if call is None:
            self.unidentified += 1
        world = call.world if call else self._worlds.get(SYSTEM)
        if world is not None:  # a stranger's failure is the operators' business alone
            under = intent(call.metadata) if call else ""
            world.bus.refused(principal, "call", method.name, error, intent=under)
        self._logs.debug(
            "edge",
            "refused",
            str(error),
            principal=str(principal),
            code=error.code,
            method=method.name,
            **ids,
        )
        if error.code == "INTERNAL":
            self._log_fault(method, call, error, ids)
        await rpc.abort(context, error)

    @staticmethod
    def _audit(call: Call, request: Message | None) -> None:
        """Let `sira.audit` say that an administrative call was made."""
        named = getattr(request, "name", "") or getattr(request, "key", "")
        resource = named or call.method.name
        call.world.bus.audit(
            call.principal, call.method.name, str(resource), intent=intent(call.metadata)
        )

    def _log_fault(
        self, method: Method, call: Call | None, error: BaseException, ids: Mapping[str, str]
    ) -> None:
        self._logs.error(
            "edge",
            "fault",
            f"{type(error).__name__}: {error}",
            method=method.name,
            principal=str(call.principal) if call else "",
            traceback=_traceback(error),
            **ids,
        )

    def _trace_ids(self) -> dict[str, str]:
        return self._telemetry.ids() if self._telemetry else {}


def _owes(method: Method) -> bool:
    """Whether a call owes its caller an end; else it tells what changes until the caller leaves."""
    return method.parting or not method.response_stream or method.effects != "read"


def intent(metadata: Mapping[str, str | bytes]) -> str:
    """Return the id of the intent that a call is made under, 32 hex digits; "": none."""
    value = metadata.get(INTENT_KEY, "")
    if not isinstance(value, str) or len(value) != _INTENT_CHARS:
        return ""
    return value if not set(value) - set("0123456789abcdef") else ""


def encoded(reply: Message | bytes) -> bytes:
    """Return an answer as it leaves; one that was made in parts is encoded already."""
    return reply if isinstance(reply, bytes) else reply.SerializeToString()


def _decode(method: Method, data: bytes) -> Message:
    try:
        return method.request.FromString(data)
    except DecodeError:
        raise FrameCorrupt(
            f"the request is no {method.request.DESCRIPTOR.full_name}",
            details={"method": method.name, "request_bytes": str(len(data))},
        ) from None


def _unknown(name: str) -> RpcHandler:
    """Return what answers a method that is not in the table: the same, whatever its shape."""

    async def refuse(_: Any, context: Any) -> None:
        error = Unsupported(f"this node has no method {name[:200]}", details={"method": name[:200]})
        await rpc.abort(context, error)

    return grpc.stream_stream_rpc_method_handler(refuse)


def _traceback(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error))


Handler = Callable[[Call, Any], Awaitable[Any]]
