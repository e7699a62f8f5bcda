"""A process of `sira bench`: producer, consumer, requester or responder.

It speaks JSON lines with the coordinator: "ready" out, "go" in, its "report" out. Standard output
is that line; it ends when standard input does, so that no worker outlives its bench.

A message is `head` = i64[2] (sequence number, CLOCK_MONOTONIC in ns at which it was due;
0: warm-up) and `data`, filled with a value of the sequence number and summed on arrival.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from array import array
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sira import _native
from sira.client.bus import Bus, connect
from sira.kernel.errors import SiraError

FILL_PERIOD = 13
"""`data` holds 1..13 in turn: a stale or repeated buffer has another sum."""

_SAMPLES_MAX = 4_000_000
_SERIES_POINTS = 2_000
_QUIET_S = 5.0
"""So long without a message, and the missing ones are lost."""

_RECEIPTS_BYTES_MIN = 64 << 10
"""From here on each receipt is looked at: looking costs, and less never goes by reference."""

_OPENING_MAX, _OPENING_S = 200, 0.005

_clock_ns = time.monotonic_ns


class Line:
    """The line to the coordinator."""

    def __init__(self) -> None:
        self._reader = asyncio.StreamReader()

    async def open(self) -> None:
        """Take standard input over."""
        protocol = asyncio.StreamReaderProtocol(self._reader)
        await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)

    def say(self, **event: Any) -> None:
        """Write one event."""
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()

    async def hear(self) -> dict[str, Any]:
        """Read one event; EOFError when the coordinator has gone."""
        line = await self._reader.readline()
        if not line:
            raise EOFError("the coordinator has gone")
        event: dict[str, Any] = json.loads(line)
        return event


class Samples:
    """Latencies in ns, and when each was taken; kept up to a limit, all counted."""

    def __init__(self) -> None:
        self.count = 0
        self._values, self._times = array("q"), array("q")

    def add(self, value_ns: int, at_ns: int) -> None:
        """Take one."""
        self.count += 1
        if len(self._values) < _SAMPLES_MAX:
            self._values.append(value_ns)
            self._times.append(at_ns)

    def report(self) -> dict[str, Any]:
        """Return percentiles in us, and points for a drawing."""
        if not self._values:
            return {"latency_us": None, "series": [], "quantiles_us": []}
        values = np.frombuffer(self._values, np.int64) / 1e3
        times = np.frombuffer(self._times, np.int64)
        p50, p90, p99, p99_9 = np.percentile(values, [50, 90, 99, 99.9])
        step = max(1, len(values) // _SERIES_POINTS)
        return {
            "latency_us": {"p50": p50, "p90": p90, "p99": p99, "p99_9": p99_9, "max": values.max()},
            "series": [
                [float(at - times[0]) / 1e9, float(value)]
                for at, value in zip(times[::step], values[::step], strict=True)
            ],
            "quantiles_us": np.percentile(values, np.linspace(0, 100, 501)).tolist(),
        }


def filled(size: int, dtype: str, sequence: int) -> NDArray[Any]:
    """Return the `data` of message number `sequence`; every byte of it is written now."""
    return np.full(size, 1 + sequence % FILL_PERIOD, dtype)


def intact(data: NDArray[Any], sequence: int) -> bool:
    """Read every element of `data`; whether it is that of message number `sequence`."""
    value = 1 + sequence % FILL_PERIOD
    if not data.size:
        return True
    total = float(np.sum(data, dtype=np.float32 if data.dtype == np.float32 else np.int64))
    wanted = float(value) * data.size
    return data[0] == value and data[-1] == value and abs(total - wanted) <= 1e-3 * wanted


def cpu_s() -> float:
    """Processor seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _first(bus: Bus, plan: dict[str, Any]) -> tuple[_native.Receipt, int]:
    """Send the first message; return its receipt and how many went before it.

    The way past the node is opened once a topic is in use.
    """
    body = {"head": np.array([0, 0]), "data": filled(plan["size"], plan["dtype"], 0)}
    before = 0
    while True:
        receipt = await bus.publish(plan["topic"], body)
        opens = plan["direct"] and receipt.lanes != ["shm"] and before < _OPENING_MAX
        if not opens:
            return receipt, before
        before += 1
        await asyncio.sleep(_OPENING_S)


async def produce(bus: Bus, plan: dict[str, Any], line: Line) -> None:
    """Send for `seconds` after a warm-up, at `rate` or as fast as the bus takes it."""
    topic, size, dtype, rate = plan["topic"], plan["size"], plan["dtype"], plan["rate"]
    first, before = await _first(bus, plan)
    line.say(event="ready", lanes=list(first.lanes), copies=first.copies)
    await line.hear()
    sequence, measured, fill_ns, send_ns = 1, 0, 0, 0
    lanes = Counter(["+".join(first.lanes)])
    looks = plan["direct"] or size * np.dtype(dtype).itemsize >= _RECEIPTS_BYTES_MIN
    used_s = cpu_s()
    start_ns = _clock_ns()
    warm_ns = start_ns + int(plan["warm_s"] * 1e9)
    end_ns = warm_ns + int(plan["seconds"] * 1e9)
    due_ns = start_ns
    async with bus.publisher(topic) as publisher:
        while due_ns < end_ns:
            now_ns = _clock_ns()
            if rate:
                if due_ns > now_ns:
                    await asyncio.sleep((due_ns - now_ns) / 1e9)
                    now_ns = _clock_ns()
            else:
                due_ns = now_ns
            data = filled(size, dtype, sequence)
            filled_ns = _clock_ns()
            # With a rate the clock starts when the message was due: a late sender counts as delay.
            stamp_ns = (due_ns if rate else filled_ns) if due_ns >= warm_ns else 0
            await publisher.send({"head": np.array([sequence, stamp_ns]), "data": data})
            if stamp_ns:
                measured += 1
                fill_ns += filled_ns - now_ns
                send_ns += _clock_ns() - filled_ns
            sequence += 1
            if looks:
                lanes.update("+".join(each.lanes) for each in publisher.receipts())
            due_ns = start_ns + int(sequence * 1e9 / rate) if rate else _clock_ns()
        await publisher.flush()
        if looks:
            lanes.update("+".join(each.lanes) for each in publisher.receipts())
    line.say(
        event="report",
        lanes=lanes,
        sent=before + sequence,
        measured=measured,
        seconds=(_clock_ns() - warm_ns) / 1e9,
        fill_us=fill_ns / max(measured, 1) / 1e3,
        send_us=send_ns / max(measured, 1) / 1e3,
        cpu_s=cpu_s() - used_s,
    )


async def consume(bus: Bus, plan: dict[str, Any], line: Line) -> None:
    """Take and read messages until as many came as the producer sent."""
    samples = Samples()
    taken = broken = 0
    first_ns = last_ns = read_ns = 0
    expected: int | None = None
    patience: asyncio.Timeout | None = None
    used_s = cpu_s()

    async with bus.subscribe(plan["topic"]) as messages:
        line.say(event="ready")

        async def total() -> None:
            nonlocal expected
            while expected is None:
                event = await line.hear()
                expected = event.get("expected")
            # Mostly all has come before the coordinator says how much it is: wait for no more.
            if patience is not None and not patience.expired() and taken >= expected:
                patience.reschedule(asyncio.get_running_loop().time())

        hearing = asyncio.ensure_future(total())
        iterator = aiter(messages)
        while expected is None or taken < expected:
            try:
                async with asyncio.timeout(_QUIET_S) as patience:
                    message = await anext(iterator)
            except TimeoutError:
                if expected is not None:
                    break
                if hearing.done():  # the coordinator has gone without a word
                    hearing.result()
                continue
            now_ns = _clock_ns()
            sequence, stamp_ns = message["head"].tolist()
            if not intact(message["data"], sequence):
                broken += 1
            taken += 1
            if stamp_ns:
                first_ns = first_ns or now_ns
                last_ns = _clock_ns()
                samples.add(now_ns - stamp_ns, now_ns)
                read_ns += last_ns - now_ns
            del message
        await hearing
        line.say(
            event="report",
            taken=taken,
            broken=broken,
            measured=samples.count,
            seconds=max(last_ns - first_ns, 1) / 1e9,
            read_us=read_ns / max(samples.count, 1) / 1e3,
            cpu_s=cpu_s() - used_s,
            **samples.report(),
        )
        await _until_closed(line)  # the ledger is read while this subscription still is there


async def ask(bus: Bus, plan: dict[str, Any], line: Line) -> None:
    """Send requests for `seconds` after a warm-up, `in_flight` of them at once."""
    topic, size, dtype, rate = plan["topic"], plan["size"], plan["dtype"], plan["rate"]
    first, before = await _first(bus, plan)
    line.say(event="ready", lanes=list(first.lanes), copies=first.copies)
    await line.hear()
    samples = Samples()
    fill_ns = broken = 0
    used_s = cpu_s()
    start_ns = _clock_ns()
    warm_ns = start_ns + int(plan["warm_s"] * 1e9)
    end_ns = warm_ns + int(plan["seconds"] * 1e9)
    count = 0

    async def one_after_another() -> None:
        nonlocal count, fill_ns, broken
        while True:
            count += 1
            sequence = count
            now_ns = _clock_ns()
            due_ns = start_ns + int(sequence * 1e9 / rate) if rate else now_ns
            if due_ns >= end_ns:
                count -= 1
                return
            if due_ns > now_ns:
                await asyncio.sleep((due_ns - now_ns) / 1e9)
                now_ns = _clock_ns()
            data = filled(size, dtype, sequence)
            sent_ns = _clock_ns()
            body = {"head": np.array([sequence, sent_ns]), "data": data}
            reply = await bus.request(topic, body, timeout_s=plan["timeout_s"])
            came_ns = _clock_ns()
            broken += int(reply["head"][0]) != sequence
            if due_ns >= warm_ns:
                samples.add(came_ns - (due_ns if rate else sent_ns), came_ns)
                fill_ns += sent_ns - now_ns

    await asyncio.gather(*(one_after_another() for _ in range(plan["in_flight"])))
    seconds = (_clock_ns() - warm_ns) / 1e9
    line.say(
        event="report",
        sent=before + count + 1,
        broken=broken,
        measured=samples.count,
        seconds=seconds,
        fill_us=fill_ns / max(samples.count, 1) / 1e3,
        cpu_s=cpu_s() - used_s,
        **samples.report(),
    )


async def answer(bus: Bus, plan: dict[str, Any], line: Line) -> None:
    """Read each request and answer with its head."""
    taken = broken = read_ns = 0
    used_s = cpu_s()
    async with bus.subscribe(plan["topic"]) as messages:
        line.say(event="ready")

        async def serve() -> None:
            nonlocal taken, broken, read_ns
            async for message in messages:
                now_ns = _clock_ns()
                head = message["head"]
                broken += not intact(message["data"], int(head[0]))
                read_ns += _clock_ns() - now_ns
                taken += 1
                if message.reply_to:
                    await message.reply({"head": head})

        serving = asyncio.ensure_future(serve())
        hearing = asyncio.ensure_future(line.hear())
        await asyncio.wait((serving, hearing), return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            await serving
        line.say(
            event="report",
            taken=taken,
            broken=broken,
            read_us=read_ns / max(taken, 1) / 1e3,
            cpu_s=cpu_s() - used_s,
        )
        await _until_closed(line)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def _until_closed(line: Line) -> None:
    try:
        while True:
            await line.hear()
    except EOFError:
        return


ROLES = {"producer": produce, "consumer": consume, "requester": ask, "responder": answer}


async def _main(role: str, plan: dict[str, Any]) -> None:
    line = Line()
    await line.open()
    _native.keep_memory_warm()
    async with connect(plan["url"]) as bus:
        try:
            await ROLES[role](bus, plan, line)
        except EOFError:
            return
        except SiraError as error:
            line.say(event="error", code=error.code, message=str(error))


if __name__ == "__main__":
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main(sys.argv[1], json.loads(sys.argv[2])))
