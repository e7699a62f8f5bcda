"""How a calm client fares beside each attack: on our node, and on a bare server of grpcio.

`python -m tests.soak.beside [--attack NAME ...] [--seconds S]`. Every attack on both (sides.py),
plain and with TLS; a row each, and with `--out` one JSON line. Figures of one run on one machine:
compare them with each other and with nothing else.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path

import psutil

from benches.machine import commit, describe
from tests.integration.door.keys import Keys

from . import attacks
from .sides import Act, Side, bare, ours

LANES = ("plain", "tls")
COLUMNS = (
    "attack", "lane", "side", "echo_p99_ms", "call_p50_ms", "call_p99_ms", "acts", "failed",
    "rss_more_mib", "cpu_s", "attacks",
)  # fmt: skip


def timed(acts: dict[str, Act], seconds: float) -> dict[str, float]:
    """Do each act in turn with a pause of 1 ms between; milliseconds of what was seen."""
    samples: dict[str, list[float]] = {name: [] for name in acts}
    until, failed = time.perf_counter() + seconds, 0
    while time.perf_counter() < until:
        for name, act in acts.items():
            start = time.perf_counter()
            failed += act()
            samples[name].append((time.perf_counter() - start) * 1e3)
            time.sleep(0.001)
    seen: dict[str, float] = {"failed": failed, "acts": sum(map(len, samples.values()))}
    for name, values in samples.items():
        # Of few samples the largest: what lies past it was not seen.
        p99 = statistics.quantiles(values, n=100)[98] if len(values) >= 100 else max(values)
        seen[f"{name}_p50_ms"] = round(statistics.median(values), 2)
        seen[f"{name}_p99_ms"] = round(p99, 2)
    return seen


class Peak:
    """The most memory that a process has had since this began. Linux."""

    def __init__(self, pid: int) -> None:
        """Begin."""
        self._status = Path(f"/proc/{pid}/status")
        Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
        self._before = self._peak_kib()

    def more_bytes(self) -> int:
        """Return what was added to what it had at the beginning."""
        return (self._peak_kib() - self._before) << 10

    def _peak_kib(self) -> int:
        for line in self._status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
        raise RuntimeError("the system does not tell how much memory a process had at most")


def attacked(side: Side, name: str, seconds: float) -> dict[str, float]:
    """Attack a side while its client works; return what was seen."""
    process, peak = psutil.Process(side.pid), Peak(side.pid)
    cpu = process.cpu_times()
    with attacks.under(name, side.target) as acts:
        seen = timed(side.acts, seconds)
    used = process.cpu_times()
    return seen | {
        "rss_more_mib": round(peak.more_bytes() / 2**20, 1),
        "cpu_s": round(used.user + used.system - cpu.user - cpu.system, 2),
        "attacks": acts.count,
    }


def measure(
    name: str, lane: str, side: str, keys: Keys, seconds: float, settings: dict[str, object]
) -> dict[str, object]:
    """Measure one side under one attack, after it was calm."""
    of_lane = keys if lane == "tls" else None
    place: AbstractContextManager[Side] = (
        bare(of_lane) if side == "bare" else ours(of_lane, settings)
    )
    with place as it:
        calm = timed(it.acts, 1.0)
        return {
            "attack": name, "lane": lane, "side": side,
            **attacked(it, name, seconds), "calm": calm,
        }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.beside", description=__doc__)
    parser.add_argument("--attack", action="append", choices=sorted(attacks.ATTACKS))
    parser.add_argument("--lane", action="append", choices=LANES)
    parser.add_argument("--side", action="append", choices=("bare", "ours"))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    settings: dict[str, object] = dict(each.split("=", 1) for each in given.set)
    lines = [json.dumps({"what": "start", "commit": commit() or "unknown", "machine": describe()})]
    print("| " + " | ".join(COLUMNS) + " |\n|" + " --- |" * len(COLUMNS), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        keys = Keys.new(Path(folder))
        for name in given.attack or attacks.ATTACKS:
            for lane in given.lane or LANES:
                for side in given.side or ("bare", "ours"):
                    seen = measure(name, lane, side, keys, given.seconds, settings)
                    lines.append(json.dumps(seen))
                    row = (str(seen.get(column, "")) for column in COLUMNS)
                    print("| " + " | ".join(row) + " |", flush=True)
    if given.out:
        given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
