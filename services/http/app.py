"""The routes. Each reads, asks the gateway, and writes; what is refused is raised as it is."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp

from sira.client.bus import Bus
from sira.client.subscription import Subscription
from sira.kernel.errors import BadRequest, Internal, NodeDraining, QuotaExceeded, SiraError
from sira.kernel.logs import Logs
from sira.kernel.settings import Settings
from sira.services.http import bodies
from sira.services.http.gateway import Gateway
from sira.services.http.mounts import Mounted
from sira.services.http.problems import HttpError, document, problem

_TIME_S_MAX = 3_600.0
_REQUEST_S = 10.0
# Read ahead of a slow reader of events; what is more waits, and is dropped, on the node.
_WINDOW_MESSAGES = 64
_WINDOW_BYTES = 4 << 20
_GONE = 499  # nobody reads it
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
_PUBLISH = frozenset({"priority", "ttl_s", "timeout_s", "name", "plain", "grade", "key", "type"})
_REQUEST = _PUBLISH - {"grade", "ttl_s"}
_SUBSCRIBE = frozenset({"overflow", "group"})


@dataclass(slots=True)
class Listener:
    """What all routes share.

    Attributes:
        stopping: set when this process goes down in order; streams of events end then.
        streams: event streams open now, by principal.
    """

    settings: Settings
    gateway: Gateway
    logs: Logs
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    streams: Counter[str] = field(default_factory=Counter)

    # ---- what one looks at -----------------------------------------------------------------------

    async def metrics(self, request: Request) -> Response:
        """`GET /metrics`: the node's numbers, for who may ask `Stats`."""
        return PlainTextResponse(
            await self.gateway.metrics(_shown(request)), media_type=_PROMETHEUS
        )

    async def healthz(self, _: Request) -> Response:
        """`GET /healthz`: this process lives and the node answers."""
        serves = await self.gateway.serves()
        return JSONResponse({"alive": True, "serving": serves})

    async def readyz(self, _: Request) -> Response:
        """`GET /readyz`: both take what is new; and what fails that they can do without."""
        if self.stopping.is_set() or not await self.gateway.serves():
            raise NodeDraining("the node goes down in order")
        return JSONResponse({"ready": True, "failing": await self.gateway.failing()})

    # ---- messages --------------------------------------------------------------------------------

    async def _known(self, request: Request) -> None:
        """Return when it is known who calls; to a stranger nothing else is said, nor kept of him.

        Raises:
            Unauthenticated: what he shows proves nothing.
        """
        await self.gateway.known(_shown(request))

    async def publish(self, request: Request) -> Response:
        """`POST /v1/publish/{topic}`: one message; its receipt comes back."""
        await self._known(request)
        query = _query(request, _PUBLISH)
        await request.body()
        return await _while_wanted(request, self._publish(request, query))

    async def _publish(self, request: Request, query: Mapping[str, str]) -> Response:
        body, content_type = await _body(request, query)
        ttl_s, timeout_s = _seconds(query, "ttl_s"), _seconds(query, "timeout_s")
        async with self.gateway.bus(_shown(request)) as bus:
            receipt = await bus.publish(
                request.path_params["topic"],
                body,
                grade=query.get("grade"),
                ttl_s=ttl_s,
                timeout_s=timeout_s,
                **_envelope(request, query, content_type),
            )
        return JSONResponse(
            {
                "id": receipt.id,
                "grade": receipt.grade,
                "matched": receipt.matched,
                "bytes": receipt.bytes,
                "copies": receipt.copies,
                "lanes": list(receipt.lanes),
            }
        )

    async def request(self, request: Request) -> Response:
        """`POST /v1/request/{topic}`: one request; the reply comes back in the type asked for."""
        await self._known(request)
        query = _query(request, _REQUEST)
        await request.body()
        return await _while_wanted(request, self._request(request, query))

    async def _request(self, request: Request, query: Mapping[str, str]) -> Response:
        body, content_type = await _body(request, query)
        timeout_s = _seconds(query, "timeout_s") or _REQUEST_S
        async with self.gateway.bus(_shown(request)) as bus:
            reply = await bus.request(
                request.path_params["topic"],
                body,
                timeout_s=timeout_s,
                **_envelope(request, query, content_type),
            )
        data, media = bodies.write(reply, request.headers.get("accept", ""))
        headers = bodies.headers_out(reply.headers)
        headers |= {"Sira-Id": reply.id, "Content-Type": media, "Cache-Control": "no-store"}
        if reply.principal:
            headers["Sira-Principal"] = reply.principal
        return Response(data, headers=headers)

    async def subscribe(self, request: Request) -> Response:
        """`GET /v1/subscribe/{pattern}`: messages as server-sent events, until one side leaves."""
        await self._known(request)
        query = _query(request, _SUBSCRIBE)
        if self.stopping.is_set():
            raise NodeDraining("the listener goes down in order")
        stream = self._events(request.path_params["pattern"], query, _shown(request))
        first = await anext(stream)  # opened, or refused with a status of its own
        return EventSourceResponse(
            _after(first, stream),
            ping=self.settings.http_heartbeat_s,
            ping_message_factory=lambda: ServerSentEvent(comment="alive"),
            send_timeout=self.settings.http_write_s,
            headers={"Cache-Control": "no-store"},
        )

    async def _events(
        self, pattern: str, query: Mapping[str, str], shown: str
    ) -> AsyncIterator[ServerSentEvent]:
        async with self.gateway.bus(shown) as bus:
            principal = bus.node.principal
            most = self.settings.http_streams_per_principal_max
            if self.streams[principal] >= most:
                raise QuotaExceeded(
                    f"{most} streams of events, the most that one principal may hold here",
                    details={"setting": "http_streams_per_principal_max"},
                )
            self.streams[principal] += 1
            try:
                async for each in self._messages(bus, pattern, query):
                    yield each
            finally:
                self.streams[principal] -= 1
                if not self.streams[principal]:
                    del self.streams[principal]

    async def _messages(
        self, bus: Bus, pattern: str, query: Mapping[str, str]
    ) -> AsyncIterator[ServerSentEvent]:
        subscription = bus.subscribe(
            pattern,
            group=query.get("group", ""),
            overflow=query.get("overflow", "drop"),
            window_messages=_WINDOW_MESSAGES,
            window_bytes=_WINDOW_BYTES,
        )
        stop = asyncio.ensure_future(self.stopping.wait())
        try:
            async with subscription:
                cut = ", ".join(subscription.cut)
                yield ServerSentEvent(event="open", data=cut and f"left out: {cut}")
                try:
                    async for data in _until(stop, subscription):
                        yield ServerSentEvent(event="message", id=data[0], data=data[1])
                except SiraError as error:  # the head is out: the end of the stream says why
                    yield ServerSentEvent(event="error", data=json.dumps(document(error)))
                else:
                    yield ServerSentEvent(event="end", data="the listener goes down in order")
        finally:
            stop.cancel()

    # ---- what goes wrong -------------------------------------------------------------------------

    async def refused(self, _: Request, error: Exception) -> Response:
        """Say a refusal."""
        assert isinstance(error, SiraError)
        if error.code == "INTERNAL":
            self.logs.error("http", "fault", str(error))
        return problem(error)

    async def unknown(self, _: Request, error: Exception) -> Response:
        """Say what the router refuses: no such path, no such method there."""
        assert isinstance(error, HTTPException)
        response = problem(HttpError(error.status_code, error.detail))
        response.headers.update(error.headers or {})
        return response

    async def left(self, _: Request, error: Exception) -> Response:
        """Take note that the caller went before its body had come: there is nobody to answer."""
        assert isinstance(error, ClientDisconnect)
        return Response(status_code=400)

    async def failed(self, request: Request, error: Exception) -> Response:
        """Say that the fault is ours."""
        self.logs.error("http", "fault", f"{type(error).__name__}: {error}", path=request.url.path)
        return problem(Internal(f"{type(error).__name__} inside the HTTP listener"))


def routes(listener: Listener, mounts: Mapping[str, ASGIApp]) -> Starlette:
    """Return the application: our routes, and below them what services bring.

    Args:
        mounts: prefix to ASGI application; each is behind the same identification.
    """
    table: Sequence[BaseRoute] = [
        Route("/metrics", listener.metrics, methods=["GET"]),
        Route("/healthz", listener.healthz, methods=["GET"]),
        Route("/readyz", listener.readyz, methods=["GET"]),
        Route("/v1/publish/{topic}", listener.publish, methods=["POST"]),
        Route("/v1/request/{topic}", listener.request, methods=["POST"]),
        Route("/v1/subscribe/{pattern}", listener.subscribe, methods=["GET"]),
        *(
            Mount(path, app=Mounted(app, listener.gateway.principal))
            for path, app in mounts.items()
        ),
    ]
    return Starlette(
        routes=table,
        exception_handlers={
            SiraError: listener.refused,
            HTTPException: listener.unknown,
            ClientDisconnect: listener.left,
            Exception: listener.failed,
        },
    )


async def _left(request: Request) -> None:
    """Return when the caller is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _while_wanted(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """Return what `work` gives; cancel it when the caller leaves before. Its body has been read."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        return Response(status_code=_GONE)
    finally:
        for each in (working, leaving):
            each.cancel()
        await asyncio.wait({working, leaving})


async def _until(
    stop: asyncio.Future[Any], subscription: Subscription
) -> AsyncIterator[tuple[str, str]]:
    """Yield id and JSON of each message until `stop` is done or the subscription ends."""
    while True:
        take = asyncio.ensure_future(subscription.next())
        try:
            await asyncio.wait({take, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not take.done():
                return
            try:
                message = take.result()
            except StopAsyncIteration:
                return
        finally:
            take.cancel()
        yield message.id, bodies.event(message)


async def _after(
    first: ServerSentEvent, rest: AsyncIterator[ServerSentEvent]
) -> AsyncIterator[ServerSentEvent]:
    try:
        yield first
        async for each in rest:
            yield each
    finally:
        await rest.aclose()  # type: ignore[attr-defined]  # a generator


async def _body(request: Request, query: Mapping[str, str]) -> tuple[Any, str]:
    data = await request.body()
    plain = query.get("plain", "0")
    if plain not in ("0", "1"):
        raise BadRequest("`plain` is 0 or 1", details={"field": "plain"})
    found = bodies.read(
        request.headers.get("content-type", ""), data,
        name=query.get("name", "x"), plain=plain == "1",
    )  # fmt: skip
    return found.body, found.content_type


def _envelope(request: Request, query: Mapping[str, str], content_type: str) -> dict[str, Any]:
    """Return the arguments that publish and request share."""
    found: dict[str, Any] = {
        "headers": bodies.headers_in(request.headers.items()) or None,
        "key": query.get("key", ""),
    }
    priority = query.get("priority", "0")
    if priority not in tuple("01234567"):
        raise BadRequest("`priority` is 0 to 7, higher first", details={"field": "priority"})
    found["priority"] = int(priority)
    if content_type:
        found["content_type"] = content_type
    if "type" in query:
        found["type"] = query["type"]
    if traceparent := request.headers.get("traceparent"):
        found["traceparent"] = traceparent
    return found


def _query(request: Request, known: frozenset[str]) -> dict[str, str]:
    """Return the query. Raises BadRequest: a name that means nothing here, or one twice."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known or name in found:
            why = "comes twice" if name in found else f"is none of {', '.join(sorted(known))}"
            raise BadRequest(f"query parameter {name[:80]!r} {why}", details={"field": name[:80]})
        found[name] = value
    return found


def _seconds(query: Mapping[str, str], name: str) -> float | None:
    if name not in query:
        return None
    try:
        value = float(query[name])
    except ValueError:
        value = math.nan
    if not 0 < value <= _TIME_S_MAX:
        raise BadRequest(
            f"`{name}` is more than 0 and at most {_TIME_S_MAX:g} s", details={"field": name}
        )
    return value


def _shown(request: Request) -> str:
    """Return what the caller shows. Raises BadRequest: two of them, and who would it be."""
    found = request.headers.getlist("authorization")
    if len(found) > 1:
        raise BadRequest("`Authorization` comes twice")
    text = found[0] if found else ""
    if not text.isascii() or not text.isprintable():
        raise BadRequest("`Authorization` is not printable ASCII")
    return text
