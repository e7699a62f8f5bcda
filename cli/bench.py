"""`sira bench`: two processes of their own and a node that is already up, measured from outside.

What it is not: a comparison with other systems; that is `make bench`. Both clocks are one, so the
two processes run on this machine, wherever the node is.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import subprocess
import sys
import time
from argparse import Namespace
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sira.cli import bench_report
from sira.cli.ledger import ledger_row, unexplained
from sira.cli.link import Stop, connected, shown_environ, url_of
from sira.cli.output import EXIT_UNACCOUNTED, CliError, Output, Result, UsageError, bytes_text
from sira.client.address import is_local
from sira.client.local.arenas import shm_bytes_min

if TYPE_CHECKING:
    from sira.client.bus import Bus

_SHM_SWITCH_VARIABLE = "SIRA_SHM"
_DIRECT_SWITCH_VARIABLE = "SIRA_DIRECT"
_UNITS = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 1000,
          "mb": 10**6, "gb": 10**9}  # fmt: skip
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)")
_SIZE_BYTES_MAX = 4 << 30
_WARM_S_MAX = 0.5
_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 5.0
_SETTLE_S = 10.0
_PROGRESS_S = 0.5
_LINE_BYTES_MAX = 8 << 20


def size_bytes(text: str) -> int:
    """Read `256`, `64KiB` or `1.5MB`.

    Raises:
        UsageError: neither, or too large.
    """
    match = _SIZE.fullmatch(text.strip())
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise UsageError(f"{text!r} is no size", help="as 256, 64KiB or 1MiB")
    size = int(float(match[1]) * unit)
    if size > _SIZE_BYTES_MAX:
        raise UsageError(
            f"{text} is over {bytes_text(_SIZE_BYTES_MAX)}", help="measure less at once"
        )
    return size


def lane_url(url: str, lane: str) -> str:
    """Return the addresses in `url` at which a lane can be had.

    Raises:
        UsageError: there is none.
    """
    if lane == "auto":
        return url
    local = lane != "grpc"
    found = [each for each in url.split(",") if is_local(each.strip()) == local]
    if not found:
        raise UsageError(
            f"there is no {lane} at {url}",
            help="socket, shm and direct are at unix:/path/sira.sock, grpc at sira://host:port",
        )
    return ",".join(found)


def lane_environ(environ: dict[str, str], lane: str) -> dict[str, str]:
    """Return the environment in which the SDK takes a lane; `environ` with `auto`."""
    if lane == "auto":
        return environ
    return {
        **environ,
        _SHM_SWITCH_VARIABLE: "on" if lane in ("shm", "direct") else "off",
        _DIRECT_SWITCH_VARIABLE: "on" if lane == "direct" else "off",
    }


def check_lane(asked: str, told: str, size: int) -> None:
    """Compare the lane that was asked for with the one that a receipt tells.

    Raises:
        CliError: UNSUPPORTED, they are not the same.
    """
    if asked in ("auto", told) or (asked, told) == ("direct", "shm"):
        return
    least = shm_bytes_min()
    why = "see sira explain: the node, the system or SIRA_SHM_BYTES_MAX may not allow it"
    if asked == "shm" and size < least:
        why = f"only messages of {bytes_text(least)} and more go by reference"
    raise CliError("UNSUPPORTED", f"{asked} was asked for; the receipt tells {told}", help=why)


class Worker:
    """A `bench_worker` process and its line."""

    def __init__(self, role: str, process: asyncio.subprocess.Process) -> None:
        self.role, self._process = role, process

    @classmethod
    async def start(cls, role: str, plan: dict[str, Any], environ: dict[str, str]) -> Worker:
        """Start one with the environment given; `stop` must follow."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "sira.cli.bench_worker",
            role,
            json.dumps(plan),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environ,
            start_new_session=True,  # Ctrl-C reaches us alone, and we stop it
            limit=_LINE_BYTES_MAX,
        )
        return cls(role, process)

    def say(self, **event: Any) -> None:
        """Write one event."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(event).encode() + b"\n")

    async def hear(self, *, timeout_s: float) -> dict[str, Any]:
        """Read its next event.

        Raises:
            CliError: it failed, ended, or said nothing in time.
        """
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(timeout_s):
                line = await self._process.stdout.readline()
        except TimeoutError:
            line = b""
        if not line:
            raise CliError(
                "BENCH_FAILED", f"the {self.role} said nothing", help="its error is above, if any"
            )
        event: dict[str, Any] = json.loads(line)
        if event["event"] == "error":
            raise CliError(event["code"], f"{self.role}: {event['message']}")
        return event

    async def stop(self) -> None:
        """Close its line, at which it ends; kill it when it does not."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


async def bench(args: Namespace, out: Output, stop: Stop) -> Result:
    """Measure, judge, show."""
    size = size_bytes(args.size)
    baseline = bench_report.load(Path(args.baseline)) if args.baseline else None
    dtype, items = ("float32", size // 4) if size % 4 == 0 else ("uint8", size)
    warm_s = min(_WARM_S_MAX, args.seconds / 4)
    plan = {
        "url": lane_url(url_of(args), args.lane),
        "topic": f"bench.{secrets.token_hex(6)}",
        "size": items,
        "dtype": dtype,
        "rate": args.rate,
        "seconds": args.seconds,
        "warm_s": warm_s,
        "in_flight": args.in_flight,
        "timeout_s": max(5.0, args.seconds),
        "direct": args.lane == "direct",
    }
    environ = lane_environ(shown_environ(args), args.lane)
    roles = ("producer", "consumer") if args.pattern == "pub" else ("requester", "responder")
    async with connected(args) as bus:
        out.start(topic=plan["topic"], pattern=args.pattern)
        async with AsyncExitStack() as exits:
            sink = await Worker.start(roles[1], plan, environ)
            exits.push_async_callback(sink.stop)
            await sink.hear(timeout_s=_START_TIMEOUT_S)
            source = await Worker.start(roles[0], plan, environ)
            exits.push_async_callback(source.stop)
            ready = await source.hear(timeout_s=_START_TIMEOUT_S)
            check_lane(args.lane, "+".join(ready["lanes"]), size)
            node_cpu_s = await _node_cpu_s(bus)
            source.say(event="go")
            total_s = warm_s + args.seconds
            sent = await _watched(source, out, total_s=total_s)
            sink.say(event="end", expected=sent["sent"])
            taken = await sink.hear(timeout_s=_START_TIMEOUT_S + args.seconds)
            node_cpu_s = await _node_cpu_s(bus) - node_cpu_s
            row = await _settled(bus, str(plan["topic"]))
    data = bench_report.assemble(
        pattern=args.pattern,
        lane_asked=args.lane,
        payload={"dtype": "f32" if size % 4 == 0 else "u8", "shape": [items], "bytes": size},
        rate_target=args.rate,
        ready=ready,
        source=sent,
        sink=taken,
        node_cpu_s=node_cpu_s,
        row=row,
    )
    data["verdict"] = bench_report.judge(data, baseline)
    out.text(bench_report.text(data))
    if args.save:
        bench_report.save(Path(args.save), data)
    if args.plot:
        source_of_samples = taken if args.pattern == "pub" else sent
        bench_report.plot(Path(args.plot), data, source_of_samples)
    whole = data["ledger"]["balanced"] and not data["broken"] and data["lost"] == 0
    return Result(data, 0 if whole and data["verdict"]["state"] != "slower" else EXIT_UNACCOUNTED)


async def _watched(source: Worker, out: Output, *, total_s: float) -> dict[str, Any]:
    """Wait for the report, and say how far it is."""
    hearing = asyncio.ensure_future(source.hear(timeout_s=total_s * 3 + _START_TIMEOUT_S))
    start_s = time.monotonic()
    try:
        while not hearing.done():
            await asyncio.wait((hearing,), timeout=_PROGRESS_S)
            out.progress("measuring", done=min((time.monotonic() - start_s) / total_s, 1.0))
        return hearing.result()
    finally:
        hearing.cancel()


async def _settled(bus: Bus, topic: str) -> dict[str, Any]:
    """Return the topic's row once nothing is pending: takers confirm a little later."""
    deadline_s = time.monotonic() + _SETTLE_S
    while True:
        rows = [ledger_row(row) for row in (await bus.ledger(topic)).rows]
        row = next((row for row in rows if row["topic"] == topic), None)
        if row is not None and (row["pending"] == 0 or time.monotonic() > deadline_s):
            row["unexplained"] = unexplained(row)
            return row
        if time.monotonic() > deadline_s:
            raise CliError("BENCH_FAILED", f"the ledger has no row for {topic}")
        await asyncio.sleep(0.02)


async def _node_cpu_s(bus: Bus) -> float:
    """Processor seconds that the node has used, NaN when it does not say."""
    return float((await bus.stats()).values.get("cpu_s", float("nan")))
