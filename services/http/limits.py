"""What every call passes first: bytes of headers and body, and where a browser may come from."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sira.kernel.errors import BadRequest, Denied, MessageTooLarge, QuotaExceeded, SiraError
from sira.services.http.problems import HttpError, problem


class Limits:
    """ASGI middleware around everything, mounts included.

    Attributes:
        held_bytes: of bodies that are being read or handled now.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        header_bytes_max: int,
        body_bytes_max: int,
        held_bytes_max: int,
        local: bool,
    ) -> None:
        """Guard `app`.

        Args:
            local: the listener is plain and on loopback, where `Host` must be an address or
                `localhost`: a page of a stranger may have its name point here.
        """
        self._app = app
        self._header_bytes_max, self._body_bytes_max = header_bytes_max, body_bytes_max
        self._held_bytes_max, self._local = held_bytes_max, local
        self.held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one call through, or refuse it."""
        if scope["type"] != "http":
            return
        call = _Call(send, complete=not _has_body(scope))
        taken = 0

        def hold(more: int) -> None:
            nonlocal taken
            taken += more
            self.held_bytes += more
            if taken > self._body_bytes_max:
                raise self._too_large()
            if self.held_bytes > self._held_bytes_max:
                raise QuotaExceeded(
                    f"bodies of {self._held_bytes_max} bytes are being handled",
                    details={"setting": "http_held_bytes_max"},
                    retryable=True,
                    retry_after_ms=1_000,
                )

        try:
            try:
                self._check(scope)
            except SiraError as error:
                await problem(error)(scope, receive, call.send_closing)
                return
            await self._app(scope, _counted(receive, hold, call), call.send)
        finally:
            self.held_bytes -= taken

    def _check(self, scope: Scope) -> None:
        """Look at the head.

        Raises:
            SiraError: it is refused.
        """
        size = len(scope["raw_path"]) + len(scope["query_string"])
        size += sum(len(name) + len(value) + 4 for name, value in scope["headers"])
        if size > self._header_bytes_max:
            raise HttpError(
                431, f"headers of {size} bytes, at most {self._header_bytes_max}",
                details={"setting": "http_header_bytes_max"},
            )  # fmt: skip
        if not _is_text(scope["raw_path"]) or not _is_text(scope["query_string"]):
            # What reads them puts one mark for each such byte: two names would become one.
            raise BadRequest("path and query are UTF-8, percent-encoded")
        headers = Headers(scope=scope)
        if "content-length" in headers and "transfer-encoding" in headers:
            # What stands in between may go by the other of the two, and see other calls than we.
            raise HttpError(400, "`Content-Length` and `Transfer-Encoding` in one call")
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length[:20]) > self._body_bytes_max:
            raise self._too_large()
        host = headers.get("host", "")
        if self._local and not _is_address(host):
            raise Denied("`Host` is neither an address nor localhost", help="call it by address")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise Denied(
                "a page of another origin may not call this listener",
                help="serve the page from here (http_mounts), or call from a program",
            )

    def _too_large(self) -> MessageTooLarge:
        return MessageTooLarge(
            f"the body is over {self._body_bytes_max} bytes",
            details={"setting": "http_body_bytes_max", "limit_bytes": str(self._body_bytes_max)},
            help="send less at once, raise http_body_bytes_max, or use gRPC: it takes any size",
        )


class _Call:
    """How far the body has come; a call that ends before it does closes its connection."""

    def __init__(self, send: Send, *, complete: bool) -> None:
        self._send = send
        self.complete = complete

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and not self.complete:
            message = _closing(message)
        await self._send(message)

    async def send_closing(self, message: Message) -> None:
        await self._send(_closing(message))


def _has_body(scope: Scope) -> bool:
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])


def _counted(receive: Receive, hold: Callable[[int], None], call: _Call) -> Receive:
    async def counted() -> Message:
        message = await receive()
        if message["type"] == "http.request":
            call.complete = not message.get("more_body", False)
            hold(len(message.get("body", b"")))
        return message

    return counted


def _closing(message: Message) -> Message:
    if message["type"] != "http.response.start":
        return message
    return {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}


def _is_text(quoted: bytes) -> bool:
    """Whether percent-encoded bytes are UTF-8."""
    try:
        unquote_to_bytes(quoted).decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_address(host: str) -> bool:
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    if name.lower() == "localhost":
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
