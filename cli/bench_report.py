"""What `sira bench` says: its result put together, judged, as text and as a plot."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from sira.cli.output import CliError, UsageError, bytes_text, plain

FORMAT = "sira-bench"
FORMAT_VERSION = 1

# How much worse or better it must be to be called so: machines move latencies far more than rates.
_RATE_TOLERANCE = 0.15
_P50_TOLERANCE = 0.30
_P99_TOLERANCE = 0.75


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass  # not Linux: the architecture has to do
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def assemble(
    *,
    pattern: str,
    lane_asked: str,
    payload: dict[str, Any],
    rate_target: float | None,
    ready: Mapping[str, Any],
    source: Mapping[str, Any],
    sink: Mapping[str, Any],
    node_cpu_s: float,
    row: Mapping[str, Any],
) -> dict[str, Any]:
    """Put the reports of the two workers and the ledger's row together.

    Rates and GB/s are of messages taken and read by the consumer (`pub`), or asked and answered
    (`request`), after the warm-up. `time_us` is the mean of a message: filling it, handing it to
    the SDK, on its way (from hand-over until taken), reading it.
    """
    timed = sink if pattern == "pub" else source
    latency = timed["latency_us"]
    if latency is None:
        raise CliError("BENCH_FAILED", "no message was measured", help="measure for longer")
    rate = timed["measured"] / timed["seconds"]
    time_us = {
        "fill": source["fill_us"],
        "read": sink["read_us"],
        "median on the way": latency["p50"],
    }
    # Of small messages and of requests only the first one's receipt is looked at.
    lanes = source.get("lanes") or {"+".join(ready["lanes"]) or "none": 1}
    if pattern == "pub":
        time_us["hand over"] = source["send_us"]
    return {
        "machine": machine(),
        "pattern": pattern,
        "lane_asked": lane_asked,
        "lane": max(lanes, key=lanes.__getitem__),
        "lanes": lanes,
        "payload": payload,
        "rate_target": rate_target,
        "rate_achieved": rate,
        "messages": timed["measured"],
        "seconds": timed["seconds"],
        "latency_us": latency,
        "gb_per_s": rate * payload["bytes"] / 1e9,
        "copies": ready["copies"],
        "time_us": time_us,
        "cpu_s": {"producer": source["cpu_s"], "consumer": sink["cpu_s"], "node": node_cpu_s},
        "broken": sink["broken"] + source.get("broken", 0),
        "lost": source["sent"] - sink["taken"],
        "ledger": {
            "published": row["published"],
            "delivered": row["delivered"],
            "unexplained": row["unexplained"],
            "balanced": row["balanced"],
        },
    }


def judge(data: Mapping[str, Any], baseline: Mapping[str, Any] | None) -> dict[str, Any]:
    """Compare with a baseline: one figure worse is slower; one better and none worse is faster."""
    if baseline is None:
        return {"state": "no baseline", "reasons": []}
    reasons = [
        f"{what} differs: {then} then, {now} now"
        for what, then, now in _terms(data, baseline)
        if then != now
    ]
    if reasons:
        return {"state": "not comparable", "reasons": reasons}
    worse, better = [], []
    for name, now, then, tolerance, higher_is_better in (
        ("rate", data["rate_achieved"], baseline["rate_achieved"], _RATE_TOLERANCE, True),
        ("p50", data["latency_us"]["p50"], baseline["latency_us"]["p50"], _P50_TOLERANCE, False),
        ("p99", data["latency_us"]["p99"], baseline["latency_us"]["p99"], _P99_TOLERANCE, False),
    ):
        # A ratio is judged in both directions alike: half is as far away as double.
        gain = now / then if higher_is_better else then / now
        said = f"{name} {now / then - 1:+.0%} against the baseline (noise: {tolerance:.0%})"
        if gain < 1 / (1 + tolerance):
            worse.append(said)
        elif gain > 1 + tolerance:
            better.append(said)
    if worse:
        return {"state": "slower", "reasons": worse + better}
    return {"state": "faster", "reasons": better} if better else {"state": "same", "reasons": []}


def _terms(data: Mapping[str, Any], baseline: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """What must be equal for two results to be compared."""
    keys = ("pattern", "lane", "rate_target")
    terms = [(key, baseline[key], data[key]) for key in keys]
    terms.append(("payload", baseline["payload"]["bytes"], data["payload"]["bytes"]))
    terms += [(key, baseline["machine"][key], data["machine"][key]) for key in ("cpu", "cores")]
    return terms


def save(path: Path, data: Mapping[str, Any]) -> None:
    """Write a baseline."""
    content = {"format": FORMAT, "version": FORMAT_VERSION, "result": plain(data)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def load(path: Path) -> dict[str, Any]:
    """Read a baseline.

    Raises:
        UsageError: no such file, or not one that `save` wrote.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is no baseline: {error}", help="make one with --save") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UsageError(f"{path} is no baseline", help="make one with --save")
    if content["version"] != FORMAT_VERSION:
        raise UsageError(
            f"{path} has version {content['version']}, this command reads {FORMAT_VERSION}",
            help="make it again with --save",
        )
    result: dict[str, Any] = content["result"]
    return result


def text(data: Mapping[str, Any]) -> str:
    """Return the report for people."""
    host, payload, latency = data["machine"], data["payload"], data["latency_us"]
    target = (
        "as fast as it goes" if data["rate_target"] is None else f"{data['rate_target']:,.0f}/s"
    )
    shape = ",".join(str(dim) for dim in payload["shape"])
    ledger, verdict = data["ledger"], data["verdict"]
    lines = [
        f"machine   {host['cpu']}, {host['cores']} cores, {bytes_text(host['memory_bytes'])}, "
        f"Linux {host['kernel']}, Python {host['python']}",
        f"lane      {_lanes(data)}, copies {data['copies']}",
        f"payload   {payload['dtype']}[{shape}], {bytes_text(payload['bytes'])}",
        f"rate      target {target}, achieved {data['rate_achieved']:,.0f}/s "
        f"({data['messages']} {_noun(data['pattern'])} in {data['seconds']:.2f} s)",
        f"latency   p50 {_us(latency['p50'])}  p90 {_us(latency['p90'])}  "
        f"p99 {_us(latency['p99'])}  "
        f"p99.9 {_us(latency['p99_9'])}  max {_us(latency['max'])}"
        + ("  (saturated: mostly waiting)" if _saturated(data) else ""),
        f"transfer  {data['gb_per_s']:.3f} GB/s, filled and read",
        "time      " + ", ".join(f"{name} {_us(us)}" for name, us in data["time_us"].items()),
        "cpu       " + ", ".join(f"{who} {_seconds(used)}" for who, used in data["cpu_s"].items()),
        f"ledger    published {ledger['published']}, delivered {ledger['delivered']}, "
        f"unexplained {ledger['unexplained']}, "
        + ("balanced" if ledger["balanced"] else "NOT BALANCED"),
        f"verdict   {verdict['state']}" + "".join(f"; {reason}" for reason in verdict["reasons"]),
    ]
    if data["lost"] or data["broken"]:
        lines.append(f"LOST      {data['lost']} did not arrive, {data['broken']} arrived changed")
    return "\n".join(lines)


def _lanes(data: Mapping[str, Any]) -> str:
    """Return the lane; where messages took several, how many took each."""
    if len(data["lanes"]) == 1:
        return str(data["lane"])
    counts = ", ".join(f"{count} by {lane}" for lane, count in data["lanes"].items())
    return f"{data['lane']} ({counts})"


def _saturated(data: Mapping[str, Any]) -> bool:
    return data["pattern"] == "pub" and data["rate_target"] is None


def _noun(pattern: str) -> str:
    return "messages" if pattern == "pub" else "round trips"


def _us(value_us: float) -> str:
    return f"{value_us / 1e3:.2f} ms" if value_us >= 1e3 else f"{value_us:.0f} us"


def _seconds(value_s: float) -> str:
    return "not told" if math.isnan(value_s) else f"{value_s:.2f} s"


def plot(path: Path, data: Mapping[str, Any], samples: Mapping[str, Any]) -> None:
    """Draw latency over time and its distribution.

    Raises:
        CliError: matplotlib is not installed.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise CliError(
            "UNSUPPORTED", "matplotlib is not installed", help="pip install 'sira-kernel[bench]'"
        ) from error
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    if samples["series"]:
        times, values = zip(*samples["series"], strict=True)
        left.plot(times, values, ".", markersize=2)
    left.set(xlabel="s", ylabel="latency, us", title="over time", yscale="log")
    quantiles = samples["quantiles_us"]
    share = [100 * index / (len(quantiles) - 1) for index in range(len(quantiles))]
    right.plot(quantiles, share)
    right.set(
        xlabel="latency, us", ylabel="% of messages below", title="distribution", xscale="log"
    )
    payload = data["payload"]
    figure.suptitle(
        f"sira bench {data['pattern']}, {data['lane']}, {bytes_text(payload['bytes'])}: "
        f"{data['rate_achieved']:,.0f}/s, {data['gb_per_s']:.2f} GB/s, "
        f"p50 {_us(data['latency_us']['p50'])}"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
