"""The listening socket: TLS, its certificate exchanged while it runs, and the end in order."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from uvicorn.server import ServerState

from sira.kernel.edge.server import gateway_socket
from sira.kernel.edge.tls import read_pair
from sira.kernel.errors import AddressInUse, SiraError
from sira.kernel.logs import Logs
from sira.kernel.loopback import is_loopback
from sira.kernel.reload import Reloader
from sira.kernel.settings import Settings
from sira.services.http import mounts, protocol
from sira.services.http.app import Listener, routes
from sira.services.http.gateway import Gateway
from sira.services.http.limits import Limits

_BACKLOG = 1_024
_LAST_WORDS_S = 1.0


class HttpServer:
    """Listens where `http` says, and hands calls to the node of the same data folder."""

    def __init__(self, settings: Settings, logs: Logs) -> None:
        """Prepare; `start` listens.

        Raises:
            BadSetting: a mount cannot be imported, or the data folder's path is too long.
        """
        self._settings, self._logs = settings, logs
        self._mounts = mounts.load(settings.http_mounts)
        self._path = gateway_socket(settings)
        self._state = ServerState()
        self._reloader = Reloader(every_s=settings.reload_s, refused=self._refused)
        self._reloading: asyncio.Task[None] | None = None
        self._server: asyncio.Server | None = None
        self.address = ""

    async def start(self) -> None:
        """Listen.

        Raises:
            AddressInUse: somebody else does, or the address is not of this machine.
            BadSetting: the certificate or its key cannot be used.
        """
        settings = self._settings
        host, port = settings.host_port("http")
        context = self._tls() if settings.tls_cert else None
        self._gateway = Gateway(self._path, clients_max=settings.http_clients_max)
        self._listener = Listener(settings, self._gateway, self._logs)
        app = Limits(
            routes(self._listener, self._mounts),
            header_bytes_max=settings.http_header_bytes_max,
            body_bytes_max=settings.http_body_bytes_max,
            held_bytes_max=settings.http_held_bytes_max,
            local=context is None and is_loopback(host),
        )
        protocol.tell(self._logs)
        make = protocol.factory(protocol.config(app, settings), self._state, settings)
        more: dict[str, Any] = {} if context is None else {
            "ssl": context, "ssl_handshake_timeout": settings.handshake_s,
        }  # fmt: skip
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                make, host.strip("[]"), port, backlog=_BACKLOG, **more
            )
        except OSError as error:
            await self._gateway.close()
            raise AddressInUse(
                f"cannot listen on {settings.http}: another process is there, or it is no address "
                "of this machine",
                details={"address": settings.http, "reason": str(error)[:200]},
                help="stop the other process, or choose another address with --http",
            ) from None
        bound = self._server.sockets[0].getsockname()[1]
        self.address = f"{host}:{bound}"
        self._reloading = loop.create_task(self._reloader.run(), name="sira-http-reload")
        scheme = "http" if context is None else "https"
        self._logs.info("http", "started", f"listening on {scheme}://{self.address}")

    async def stop(self, grace_s: float) -> None:
        """Take nothing new, end streams of events, finish what has begun.

        Args:
            grace_s: how long that may take.
        """
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        self._listener.stopping.set()
        for each in list(self._state.connections):
            each.shutdown()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=grace_s)
        for task in list(self._state.tasks):
            task.cancel()
        if self._state.connections:
            await self._closed(_LAST_WORDS_S)
        for each in list(self._state.connections):
            each.transport.abort()
        if self._reloading is not None:
            self._reloading.cancel()
        await self._gateway.close()
        self._logs.info("http", "stopped")

    async def _closed(self, timeout_s: float) -> None:
        """Wait until connections have said their last words."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + timeout_s
        while self._state.connections and loop.time() < end_s:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    def _tls(self) -> ssl.SSLContext:
        settings = self._settings
        context = _context()

        async def change(_: object) -> None:
            # Tried apart first: half of a new pair in the one that answers would fail handshakes.
            _context().load_cert_chain(settings.tls_cert, settings.tls_key)
            context.load_cert_chain(settings.tls_cert, settings.tls_key)
            self._logs.info("http", "reload", "tls_cert: changed, and in force")

        paths = (settings.tls_cert, settings.tls_key)
        self._reloader.add("tls_cert", paths, lambda: read_pair(settings), change)
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
        return context

    def _refused(self, name: str, error: SiraError) -> None:
        self._logs.error("http", "reload", f"{name}: the old one stays: {error}", setting=name)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
