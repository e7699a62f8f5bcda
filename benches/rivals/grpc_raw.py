"""Raw grpcio: asyncio on uvloop, one bidirectional stream, generic handlers, bytes as they are.

No node between: the two ends are one connection. No protobuf: with no serialiser grpcio hands
`bytes` through. Message limits are lifted, everything else is left at its default.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from benches import mixture, patterns
from benches.link import Link
from benches.payload import HEAD, Sequence, Tensors, now_ns, tail

OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # else channels of one process share one connection
]
Handler = Callable[[Any, Any], Awaitable[None]]


def _add_port(server: grpc.aio.Server, params: dict[str, Any]) -> None:
    """Listen at `url`; by TLS where there are a certificate and its key."""
    if "tls_cert" in params:
        pair = (Path(params["tls_key"]).read_bytes(), Path(params["tls_cert"]).read_bytes())
        server.add_secure_port(params["url"], grpc.ssl_server_credentials([pair]))
    else:
        server.add_insecure_port(params["url"])


async def _serve(link: Link, **methods: Handler) -> grpc.aio.Server:
    """Listen with the given stream handlers; see `_add_port`."""
    server = grpc.aio.server(options=OPTIONS)
    handlers: dict[str, Any] = {
        name: grpc.stream_stream_rpc_method_handler(fn) for name, fn in methods.items()
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("raw.Raw", handlers)])
    _add_port(server, link.params)
    await server.start()
    return server


def _dial(link: Link) -> grpc.aio.Channel:
    """Open a connection of its own; by TLS where an authority vouches for the server."""
    params = link.params
    if "tls_ca" in params:
        trusted = grpc.ssl_channel_credentials(Path(params["tls_ca"]).read_bytes())
        return grpc.aio.secure_channel(params["url"], trusted, options=OPTIONS)
    return grpc.aio.insecure_channel(params["url"], options=OPTIONS)


def _open(link: Link, method: str) -> tuple[grpc.aio.Channel, Any]:
    """Open a connection of its own and one stream on it."""
    channel = _dial(link)
    return channel, channel.stream_stream(f"/raw.Raw/{method}")(wait_for_ready=True)


async def _echo(_requests: Any, context: Any) -> None:
    """Write back each message of the stream."""
    while (message := await context.read()) is not grpc.aio.EOF:
        await context.write(message)


async def echo_server(link: Link) -> None:
    """Answer: rtt, and the server of conn1000."""
    server = await _serve(link, Echo=_echo)
    link.say("listening")
    await link.rested()
    await server.stop(None)


async def asker(link: Link) -> None:
    """Ask, one at a time, on one stream."""
    _channel, call = _open(link, "Echo")

    async def ask(message: bytes) -> Any:
        await call.write(message)
        return await call.read()

    await patterns.ask_in_turn_async(link, ask)
    await link.rested()


async def sink(link: Link) -> None:
    """Take a numbered one-way flow."""
    check = Sequence()

    async def take(_requests: Any, context: Any) -> None:
        while not check.take(await context.read()):
            pass
        link.say("warm")
        while not check.take(await context.read()):
            pass
        link.say("done", end_ns=now_ns(), count=check.count - link.params["warmup"])
        await context.read()

    server = await _serve(link, Take=take)
    link.say("listening")
    await link.rested()
    await server.stop(None)


async def source(link: Link) -> None:
    """Send a numbered one-way flow."""
    _channel, call = _open(link, "Take")
    await patterns.pour_async(link, call.write)
    await link.rested()


async def bulk_sink(link: Link) -> None:
    """Take tensors, one a message."""
    check = patterns.TensorSink(link)

    async def take(_requests: Any, context: Any) -> None:
        while not check.take(await context.read()):
            pass
        await context.read()

    server = await _serve(link, Take=take)
    link.say("listening")
    await link.rested()
    await server.stop(None)


async def bulk_source(link: Link) -> None:
    """Send tensors, one a message; grpcio takes only `bytes`, so each is copied into one."""
    _channel, call = _open(link, "Take")

    async def send(tensor: NDArray[np.float32], _slot: int) -> None:
        await call.write(tensor.tobytes())

    await patterns.pour_tensors_async(link, send)
    await link.rested()


async def bulk_source_ready(link: Link) -> None:
    """Send `bytes` made beforehand, over and over: nothing filled, nothing copied before grpcio.

    Not what a producer of tensors can do; it shows what the fill and the copy into `bytes` cost.
    """
    _channel, call = _open(link, "Take")
    ready = []
    for index, tensor in enumerate(patterns.tensors(link.params)):
        Tensors.fill(tensor, index)
        ready.append(tensor.tobytes())
    start_ns = 0
    for index in range(link.params["warmup"] + link.params["count"]):
        if index == link.params["warmup"]:
            link.say("ready")
            await link.heard("go")
            start_ns = now_ns()
        await call.write(ready[index % len(ready)])
    link.say("sent", start_ns=start_ns, count=link.params["count"])
    await link.rested()


async def fan_source(link: Link) -> None:
    """Serve one stream for each subscription and write every message to all of them.

    Messages are made in bursts, and a burst is written to all streams at once, so that a stream
    waits for the slowest one only once in a burst.
    """
    params, filling = link.params, tail(link.params["message_bytes"])
    streams: list[Any] = []
    complete = asyncio.Event()
    over = asyncio.Event()

    async def subscribe(_requests: Any, context: Any) -> None:
        await context.read()
        streams.append(context)
        if len(streams) == params["subscriptions"]:
            complete.set()
        await over.wait()

    async def write(context: Any, messages: list[bytes]) -> None:
        for message in messages:
            await context.write(message)

    async def send(messages: list[bytes]) -> None:
        await asyncio.gather(*(write(context, messages) for context in streams))

    server = await _serve(link, Subscribe=subscribe)
    link.say("listening")
    await link.heard("subscribed")
    await complete.wait()
    warmup = params["warmup"]
    await send([HEAD.pack(i, warmup if i == warmup - 1 else 0) + filling for i in range(warmup)])
    link.say("ready")
    await link.heard("go")
    index, start_ns = warmup, now_ns()
    deadline_ns = start_ns + int(params["send_s"] * 1e9)
    while now_ns() < deadline_ns:
        burst = range(index, index + patterns.BURST)
        await send([HEAD.pack(i, 0) + filling for i in burst])
        index += patterns.BURST
    await send([HEAD.pack(index, index + 1) + filling])
    link.say("sent", start_ns=start_ns, count=index + 1 - warmup)
    await link.rested()
    over.set()
    await server.stop(None)


async def fan_sink(link: Link) -> None:
    """Hold connections with several streams each, and check the flow on each stream."""
    params = link.params
    channels = [_dial(link) for _ in range(params["connections"])]
    each = params["subscriptions"] // params["connections"]
    calls = []
    for channel in channels:
        for _ in range(each):
            call: Any = channel.stream_stream("/raw.Raw/Subscribe")(wait_for_ready=True)
            await call.write(b"+")
            calls.append(call)
    checks = [Sequence() for _ in calls]
    link.say("subscribed")

    async def phase(call: Any, check: Sequence) -> None:
        while not check.take(await call.read()):
            pass

    for event in ("warm", "done"):
        await asyncio.gather(*(phase(c, k) for c, k in zip(calls, checks, strict=True)))
        link.say(event, end_ns=now_ns(), count=sum(k.count - params["warmup"] for k in checks))
    await link.rested()


async def swarm(link: Link) -> None:
    """Hold many connections with one echoing stream each."""

    def echo_on(call: Any) -> patterns.Echo:
        async def echo(message: bytes) -> Any:
            await call.write(message)
            return await call.read()

        return echo

    opened = [_open(link, "Echo") for _ in range(link.params["connections"])]
    await patterns.swarm(link, [echo_on(call) for _channel, call in opened])


async def mixed_sink(link: Link) -> None:
    """Two streams of one connection: tensors, each answered once summed, and an echo."""
    check = Tensors()

    async def take(_requests: Any, context: Any) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            await asyncio.to_thread(check.take, np.frombuffer(message, np.float32))
            await context.write(b"summed")

    server = await _serve(link, Take=take, Echo=_echo)
    link.say("listening")
    await link.rested()
    await server.stop(None)


async def mixed_source(link: Link) -> None:
    """Two streams of one connection; each tensor is one message, as raw grpcio has it."""
    channel, big = _open(link, "Take")
    small: Any = channel.stream_stream("/raw.Raw/Echo")(wait_for_ready=True)
    replies, writing = mixture.Replies(), asyncio.Lock()

    async def send(tensor: NDArray[np.float32]) -> None:
        await big.write(await asyncio.to_thread(tensor.tobytes))
        await big.read()

    async def ask(message: bytes) -> Any:
        async with writing:
            reply = replies.expect()
            await small.write(message)
        return await reply

    async def read() -> None:
        while True:
            replies.arrived(await small.read())

    reading = asyncio.create_task(read())
    await mixture.mix(link, send, ask)
    reading.cancel()
