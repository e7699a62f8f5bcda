"""How a calm client fares beside each attack: on our node, and on a bare grpcio server.

`python -m tests.soak.beside [--attack NAME ...] [--seconds S]`. One JSON line per attack;
milliseconds. The bare server has the same channel options but for those that are ours against
floods. Its client and ours both echo one small message at a time on streams. Figures of one run
on one machine: compare them with each other and with nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil

import sira
from benches.machine import commit
from sira.kernel.edge.server import options
from sira.kernel.settings import load
from sira.testing import Node

from . import attacks

PATH, CALL_PATH = "/bare.Echo/Echo", "/bare.Echo/Call"
OURS_PATH = "/grpc.health.v1.Health/Check"  # public: an attacker needs no token for it
Act = Callable[[], bool]  # False: it had to be tried again
Client = dict[str, Act]  # "echo": on streams that are open; "call": a call of its own


def _bare(pipe: Connection, extra: tuple[tuple[str, int], ...]) -> None:
    """Serve echoes until told to end."""
    import uvloop

    async def both(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    async def one(request: bytes, _: Any) -> bytes:
        return request

    class Echoes(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
            if handler_call_details.method == CALL_PATH:
                return grpc.unary_unary_rpc_method_handler(one)
            return grpc.stream_stream_rpc_method_handler(both)

    async def serve() -> None:
        server = grpc.aio.server(options=[*_bare_options(), *extra])
        server.add_generic_rpc_handlers((Echoes(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        pipe.send(port)
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
        await server.stop(0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


def _bare_options() -> list[tuple[str, int | str]]:
    return options(load(environ={}, flags={"streams_per_connection_max": 4_096}))


@contextmanager
def bare() -> Iterator[tuple[tuple[str, int], int]]:
    """Run a bare server; yield its address and its process id."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_bare, args=(theirs, ()), daemon=True)
    process.start()
    try:
        yield ("127.0.0.1", int(ours.recv())), int(process.pid or 0)
        ours.send("end")
        process.join(10)
    finally:
        process.kill()
        process.join()


def _timed(client: Client, seconds: float) -> dict[str, float]:
    """Do each act in turn with a pause of 1 ms between; milliseconds of what was seen."""
    samples: dict[str, list[float]] = {name: [] for name in client}
    until, again = time.perf_counter() + seconds, 0
    while time.perf_counter() < until:
        for name, act in client.items():
            start = time.perf_counter()
            again += not act()
            samples[name].append((time.perf_counter() - start) * 1e3)
            time.sleep(0.001)
    seen: dict[str, float] = {"again": again}
    for name, values in samples.items():
        p99 = statistics.quantiles(values, n=100)[98] if len(values) > 1 else values[0]
        seen[name] = len(values)
        seen[f"{name}_p50_ms"] = round(statistics.median(values), 2)
        seen[f"{name}_p99_ms"] = round(p99, 2)
        seen[f"{name}_max_ms"] = round(max(values), 2)
    return seen


@contextmanager
def _bare_client(address: tuple[str, int]) -> Iterator[Client]:
    import queue

    with grpc.insecure_channel(f"{address[0]}:{address[1]}") as channel:
        waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        replies = channel.stream_stream(PATH)(iter(waiting.get, None))
        unary = channel.unary_unary(CALL_PATH)
        payload = b"x" * 256

        def echo() -> bool:
            waiting.put(payload)
            return bool(next(replies) == payload)

        echo()
        yield {"echo": echo, "call": lambda: _called(unary, payload)}
        waiting.put(None)


def _called(unary: grpc.UnaryUnaryMultiCallable[Any, Any], request: bytes) -> bool:
    """Make one call; return whether it was answered at once; again until it is: the wait counts.

    grpcio refuses calls at random, as CANCELLED, when too many wait to be taken up.
    """
    lost = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    at_once = True
    while True:
        try:
            unary(request, timeout=60)
            return at_once
        except grpc.RpcError as error:
            if error.code() not in lost:  # type: ignore[attr-defined]
                raise
            at_once = False


@contextmanager
def _our_client(url: str) -> Iterator[Client]:
    sent = np.arange(64, dtype=np.float32)
    with (
        sira.connect_sync(url) as bus,
        bus.subscribe("calm.echo") as messages,
        grpc.insecure_channel(url.removeprefix("sira://")) as channel,
    ):
        unary = channel.unary_unary(OURS_PATH)

        def echo() -> bool:
            bus.publish("calm.echo", {"x": sent}, timeout_s=60)
            return bool(np.array_equal(messages.next(timeout_s=60)["x"], sent))

        echo()
        yield {"echo": echo, "call": lambda: _called(unary, b"")}


def _side(
    client: Client, pid: int, name: str, target: attacks.Target, seconds: float
) -> dict[str, object]:
    process = psutil.Process(pid)
    calm = _timed(client, seconds)
    rss = process.memory_info().rss
    cpu = process.cpu_times()
    with attacks.under(name, target) as acts:
        attacked = _timed(client, seconds)
        rss_more = process.memory_info().rss - rss
    used = process.cpu_times()
    return {
        "calm": calm, "attacked": attacked, "acts": acts.count,
        "rss_more_mib": round(rss_more / 2**20, 1),
        "cpu_s": round(used.user + used.system - cpu.user - cpu.system, 2),
    }  # fmt: skip


def measure(name: str, seconds: float, settings: dict[str, object]) -> dict[str, object]:
    """Measure one attack on both, plain."""
    result: dict[str, object] = {"attack": name}
    with bare() as (address, pid), _bare_client(address) as client:
        result["bare"] = _side(client, pid, name, attacks.Target(address, PATH), seconds)
    with Node(settings=settings) as node, _our_client(node.url) as client:
        host, port = node.url.removeprefix("sira://").rsplit(":", 1)
        target = attacks.Target((host, int(port)), OURS_PATH)
        result["ours"] = _side(client, node.pid, name, target, seconds)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.beside", description=__doc__)
    parser.add_argument("--attack", action="append", choices=sorted(attacks.ATTACKS))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    settings: dict[str, object] = dict(each.split("=", 1) for each in given.set)
    lines = [json.dumps({"what": "start", "commit": commit() or "unknown"})]
    print(lines[0], flush=True)
    for name in given.attack or attacks.ATTACKS:
        lines.append(json.dumps(measure(name, given.seconds, settings)))
        print(lines[-1], flush=True)
    if given.out:
        given.out.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
