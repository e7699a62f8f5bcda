"""health: what beats cost the node, and how soon it knows who is gone. No rivals: goals.

`python -m benches.health [figure ...] [--quick] [--agents N] [--window-s S]`

| figure | what is measured | goal |
| --- | --- | --- |
| batched | CPU of the node while 10,000 agents beat every 5 s, over 100 gRPC connections | 10 % |
| thousand | the same over 1,000 connections of ten agents each, in 20 processes | 10 % |
| batched-redis, thousand-redis | the same, told to a Redis once a second; its CPU, too | 10 % |
| crash | agent process killed on this host, until no Discover offers it | 100 ms |
| silent | agent process stopped (SIGSTOP), until no Discover offers it | 16 s |
| flight | agent killed in the middle of a call, until the caller has PEER_LOST | 1 s |
| again | the same of an idempotent call with a twin, until it has the twin's answer | 1 s |
| flush | everything in Redis deleted, until all 10,000 agents stand there again | 5 s |

CPU is user plus system of the node's process (not of its supervisor), in percent of one core, over
windows of 10 s that begin when all have beaten once; `idle` is the same before anybody beats, with
all registered. The clients share the machine with the node, so nothing of it is a wall-clock rate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import redis

import sira
import sira.testing
from benches import machine
from benches.harness import ROOT, BenchError
from benches.stats import median
from sira.kernel.errors import PeerLost
from sira.registry.redis_live import PREFIX
from sira.v1 import registry_pb2, registry_pb2_grpc

AGENTS, PROCESSES = 10_000, 20
BEAT_S = 5.0
WINDOW_S, WINDOWS = 10.0, 3
SAMPLES, SAMPLES_SILENT = 10, 2
WATCHDOG_S = 120.0
_BATCH = 1_000
GOALS = {
    "batched": (10.0, "%"), "thousand": (10.0, "%"), "batched-redis": (10.0, "%"),
    "thousand-redis": (10.0, "%"), "crash": (0.1, "s"), "silent": (16.0, "s"), "flight": (1.0, "s"),
    "again": (1.0, "s"), "flush": (BEAT_S, "s"),
}  # fmt: skip
Given = argparse.Namespace
Found = dict[str, Any]  # samples, and what else is to be told
_Channels = list[tuple[Any, list[tuple[str, int]]]]

# ---- beats ---------------------------------------------------------------------------------------


def _address(node: sira.testing.Node) -> str:
    return node.url.removeprefix("sira://")


def _channel(address: str) -> Any:
    """Open a connection that is nobody else's."""
    return grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])


async def _register(address: str, agents: int) -> list[tuple[str, int]]:
    """Register so many, of one capability each; return names and generations."""
    found: list[tuple[str, int]] = []
    async with _channel(address) as channel:
        stub = registry_pb2_grpc.RegistryStub(channel)
        for begin in range(0, agents, _BATCH):
            asked = [
                registry_pb2.Registration(
                    name=f"agent-{number}",
                    capabilities=[registry_pb2.Capability(name="work", text=f"work {number}")],
                )
                for number in range(begin, min(agents, begin + _BATCH))
            ]
            answer = await stub.Register(registry_pb2.RegisterRequest(registrations=asked))
            for each in answer.results:
                if each.HasField("error"):
                    raise BenchError(f"{each.name}: {each.error.message}")
                found.append((each.name, each.generation))
    return found


async def _beat_for(channels: _Channels, first: float, beat_s: float) -> int:
    """Beat for the agents of each connection until stdin ends; return the beats for nothing.

    Args:
        first: part of a period by which this process begins later than others.
    """
    ended = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
    began_s = asyncio.get_running_loop().time() + first * beat_s
    lost, rounds = 0, 0

    async def one(place: float, channel: Any, agents: list[tuple[str, int]]) -> None:
        nonlocal lost, rounds
        call = registry_pb2_grpc.RegistryStub(channel).Heartbeat()
        beats = [
            registry_pb2.Beat(name=name, generation=generation, in_flight=3)
            for name, generation in agents
        ]
        request = registry_pb2.HeartbeatRequest(beats=beats)

        async def hear() -> None:
            nonlocal lost
            async for answer in call:
                lost += len(answer.lost)

        hearing = asyncio.ensure_future(hear())
        due_s = began_s + place * beat_s
        while True:
            left_s = due_s - asyncio.get_running_loop().time()
            if (await asyncio.wait([ended], timeout=max(0.0, left_s)))[0]:
                break
            await call.write(request)
            due_s += beat_s
            rounds += 1
            if rounds == len(channels):
                print("all beat", flush=True)
        hearing.cancel()

    parts = [
        one(place / len(channels), channel, agents)
        for place, (channel, agents) in enumerate(channels)
    ]
    await asyncio.gather(*parts)
    return lost


def beat(arguments: list[str]) -> int:
    """Be a process of clients: ADDRESS FILE CONNECTIONS FIRST BEAT_S."""
    address, file, connections, first, beat_s = arguments
    agents = [tuple(each) for each in json.loads(Path(file).read_text())]

    async def work() -> int:
        count = int(connections)
        channels = [(_channel(address), agents[number::count]) for number in range(count)]
        return await _beat_for(channels, float(first), float(beat_s))

    lost = asyncio.run(work())
    print(f"lost {lost}", flush=True)
    return 1 if lost else 0


@contextmanager
def _beating(
    address: str, agents: list[tuple[str, int]], connections: int, given: Given
) -> Iterator[None]:
    """Have processes beat; the body begins when each connection has."""
    count = given.processes
    with tempfile.TemporaryDirectory(prefix="sira-bench-") as folder:
        processes = []
        for number in range(count):
            file = Path(folder) / f"{number}.json"
            file.write_text(json.dumps(agents[number::count]))
            words = [address, str(file), str(connections // count), str(number / count / count)]
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "benches.health", "--beat", *words, str(given.beat_s)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd=ROOT,
                )
            )
        try:
            for each in processes:
                assert each.stdout is not None
                if each.stdout.readline() != "all beat\n":
                    raise BenchError("a process of clients has ended early")
            yield
            for each in processes:
                said = each.communicate(timeout=WATCHDOG_S)[0]
                if said != "lost 0\n":
                    raise BenchError(f"beats were for nothing: {said!r}")
        finally:
            for each in processes:
                each.kill()
                each.wait()


def _cpu_percent(pid: int, window_s: float) -> float:
    """Return user plus system of a process over a window, in percent of one core."""
    process = psutil.Process(pid)
    before, began_s = sum(process.cpu_times()[:2]), time.monotonic()
    time.sleep(window_s)
    return 100 * (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - began_s)


def _beats(connections: int, *, is_shared: bool) -> Callable[[Given], Found]:
    def measure(given: Given) -> Found:
        with _redis() if is_shared else _nothing() as server:
            settings: dict[str, Any] = {
                "agents_max": given.agents, "agent_beat_s": given.beat_s,
            }  # fmt: skip
            if server is not None:
                settings["redis_url"] = server.url
            with sira.testing.node(**settings) as node:
                agents = asyncio.run(_register(_address(node), given.agents))
                time.sleep(2.0)  # what registering has left to do
                idle = _cpu_percent(node.pid, given.window_s)
                found: Found = {"idle": round(idle, 2), "connections": connections}
                with _beating(_address(node), agents, connections, given):
                    samples, of_redis = [], []
                    for _ in range(given.windows):
                        began = server.cpu_s() if server is not None else 0.0
                        samples.append(_cpu_percent(node.pid, given.window_s))
                        if server is not None:
                            of_redis.append(100 * (server.cpu_s() - began) / given.window_s)
                if of_redis:
                    found["redis_cpu_percent"] = round(median(of_redis), 2)
                return found | {"samples": samples}

    return measure


# ---- Redis ---------------------------------------------------------------------------------------


class _Redis:
    """A redis-server of this measurement's own."""

    def __init__(self, folder: str) -> None:
        program = shutil.which("redis-server")
        if program is None:
            raise BenchError("redis-server is not installed: sudo apt-get install -y redis-server")
        self._path = f"{folder}/redis.sock"
        self.url = f"unix://{self._path}"
        self._process = subprocess.Popen(
            [
                program, "--port", "0", "--unixsocket", self._path, "--save", "", "--appendonly",
                "no", "--dir", folder,
            ],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        end_s = time.monotonic() + WATCHDOG_S
        while not Path(self._path).exists():
            if time.monotonic() > end_s:
                raise BenchError("redis-server does not start")
            time.sleep(0.01)

    def client(self) -> Any:
        """Connect."""
        return redis.Redis(unix_socket_path=self._path)

    def cpu_s(self) -> float:
        """User plus system so far."""
        return float(sum(psutil.Process(self._process.pid).cpu_times()[:2]))

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


@contextmanager
def _redis() -> Iterator[_Redis]:
    with tempfile.TemporaryDirectory(prefix="sira-bench-") as folder:
        server = _Redis(folder)
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def _nothing() -> Iterator[None]:
    yield None


def _told(client: Any) -> int:
    """Count the agents that stand in Redis."""
    names = set()
    for key in client.keys(f"{PREFIX}:*:told:*"):
        for _, fields in client.xrange(key):
            for body in fields.values():
                part = registry_pb2.ListAgentsResponse.FromString(body)
                names.update(each.registration.name for each in part.agents)
    return len(names)


def _flush(given: Given) -> Found:
    samples = []
    with (
        _redis() as server,
        sira.testing.node(
            agents_max=given.agents, agent_beat_s=given.beat_s, redis_url=server.url
        ) as node,
        server.client() as client,
    ):
        agents = asyncio.run(_register(_address(node), given.agents))
        with _beating(_address(node), agents, 100, given):
            for _ in range(2 if given.quick else 5):
                client.flushall()
                began_s = time.monotonic()
                while _told(client) < given.agents:
                    if time.monotonic() > began_s + WATCHDOG_S:
                        raise BenchError("they do not come back")
                    time.sleep(0.05)
                samples.append(time.monotonic() - began_s)
                time.sleep(0.7)  # not always at the same place of the node's second
    return {"samples": samples}


# ---- who is gone ---------------------------------------------------------------------------------

_WORDS = "echo what is sent"
_AGENT = f"""
import asyncio, sys, sira

async def main(url, name):
    async def echo():
        if name.startswith("victim"):
            print("asked", flush=True)
            await asyncio.sleep(600)
        return "done"

    capability = sira.Capability({_WORDS!r}, name="echo")
    async with sira.Agent(name, capabilities=[capability], url=url, handler=echo):
        print("there", flush=True)
        await asyncio.sleep(600)

asyncio.run(main(*sys.argv[1:]))
"""


@contextmanager
def _agent(node: sira.testing.Node, name: str) -> Iterator[subprocess.Popen[str]]:
    """Run an agent in a process of its own, by the node's socket."""
    process = subprocess.Popen(
        [sys.executable, "-c", _AGENT, node.socket_url, name], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "there\n":
            raise BenchError("the agent has not started")
        yield process
    finally:
        process.kill()
        process.wait()


@asynccontextmanager
async def _discover(node: sira.testing.Node) -> AsyncIterator[Callable[[], Awaitable[set[str]]]]:
    """Give a function that says which agents are offered now."""
    async with _channel(_address(node)) as channel:
        stub = registry_pb2_grpc.RegistryStub(channel)
        request = registry_pb2.DiscoverRequest(capability="echo")

        async def offered() -> set[str]:
            return {each.agent for each in (await stub.Discover(request)).matches}

        yield offered


async def _until(offered: Callable[[], Awaitable[set[str]]], name: str) -> None:
    while name not in await offered():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def _until_out(signal_name: str, samples: int) -> Callable[[Given], Found]:
    async def one(node: sira.testing.Node, number: int) -> float:
        victim = f"victim-{number}"  # one that comes and goes is damped, which is not meant here
        async with _discover(node) as offered:
            with _agent(node, victim) as process:
                await _until(offered, victim)
                began_s = time.monotonic()
                psutil.Process(process.pid).send_signal(signal.Signals[signal_name])
                while victim in await offered():
                    if time.monotonic() > began_s + WATCHDOG_S:
                        raise BenchError("it is offered for ever")
                    await asyncio.sleep(0.001)
                return time.monotonic() - began_s

    def measure(given: Given) -> Found:
        with sira.testing.node() as node:
            count = 1 if given.quick else samples
            return {"samples": [asyncio.run(one(node, each)) for each in range(count)]}

    return measure


def _in_flight(*, with_twin: bool) -> Callable[[Given], Found]:
    async def one(node: sira.testing.Node, number: int) -> float:
        async with sira.connect(node.socket_url) as bus, _discover(node) as offered:
            with _agent(node, f"victim-{number}") as process:
                call = asyncio.ensure_future(
                    bus.call(_WORDS, timeout_s=WATCHDOG_S, idempotent=with_twin)
                )
                assert process.stdout is not None
                if await asyncio.to_thread(process.stdout.readline) != "asked\n":
                    raise BenchError("the agent was not asked")
                with _agent(node, "twin") if with_twin else _nothing():
                    if with_twin:
                        await _until(offered, "twin")
                    if call.done():
                        raise BenchError("it was answered before its agent was killed")
                    began_s = time.monotonic()
                    process.kill()
                    try:
                        reply = await call
                    except PeerLost:
                        if with_twin:
                            raise
                    else:
                        if not with_twin or reply.receipt.agent != "twin":
                            raise BenchError(f"answered by {reply.receipt.agent}")
                    return time.monotonic() - began_s

    def measure(given: Given) -> Found:
        with sira.testing.node() as node:
            count = 1 if given.quick else SAMPLES
            return {"samples": [asyncio.run(one(node, each)) for each in range(count)]}

    return measure


FIGURES: dict[str, Callable[[Given], Found]] = {
    "batched": _beats(100, is_shared=False),
    "thousand": _beats(1_000, is_shared=False),
    "batched-redis": _beats(100, is_shared=True),
    "thousand-redis": _beats(1_000, is_shared=True),
    "crash": _until_out("SIGKILL", SAMPLES),
    "silent": _until_out("SIGSTOP", SAMPLES_SILENT),
    "flight": _in_flight(with_twin=False),
    "again": _in_flight(with_twin=True),
    "flush": _flush,
}


def main() -> int:
    """Measure, print, save."""
    if sys.argv[1:2] == ["--beat"]:
        return beat(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m benches.health")
    parser.add_argument("figures", nargs="*", metavar="figure", help=", ".join(FIGURES))
    parser.add_argument("--quick", action="store_true", help="one short sample of each")
    parser.add_argument("--agents", type=int, default=AGENTS)
    parser.add_argument("--processes", type=int, default=PROCESSES, help="of clients")
    parser.add_argument("--beat-s", type=float, default=BEAT_S)
    parser.add_argument("--window-s", type=float, default=WINDOW_S)
    parser.add_argument("--out", type=Path, default=ROOT / "benches" / "results")
    given = parser.parse_args()
    given.windows = 1 if given.quick else WINDOWS
    unknown = [each for each in given.figures if each not in FIGURES]
    if unknown:
        parser.error(f"no such figure: {', '.join(unknown)}; figures are {', '.join(FIGURES)}")
    described = machine.describe()
    given.out.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    path = given.out / f"{stamp}-{described['commit'] or 'none'}-health.jsonl"
    print(f"{described['cpu']}, {described['cores']} cores; commit {described['commit']}")
    for name in given.figures or FIGURES:
        found = FIGURES[name](given)
        value, (goal, unit) = median(found["samples"]), GOALS[name]
        rest = ", ".join(f"{k} {v}" for k, v in found.items() if k != "samples")
        samples = ", ".join(f"{each:.3g}" for each in found["samples"])
        said = "within" if value <= goal else "past"
        print(f"{name}: {value:.3g} {unit}, {said} {goal:g} ({samples}) {rest}", flush=True)
        line = {
            "row": "health", "figure": name, "median": value, "unit": unit, "goal": goal,
            "agents": given.agents, "beat_s": given.beat_s, "processes": given.processes,
            "quick": given.quick, "machine": described, **found,
        }  # fmt: skip
        with path.open("a") as file:  # what was measured stays, whatever comes next
            file.write(json.dumps(line) + "\n")
    print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
