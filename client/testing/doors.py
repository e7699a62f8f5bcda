"""The unary methods of the kernel as function calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf.message import DecodeError

from sira.kernel.bus import Bus as Kernel
from sira.kernel.clients import Hello
from sira.kernel.edge.bus_service import BusService
from sira.kernel.edge.door import Call, encoded
from sira.kernel.edge.kernel_service import KernelService
from sira.kernel.edge.link import Links
from sira.kernel.edge.world import World
from sira.kernel.errors import FrameCorrupt, Unsupported
from sira.kernel.introspect import builtin_topic_classes
from sira.kernel.logs import Logs
from sira.kernel.methods import Catalog, Method
from sira.kernel.metrics import Counts, Loop
from sira.kernel.parts import Part, TopicKeeper
from sira.kernel.settings import Settings
from sira.kernel.trust.credential import Credential


class Doors:
    """The table of methods of one kernel, and the way through it."""

    def __init__(self, kernel: Kernel, settings: Settings, parts: Iterable[Part] = ()) -> None:
        """Fill the table, as a node does."""
        loop = Loop()
        self._world = World.around(kernel, loop)
        self._catalog = Catalog()
        self.keeper: TopicKeeper | None = None
        self.part_counts: dict[str, Callable[[], float]] = {}
        for each in builtin_topic_classes():
            self._catalog.add_topic_class(each)
        self.calls = 0
        self.calls_now = 0
        self.calls_taken_back = self.connections_closed = 0  # there are no connections
        self.strangers = self.addresses_held = self.addresses_held_total = 0
        logs = self.logs = Logs(node=settings.node_name, level="error")
        kernel_service = KernelService(
            self._catalog,
            settings,
            lambda bus: Counts(bus, logs, loop, self, parts=self.part_counts),
        )
        self._catalog.add_methods(
            *kernel_service.methods(), *BusService(Links(), lambda: self.keeper).methods()
        )
        for part in parts:
            self._catalog.add_methods(*part.methods())
            for each in part.topic_classes():
                self._catalog.add_topic_class(each)
        # Time passes by the local node's own clock.
        self._world.ticker.close()

    async def call(self, name: str, data: bytes, who: Credential, hello: Hello) -> bytes:
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
        call = Call(_NoContext(), method, who, self._world, hello, "local", {})
        self.calls += 1
        self.calls_now += 1
        try:
            reply = await method.handler(call, request)
        finally:
            self.calls_now -= 1
        return encoded(reply)

    def stream(self, name: str) -> Method:
        """Return a method that answers with a stream. Raises Unsupported: there is none."""
        method = self._catalog.get(name)
        if method is None or not method.response_stream:
            raise Unsupported(f"this node has no stream {name}", details={"method": name})
        return method

    async def serve(self, method: Method, context: Any, who: Credential, hello: Hello) -> None:
        """Run the handler of a stream on `context`. Raises SiraError: what it refuses with."""
        call = Call(context, method, who, self._world, hello, "local", {})
        self.calls += 1
        self.calls_now += 1
        try:
            await method.handler(call, None if method.request_stream else await call.read())
        finally:
            self.calls_now -= 1


class _NoContext:
    """What a unary handler may ask of gRPC."""

    def time_remaining(self) -> Any:
        """Return None: the caller counts its time itself."""
        return None
