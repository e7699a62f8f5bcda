"""Sira's participants of the rows `registry` and `call`: the SDK as its users have it.

Agents of a process share a registrar, as those of the SDK do; they beat while they are measured.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import sira
from benches import capabilities
from benches.link import Link
from benches.sira_side import connect
from benches.stats import median
from sira.client.registering import Entry, Load, Registrar

AT_ONCE = 1_024
"""Agents that are registered in one turn: a process that comes up with all of its own."""
CALL = "echo the bytes that came"
_TIMEOUT_S = 60.0
_K = 5


async def agents(link: Link) -> None:
    """Register agents in bulk, then some one at a time, and beat for all until the line closes."""
    count, each, singles = (link.params[name] for name in ("agents", "each", "singles"))
    made = [
        Entry(asked, Load(), None, lambda: True)
        for asked, _ in capabilities.registrations(count, each, seed=link.params["seed"])
    ]
    one_by_one = [
        Entry(asked, Load(), None, lambda: True)
        for asked, _ in capabilities.registrations(singles, each, seed=-1 % 2**32, prefix="late")
    ]
    async with connect(link) as bus:
        registrar = Registrar(bus.connection)
        link.say("ready")
        await link.heard("bulk")
        cpu_s, began_s = time.process_time(), time.perf_counter()
        for start in range(0, count, AT_ONCE):
            now = made[start : start + AT_ONCE]
            told = await asyncio.gather(*(registrar.add(e, timeout_s=_TIMEOUT_S) for e in now))
            assert all(one.generation for one in told), "each was acknowledged"
        took_s = time.perf_counter() - began_s
        link.say("registered", took_s=took_s, cpu_s=time.process_time() - cpu_s)
        await link.heard("singly")
        samples_ns = []
        for entry in one_by_one:
            began_ns = time.perf_counter_ns()
            await registrar.add(entry, timeout_s=_TIMEOUT_S)
            samples_ns.append(time.perf_counter_ns() - began_ns)
        link.say("registered", samples_ns=samples_ns)
        await link.rested()


async def asker(link: Link) -> None:
    """Find agents: each `ask` says how many times, and whether within a label and what is up."""
    count, each = link.params["agents"], link.params["each"]
    known = [
        (f"agent-{number:06}", asked.labels["zone"], index, one.request)
        for number, (asked, own) in enumerate(
            capabilities.registrations(count, each, seed=link.params["seed"])
        )
        for index, one in enumerate(own)
    ]
    rng = np.random.default_rng(7)
    async with connect(link) as bus:
        link.say("ready")
        while True:
            asked = await link.heard("ask")
            gc.collect()
            samples_ns, found = [], 0
            until_s = time.perf_counter() + asked["seconds"]
            while len(samples_ns) < asked["least"] or time.perf_counter() < until_s:
                agent, zone, index, words = known[int(rng.integers(len(known)))]
                labels = {"zone": zone} if asked["filtered"] else None
                began_ns = time.perf_counter_ns()
                matches = await bus.discover(words, k=_K, labels=labels)
                samples_ns.append(time.perf_counter_ns() - began_ns)
                found += any(
                    (m.agent, m.capability) == (agent, f"c{index}")
                    for m in (*matches, *matches.runners_up)
                )
            link.say("asked", samples_ns=samples_ns, found=found)


async def watcher(link: Link) -> None:
    """Tell what the node says of itself, each time it is asked."""
    async with connect(link) as bus:
        link.say("ready")
        while True:
            await link.heard("look")
            link.say("seen", values=dict((await bus.stats()).values))


# ---- call ----------------------------------------------------------------------------------------


async def echo_agent(link: Link) -> None:
    """Be the one agent that can do it."""
    agent = sira.Agent(
        "bench-echo", url=_url(link), capabilities=[sira.Capability(CALL, name="echo")]
    )

    @agent.handler
    async def echo(message: sira.Message) -> bytes:
        return message.bytes

    async with agent:
        link.say("listening")
        await link.rested()


async def caller(link: Link) -> None:
    """Ask the agent by its topic and by what it can do, in turns."""
    async with connect(link) as bus:
        body = bytes(link.params["message_bytes"])

        async def request() -> Any:
            return await bus.request(link.params["topic"], body, timeout_s=10)

        async def call() -> Any:
            return await bus.call(CALL, body, timeout_s=10)

        for ask in (request, call):
            for _ in range(link.params["warmup"]):
                assert (await ask()).bytes == body
        link.say("ready")
        await link.heard("go")
        samples: dict[str, list[tuple[float, float]]] = {"request": [], "call": []}
        for turn in range(2 * link.params["rounds"]):
            name, ask = ("request", request) if turn % 2 else ("call", call)
            each_ns, cpu_s = [], time.process_time()
            for _ in range(link.params["calls"]):
                began_ns = time.perf_counter_ns()
                reply = await ask()
                each_ns.append(time.perf_counter_ns() - began_ns)
                assert len(reply.bytes) == len(body), "it was answered"
            cpu_s = time.process_time() - cpu_s
            samples[name].append((float(np.median(each_ns)), cpu_s / link.params["calls"]))
        receipt = (await call()).receipt
        link.say("done", agent=receipt.agent, lane=receipt.lane, **_ratios(samples))
        await link.rested()


def sync_caller(link: Link) -> None:
    """The same without `await`."""
    with sira.connect_sync(_url(link)) as bus:
        body = bytes(link.params["message_bytes"])

        def request() -> Any:
            return bus.request(link.params["topic"], body, timeout_s=10)

        def call() -> Any:
            return bus.call(CALL, body, timeout_s=10)

        link.say("ready", **_measured_sync(link, request, call, body))
        link.hear("go")
        found = _measured_sync(link, request, call, body)
        receipt = call().receipt
        link.say("done", agent=receipt.agent, lane=receipt.lane, **found)
        link.rest()


def _measured_sync(
    link: Link, request: Callable[[], Any], call: Callable[[], Any], body: bytes
) -> dict[str, float]:
    samples: dict[str, list[tuple[float, float]]] = {"request": [], "call": []}
    for turn in range(2 * link.params["rounds"]):
        name, ask = ("request", request) if turn % 2 else ("call", call)
        each_ns, cpu_s = [], time.process_time()
        for _ in range(link.params["calls"]):
            began_ns = time.perf_counter_ns()
            reply = ask()
            each_ns.append(time.perf_counter_ns() - began_ns)
            assert len(reply.bytes) == len(body), "it was answered"
        cpu_s = time.process_time() - cpu_s
        samples[name].append((float(np.median(each_ns)), cpu_s / link.params["calls"]))
    return _ratios(samples)


def _ratios(samples: dict[str, Sequence[tuple[float, float]]]) -> dict[str, float]:
    """Return medians of the rounds, µs, and of the ratio within a round."""
    made: dict[str, float] = {}
    for name, rounds in samples.items():
        made[f"{name}_us_p50"] = median([ns / 1e3 for ns, _ in rounds])
        made[f"{name}_caller_cpu_us"] = median([cpu_s * 1e6 for _, cpu_s in rounds])
    pairs = list(zip(samples["call"], samples["request"], strict=True))
    made["ratio"] = median([call[0] / request[0] for call, request in pairs])
    made["caller_cpu_ratio"] = median([call[1] / request[1] for call, request in pairs])
    return made


def _url(link: Link) -> str:
    url: str = link.params["url"]
    return url if url.startswith("unix:") else f"sira://{url}"
