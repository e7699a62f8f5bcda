"""Sira's own participants: the SDK on uvloop, through one node on loopback or by its socket.

Every flow uses the defaults of the SDK: no size, window or batch is set here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

import sira
from benches import mixture, patterns
from benches.link import Link
from benches.payload import Sequence, Tensors, now_ns
from benches.stats import median

MANY = 64
"""Messages of one `publish_many`."""


def connect(link: Link, *, retry: sira.Retry | None = None) -> sira.Bus:
    """Connect to the node of this measurement, by TLS and with a token where it has these."""
    ca, token_file = link.params.get("tls_ca", ""), link.params.get("token_file", "")
    url = link.params["url"]
    if not url.startswith("unix:"):
        url = f"{'siras' if ca else 'sira'}://{url}"
    security = sira.Security(tls_ca=ca, token_file=token_file)
    return sira.connect(url, security=security, retry=retry)


async def echo_server(link: Link) -> None:
    """Reply with the body that came."""
    async with connect(link) as bus, bus.subscribe("bench.echo") as messages:
        link.say("listening")
        resting = asyncio.create_task(link.rested())
        async for message in messages:
            await message.reply(message.bytes)
        await resting


async def asker(link: Link) -> None:
    """Ask with `request`, one at a time."""
    async with connect(link) as bus:

        async def ask(message: bytes) -> Any:
            return (await bus.request("bench.echo", message, timeout_s=10)).bytes

        await patterns.ask_in_turn_async(link, ask)
        await link.rested()


async def sink(link: Link) -> None:
    """Take a numbered one-way flow."""
    check, phases = Sequence(), iter(("warm", "done"))
    async with connect(link) as bus, bus.subscribe("bench.flow") as messages:
        link.say("listening")
        async for message in messages:
            if check.take(message.bytes):
                event = next(phases)
                count = check.count - link.params["warmup"]
                link.say(event, end_ns=now_ns(), count=count)
                if event == "done":
                    break
        await link.rested()


async def source(link: Link) -> None:
    """Send a numbered one-way flow, one message a call."""
    async with connect(link) as bus, bus.publisher("bench.flow") as publisher:
        await patterns.pour_async(link, publisher.send, publisher.flush)
        await link.rested()


async def source_many(link: Link) -> None:
    """Send a numbered one-way flow, MANY messages a call."""
    async with connect(link) as bus:
        gathered: list[bytes] = []

        async def flush() -> None:
            if gathered:
                await bus.publish_many("bench.flow", gathered)
                gathered.clear()

        async def send(message: bytes) -> None:
            gathered.append(message)
            if len(gathered) == MANY:
                await flush()

        await patterns.pour_async(link, send, flush)
        await link.rested()


async def bulk_sink(link: Link) -> None:
    """Take tensors, one a message, viewed where the SDK put them."""
    check = patterns.TensorSink(link)
    async with connect(link) as bus, bus.subscribe("bench.bulk") as messages:
        link.say("listening")
        async for message in messages:
            if check.take(message["x"]):
                break
        await link.rested()


async def bulk_source(link: Link) -> None:
    """Send tensors in place; a buffer is refilled once the receipt of its last message is here."""
    sent = answered = 0
    async with connect(link) as bus, bus.publisher("bench.bulk") as publisher:

        async def before_fill(_slot: int) -> None:
            nonlocal answered
            while sent - answered >= link.params["buffers"]:
                async for _receipt in publisher.receipts():
                    answered += 1
                    break

        async def send(tensor: NDArray[np.float32], _slot: int) -> None:
            nonlocal sent
            await publisher.send({"x": tensor})
            sent += 1

        async def flush() -> None:
            nonlocal answered
            async for _receipt in publisher.receipts():
                answered += 1

        await patterns.pour_tensors_async(link, send, flush, before_fill)
        await link.rested()


async def fan_source(link: Link) -> None:
    """Publish once; the node delivers to every subscription."""
    async with connect(link) as bus, bus.publisher("bench.flow") as publisher:
        link.say("listening")
        await link.heard("subscribed")
        await patterns.pour_async(link, publisher.send, publisher.flush)
        await link.rested()


async def fan_sink(link: Link) -> None:
    """Hold connections with several subscriptions each, and check the flow of each."""
    params = link.params
    async with AsyncExitStack() as stack:
        buses = [
            await stack.enter_async_context(connect(link)) for _ in range(params["connections"])
        ]
        flows = [
            await stack.enter_async_context(buses[i % len(buses)].subscribe("bench.flow"))
            for i in range(params["subscriptions"])
        ]
        checks = [Sequence() for _ in flows]

        async def phase(messages: Any, check: Sequence) -> None:
            async for message in messages:
                if check.take(message.bytes):
                    return

        link.say("subscribed")
        for event in ("warm", "done"):
            await asyncio.gather(*(phase(f, k) for f, k in zip(flows, checks, strict=True)))
            link.say(event, end_ns=now_ns(), count=sum(k.count - params["warmup"] for k in checks))
        await link.rested()


async def swarm(link: Link) -> None:
    """Hold many connections; each subscribes to a topic of its own and publishes to it."""
    async with AsyncExitStack() as stack:

        async def echo_on(position: int) -> patterns.Echo:
            topic = f"bench.swarm.{link.params['process']}.{position}"
            bus = await stack.enter_async_context(connect(link))
            messages = await stack.enter_async_context(bus.subscribe(topic))
            opened: list[Any] = []  # at the first message: a subscriber alone does not publish

            async def echo(message: bytes) -> Any:
                if not opened:
                    opened.append(await stack.enter_async_context(bus.publisher(topic)))
                await opened[0].send(message)
                return (await anext(messages)).bytes

            return echo

        await patterns.swarm(link, [await echo_on(i) for i in range(link.params["connections"])])


async def mixed_sink(link: Link) -> None:
    """One connection: answers tensors once summed, and echoes requests."""
    check = Tensors()
    async with (
        connect(link) as bus,
        bus.subscribe("bench.bulk") as bulk,
        bus.subscribe("bench.echo") as echo,
    ):

        async def answer_bulk() -> None:
            async for message in bulk:
                await asyncio.to_thread(check.take, message["x"])
                await message.reply(b"summed")

        async def answer_echo() -> None:
            async for message in echo:
                await message.reply(message.bytes)

        link.say("listening")
        await asyncio.gather(link.rested(), answer_bulk(), answer_echo())


async def mixed_source(link: Link) -> None:
    """One connection: requests with a tensor, and small ones."""
    async with connect(link) as bus:

        async def send(tensor: NDArray[np.float32]) -> None:
            await bus.request("bench.bulk", {"x": tensor}, timeout_s=120)

        async def ask(message: bytes) -> Any:
            return (await bus.request("bench.echo", message, timeout_s=60)).bytes

        await mixture.mix(link, send, ask)


def _timed_us(calls: int, work: Callable[[], Any]) -> float:
    """Median time of `work`, µs, after a tenth as many unmeasured calls."""
    samples_us = []
    for call in range(-max(1, calls // 10), calls):
        start_ns = time.perf_counter_ns()
        work()
        if call >= 0:
            samples_us.append((time.perf_counter_ns() - start_ns) / 1e3)
    return median(samples_us)


def codec(link: Link) -> None:
    """Time decode, and encode beside memcpy, in this process alone.

    Decode is timed with the access to the tensor's view. No GB/s for it: only headers are read, so
    bytes a second would be an invented number. memcpy is `bytes(view)`, which like encode allocates
    its result; a copy into memory already touched stands beside it.
    """
    from sira import _native
    from sira.kernel import binding  # noqa: F401  (ties the C core to errors and dtypes)

    payload_bytes, calls = link.params["payload_bytes"], link.params["calls"]
    tensor = np.arange(payload_bytes // 4, dtype=np.float32)
    body, view, target = {"x": tensor}, tensor.data.cast("B"), np.empty_like(tensor)
    encoded = _native.encode_message("bench.codec", body)
    assert bytes(_native.Message.decode(encoded)["x"].data) == view  # it does what it is timed for
    decode_us = _timed_us(calls, lambda: _native.Message.decode(encoded)["x"])
    encode_us = _timed_us(calls, lambda: _native.encode_message("bench.codec", body))
    memcpy_us = _timed_us(calls, lambda: bytes(view))
    warm_us = _timed_us(calls, lambda: np.copyto(target, tensor))
    figures = {
        "decode_us_p50": decode_us,
        "encode_us_p50": encode_us,
        "memcpy_us_p50": memcpy_us,
        "memcpy_warm_us_p50": warm_us,
        "encode_of_memcpy": memcpy_us / encode_us,
    }
    link.say("done", figures=figures)
