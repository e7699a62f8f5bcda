"""The unary methods of the kernel as function calls."""

from __future__ import annotations

from typing import Any, cast

from google.protobuf.message import DecodeError

from sira.kernel.bus import Bus as Kernel
from sira.kernel.clients import Hello
from sira.kernel.edge.bus_service import BusService
from sira.kernel.edge.door import Call
from sira.kernel.edge.kernel_service import KernelService
from sira.kernel.edge.link import Links
from sira.kernel.edge.publish import Publishing
from sira.kernel.edge.request import Requests
from sira.kernel.edge.subscribe import Subscribing
from sira.kernel.edge.ticker import Ticker
from sira.kernel.errors import FrameCorrupt, Unsupported
from sira.kernel.identity import Principal
from sira.kernel.introspect import builtin_topic_classes
from sira.kernel.logs import Logs
from sira.kernel.methods import Catalog
from sira.kernel.metrics import Counts, Loop
from sira.kernel.settings import Settings


class Doors:
    """The table of methods of one kernel, and the way through it."""

    def __init__(self, kernel: Kernel, settings: Settings) -> None:
        """Fill the table, as a node does."""
        self._catalog = Catalog()
        for each in builtin_topic_classes():
            self._catalog.add_topic_class(each)
        self.calls = 0
        self.calls_now = 0
        logs = Logs(node=settings.node_name, level="error")
        counts = Counts(kernel, logs, Loop(), self)
        ticker, links = Ticker(kernel), Links()
        service = BusService(
            kernel,
            Publishing(kernel, ticker, links),
            Subscribing(kernel, ticker, links),
            Requests(kernel, ticker),
        )
        self._catalog.add_methods(
            *KernelService(kernel, self._catalog, settings, counts).methods(), *service.methods()
        )
        # Time passes by the local node's own clock.
        ticker.close()

    async def call(self, name: str, data: bytes, principal: Principal, hello: Hello) -> bytes:
        """Call a unary method with an encoded request; return the encoded reply.

        Raises:
            Unsupported: there is no such method. SiraError: what it refuses with.
        """
        method = self._catalog.get(name)
        if method is None or method.request_stream or method.response_stream:
            raise Unsupported(f"this node has no method {name}", details={"method": name})
        try:
            request = method.request.FromString(data)
        except DecodeError:
            raise FrameCorrupt(f"the request is no {method.request.DESCRIPTOR.full_name}") from None
        call = Call(_NoContext(), method, principal, hello, "local", {})
        self.calls += 1
        self.calls_now += 1
        try:
            reply = await method.handler(call, request)
        finally:
            self.calls_now -= 1
        return cast(bytes, reply.SerializeToString())


class _NoContext:
    """What a unary handler may ask of gRPC."""

    def time_remaining(self) -> Any:
        """Return None: the caller counts its time itself."""
        return None
