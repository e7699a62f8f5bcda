"""One picture of a run: a panel for each row that has figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benches.harness import Result
from benches.stats import median

COLOURS = {
    "sira": "#d1495b",
    "sira-many": "#e8a0a9",
    "sira-tls": "#8c2f3d",
    "sira-socket": "#e0a458",
    "grpc": "#30638e",
    "grpc-ready": "#8fb3d1",
    "grpc-tls": "#1b3a55",
    "zmq": "#3c8c5a",
    "nats": "#8f7f3e",
    "redis": "#7d5ba6",
}
BARS = {
    "rtt256": (("latency_us_p50", "latency_us_p99"), "µs, log"),
    "rate256": (("messages_per_s",), "messages/s, log"),
    "fanout100": (("deliveries_per_s",), "deliveries/s, log"),
    "conn1000": (("messages_per_s",), "messages/s"),
    "mixed": (("idle_us_p99", "beside_us_p99"), "µs, log"),
    "tls": (("latency_us_p50", "latency_us_p99"), "µs, log"),
    "rules": (("server_cpu_us_per_message",), "CPU µs a message in the node"),
    "greedy": (("alone_us_p99", "beside_us_p99"), "µs, log"),
    "local": (("latency_us_p50", "latency_us_p99"), "µs, log"),
    "idle5000": (("alone_us_p99", "beside_us_p99"), "µs, log"),
}
LINES = {
    "sweep": (("gb_per_s", "GB/s"), ("cpu_s_per_gb", "CPU s/GB, log")),
    "codec": (("decode_us_p50", "decode, µs"),),
    "tls": (("gb_per_s", "GB/s"),),
    "local": (("gb_per_s", "GB/s"),),
}
"""A row may stand in both: its bars are drawn of the cases that have these figures."""


def _bars(axis: Any, row: str, results: Sequence[Result]) -> None:
    """Draw one bar for each system and figure; the second figure of a system is hatched."""
    names, unit = BARS[row]
    position, ticks = 0.0, []
    for result in results:
        if names[0] not in result.samples:
            continue
        colour = COLOURS.get(result.system, "#777777")
        for order, name in enumerate(names):
            value = median(result.samples[name])
            bar = axis.bar(position + 0.4 * order, value, 0.4, color=colour)
            if order:
                bar[0].set_hatch("//")
                bar[0].set_edgecolor("white")
        ticks.append((position + 0.2 * (len(names) - 1), result.system))
        position += 1
    axis.set_xticks([x for x, _ in ticks], [label for _, label in ticks], fontsize=8)
    if unit.endswith("log"):
        axis.set_yscale("log")
    shown = " | ".join(name.replace("latency_us_", "") for name in names) if len(names) > 1 else ""
    axis.set_title(f"{row} {shown}", fontsize=9)
    axis.set_ylabel(unit, fontsize=8)


def _lines(axis: Any, row: str, name: str, unit: str, results: Sequence[Result]) -> None:
    """Draw one line for each system over payload size."""
    for system in dict.fromkeys(result.system for result in results):
        points = [
            (result.params["payload_bytes"] / 2**20, median(result.samples[name]))
            for result in results
            if result.system == system and name in result.samples
        ]
        if not points:
            continue
        xs, ys = zip(*points, strict=True)
        axis.plot(xs, ys, marker="o", label=system, color=COLOURS.get(system, "#777777"))
    axis.set_xscale("log", base=2)
    if unit.endswith("log"):
        axis.set_yscale("log")
    axis.set_title(f"{row} {name}", fontsize=9)
    axis.set_xlabel("payload, MiB", fontsize=8)
    axis.set_ylabel(unit, fontsize=8)
    axis.legend(fontsize=7)


def draw(results: Sequence[Result], path: Path, *, caption: str) -> Path | None:
    """Write the picture to `path`; None when nothing was measured."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    measured = [result for result in results if result.samples]
    panels: list[tuple[str, str, str]] = []
    for row in dict.fromkeys(result.row for result in measured):
        panels += [(row, name, unit) for name, unit in LINES.get(row, ())]
        panels += [(row, "", "")] if row in BARS else []
    if not panels:
        return None
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(
        lines, columns, figsize=(4.6 * columns, 3.4 * lines), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (row, name, unit) in zip(axes.flat, panels, strict=False):
        cases = [result for result in measured if result.row == row]
        if name:
            _lines(axis, row, name, unit, cases)
        else:
            _bars(axis, row, cases)
        axis.grid(alpha=0.3)
        axis.tick_params(which="both", labelsize=7)
    figure.suptitle(caption, fontsize=8)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return path
