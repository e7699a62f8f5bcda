"""A node and its clients in one process, without sockets, on a clock that tests move by hand.

`LocalNode` runs the kernel itself (`sira.kernel.bus`); a `LocalBus` is a `sira.Bus` whose transport
hands frames over as function calls. Nothing here is a mock: queues, matching, ledger and flow
control are those of a real node.
"""

from __future__ import annotations

import asyncio
from typing import Any, Self

from sira import _native
from sira.client.bus import CONNECT_S, Bus
from sira.client.message import Message
from sira.client.retry import Retry
from sira.client.transport import Metadata, Stream
from sira.kernel.bus import Bus as Kernel
from sira.kernel.clients import Hello
from sira.kernel.errors import SiraError, Timeout, Unreachable
from sira.kernel.identity import Principal
from sira.kernel.parts import Host, Part, start_all, stop_all
from sira.kernel.settings import load
from sira.kernel.trust.credential import Credential
from sira.services.node.parts import InMemory
from sira.testing.clock import Clock
from sira.testing.doors import Doors
from sira.testing.streams import Context, LocalCall, LocalPublish, LocalStream, LocalSubscribe

# How often the node looks at what runs out of time, while its clock runs by itself.
_TICK_S = 0.02


class LocalNode:
    """The middle of a node in this process. Belongs to the event loop that it is first used on."""

    def __init__(self, *, clock: Clock | None = None, **settings: object) -> None:
        """Prepare.

        Args:
            clock: the node's time; None: one of its own.
            settings: by name, as in `sira config show`: `LocalNode(stall_s=0.5)`.
        """
        self.clock = clock or Clock()
        self.settings = load(flags={"data_dir": "/nonexistent", **settings}, environ={})
        self._kernel: Kernel | None = None
        self._doors: Doors | None = None
        self._streams: set[LocalStream] = set()
        self._ticker: asyncio.Task[None] | None = None
        self._composition = InMemory()  # outlives `stop`, as a folder does
        self._parts: list[Part] = []
        self._starting: asyncio.Task[list[Part]] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._users = 0
        self._running = True

    @property
    def kernel(self) -> Kernel:
        """The kernel of this life of the node."""
        if self._kernel is None:
            loop = asyncio.get_running_loop()
            self._kernel = Kernel(
                self.settings, clock_ns=self.clock.now_ns, soon=lambda call: loop.call_soon(call)
            )
            self._parts = self._composition.parts()
            self._doors = Doors(self._kernel, self.settings, self._parts)
            self._starting = loop.create_task(self._start_parts(self._kernel, self._doors))
        return self._kernel

    async def _start_parts(self, kernel: Kernel, doors: Doors) -> list[Part]:
        if self._ending is not None:
            await self._ending
        host = Host(
            settings=self.settings,
            logs=doors.logs,
            folder=None,
            bus_of=lambda _tenant: kernel,
            bus_if=lambda _tenant: kernel,
            say=kernel.events.emit,
            not_ready=lambda: None,
            keep_topics=lambda keeper: setattr(doors, "keeper", keeper),
            count=doors.part_counts.__setitem__,
            limp=lambda _name, _fails: None,
            clock_ns=self.clock.now_ns,
        )
        return await start_all(self._parts, host)

    # ---- life ------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End every stream and forget everything, as `kill -9` would; nobody can connect.

        What the tables hold is kept for the next life, as a data folder would.
        """
        self._running = False
        for stream in list(self._streams):
            stream.lose(Unreachable("the node was stopped"))
        if self._kernel is not None:
            self._kernel.hub.close()
        self._kernel = self._doors = None
        if self._starting is not None:
            starting, self._starting = self._starting, None
            self._ending = asyncio.get_running_loop().create_task(_end(starting))

    def start(self) -> None:
        """Begin a new life, empty."""
        self._running = True

    def cut(self) -> None:
        """End every stream, as a lost network would; the node lives on."""
        for stream in list(self._streams):
            stream.lose(Unreachable("the connection was cut"))

    def enter(self) -> None:
        """Let time pass as long as somebody is connected."""
        self._users += 1
        if self._ticker is None:
            self.clock.moved.append(self._tick)
            self._ticker = asyncio.get_running_loop().create_task(self._run(), name="sira-local")

    def leave(self) -> None:
        """Take note that a client is gone."""
        self._users -= 1
        if self._users == 0 and self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
            self.clock.moved.remove(self._tick)

    async def rest(self) -> None:
        """Let the parts end while nobody is connected: who comes next starts them again."""
        if self._users == 0 and self._starting is not None:
            starting, self._starting = self._starting, None
            self._ending = asyncio.get_running_loop().create_task(_end(starting))
            await self._ending

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            self._tick()

    def _tick(self) -> None:
        if self._kernel is not None:
            self._kernel.tick(self.clock.now_ns())
            for part in self._parts:
                part.tick()

    # ---- doors -----------------------------------------------------------------------------------

    def _who(self) -> Credential:
        return Credential(Principal(self.settings.cluster_name, "default", "user", "local"))

    def _check_running(self) -> None:
        if not self._running:
            raise Unreachable("the node is stopped", details={"address": "local"})

    async def unary(self, method: str, request: bytes, metadata: Metadata) -> bytes:
        """Call a method of the node."""
        self._check_running()
        kernel = self.kernel
        assert self._doors is not None, "made with the kernel"
        if self._starting is None:  # the last client had gone
            work = self._start_parts(kernel, self._doors)
            self._starting = asyncio.get_running_loop().create_task(work)
        await asyncio.shield(self._starting)
        hello = Hello.read(dict(metadata))
        kernel.may(self._who(), "call", method)
        return await self._doors.call(method, request, self._who(), hello)

    def open(self, method: str, metadata: Metadata) -> LocalStream:
        """Open a stream of the node; what it refuses comes from the stream's reads."""
        kernel, now_ns = self.kernel, self.clock.now_ns
        hello = Hello.read(dict(metadata))
        who = self._who()
        kernel.may(who, "call", method)
        client = kernel.join(hello, who.principal, "local", now_ns())
        stream: LocalStream
        if method == "/sira.v1.Bus/Publish":
            stream = LocalPublish(kernel, client, who, hello, now_ns)
        elif method == "/sira.v1.Bus/Subscribe":
            stream = LocalSubscribe(kernel, client, who, hello, now_ns)
        else:
            stream = self._other(method, who, hello)
        self._streams.add(stream)
        stream.on_over = self._streams.discard
        return stream

    def _other(self, name: str, who: Credential, hello: Hello) -> LocalStream:
        doors, starting = self._doors, self._starting
        assert doors is not None and starting is not None, "made with the kernel"
        method = doors.stream(name)

        async def serve(context: Context) -> None:
            await asyncio.shield(starting)
            await doors.serve(method, context, who, hello)

        return LocalCall(serve)


async def _end(starting: asyncio.Task[list[Part]]) -> None:
    """Stop the parts of a life that is over."""
    await stop_all(await starting)


class LocalTransport:
    """A `Transport` to a `LocalNode`."""

    lane = "grpc"  # what its receipts tell: it stands for a node that is reached so
    lent = None
    over = None

    def __init__(self, node: LocalNode) -> None:
        """Connect to `node`."""
        self._node = node
        self._streams: list[LocalStream] = []
        self._closed = False
        node.enter()

    async def unary(
        self, method: str, request: bytes, *, metadata: Metadata, timeout_s: float
    ) -> bytes:
        """Call one method."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._node.unary(method, request, metadata)
        except TimeoutError as error:
            if isinstance(error, SiraError):
                raise
            raise Timeout(f"{method}: no answer in {timeout_s:g} s") from None

    def stream(self, method: str, *, metadata: Metadata) -> Stream:
        """Open one stream."""
        try:
            self._node._check_running()
            stream: LocalStream = self._node.open(method, metadata)
        except SiraError as error:
            stream = LocalStream()
            stream.lose(error)
        self._streams.append(stream)
        return stream

    def renewed(self) -> bool:
        """Return False: nothing is shown to a node in this process."""
        return False

    async def close(self) -> None:
        """End the streams."""
        if self._closed:
            return
        self._closed = True
        for stream in self._streams:
            stream.cancel()
        self._node.leave()
        await self._node.rest()


class LocalBus(Bus):
    """A `sira.Bus` on a node in this process: `async with LocalBus() as bus:`.

    `another()` gives a second client of the same node, `clock.step(s)` lets its time pass.
    """

    def __init__(
        self,
        node: LocalNode | None = None,
        *,
        name: str = "",
        retry: Retry | None = None,
        timeout_s: float | None = CONNECT_S,
        message_type: type[_native.Message] = Message,
        **settings: object,
    ) -> None:
        """Prepare.

        Args:
            node: to connect to; None: one of its own, with `settings` by name.
            name, retry, timeout_s, message_type: as `sira.Bus` takes them.
        """
        self.local_node = node or LocalNode(**settings)  # type: ignore[arg-type]
        super().__init__(
            "sira://local",
            name=name,
            retry=retry,
            timeout_s=timeout_s,
            message_type=message_type,
            dial=lambda _address: LocalTransport(self.local_node),
        )

    @property
    def clock(self) -> Clock:
        """The node's clock."""
        return self.local_node.clock

    def another(self, **settings: Any) -> Self:
        """Return a second client of the same node; connect it like the first."""
        return type(self)(self.local_node, **settings)
