"""Fault rounds: `python -m tests.fault --issue bus --rounds 200 [--seed N] [--out FILE]`.

Every round prints its seed; `--seed N --rounds 1 --victim V --lane L` repeats one. Exits 1 if a
promise did not hold, or if the node ended the rounds with more descriptors, threads or memory than
after the first ones. `--issue registry` kills a node in the middle of what it has to keep, round
after round on one data folder (truth.py). `--issue shm` walks the fault points instead, whose
options `python -m tests.fault.walk --help` tells.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import sira
from benches.machine import commit
from sira.testing import Node

from . import bus, truth

# A round of warm-up fills pools and caches; after it a node that leaks nothing keeps its numbers.
SETTLED_ROUNDS = 3
DESCRIPTORS_MORE = 8
THREADS_MORE = 4
RSS_MORE_BYTES = 64 << 20
TRIED_ROUNDS = 6


Say = Callable[..., None]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fault", description=__doc__)
    parser.add_argument("--issue", default="bus", choices=["bus", "shm", "registry"])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--victim", default=None, help="default: each in turn")
    parser.add_argument("--lane", choices=bus.LANES, default=None, help="default: in turn")
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    if given.issue == "shm":  # another build of the C core: a process of its own
        seed = [] if given.seed is None else ["--seed", str(given.seed)]
        return subprocess.run([sys.executable, "-m", "tests.fault.walk", *seed]).returncode
    rounds, victims = ROUNDS[given.issue]
    if given.victim and given.victim not in victims:
        parser.error(f"a victim of {given.issue} is one of {', '.join(victims)}")
    first = given.seed if given.seed is not None else random.SystemRandom().randrange(1 << 31)
    lines: list[str] = []

    def say(**fact: object) -> None:
        line = json.dumps(fact)
        lines.append(line)
        print(line, flush=True)

    say(
        what="start", issue=given.issue, rounds=given.rounds, seed=first,
        commit=commit() or "unknown", sira=sira.__version__, environment=bus.environment_note(),
    )  # fmt: skip
    held = rounds(given, first, say)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text("\n".join(lines) + "\n")
    return 0 if held else 1


def bus_rounds(given: argparse.Namespace, first: int, say: Say) -> bool:
    """Kill those who exchange messages; return whether all promises held."""

    def lane_of(index: int) -> str:
        # Not in step with the victims: each dies on each way.
        return given.lane or bus.LANES[index // len(bus.VICTIMS) % len(bus.LANES)]

    with Node() as node:

        def run(index: int, victim: str) -> bus.Report:
            try:
                return bus.run_round(node, first + index, victim, lane=lane_of(index))
            except bus.Broken as error:
                return bus.Report(victim, problems=[str(error)])

        broken, totals = run_rounds(
            given, first, say, bus.VICTIMS, run,
            ("sent", "accepted", "unknown", "delivered", "peer_lost", "direct"),
            lambda index, _: {"lane": lane_of(index)},
        )  # fmt: skip
    direct_rounds = sum(lane_of(index) == "direct" for index in range(given.rounds))
    leaks = leak_rounds(first, max(6, given.rounds // 10))
    say(what="resources", **leaks)
    # Many rounds on the lane, and none of their messages: it was not tried.
    tried = direct_rounds < TRIED_ROUNDS or totals["direct"] > 0
    held = not broken and not leaks["problems"] and tried
    say(what="end", ok=held, broken_rounds=broken, direct_tried=tried, **totals)
    return held


def truth_rounds(given: argparse.Namespace, first: int, say: Say) -> bool:
    """Kill a node that has something to keep, on one data folder; return whether it kept it."""
    books = truth.Books()
    with Node() as node:

        def run(index: int, victim: str) -> truth.Report:
            try:
                return truth.run_round(node, books, first + index, victim)
            except bus.Broken as error:
                return truth.Report(victim, problems=[str(error)])

        broken, totals = run_rounds(
            given, first, say, truth.VICTIMS, run, ("acknowledged", "unknown", "repeated"),
            lambda _, report: {"agents": report.agents},
        )  # fmt: skip
    snapshots = len(books.snapshots)
    say(what="end", ok=not broken, broken_rounds=broken, snapshots=snapshots, **totals)
    return not broken


def run_rounds(
    given: argparse.Namespace,
    first: int,
    say: Say,
    victims: Sequence[str],
    run: Callable[[int, str], bus.Report | truth.Report],
    counted: Sequence[str],
    further: Callable[[int, Any], dict[str, object]],
) -> tuple[int, dict[str, int]]:
    """Run and tell the rounds, each victim in turn; return how many are broken, and the sums.

    Args:
        counted: numbers of a report.
        further: what is told of a round beside them.
    """
    broken, totals = 0, dict.fromkeys(counted, 0)
    for index in range(given.rounds):
        victim = given.victim or victims[index % len(victims)]
        start_s = time.monotonic()
        report = run(index, victim)
        counts = {name: getattr(report, name) for name in counted}
        for name, count in counts.items():
            totals[name] += count
        say(
            what="round", index=index, seed=first + index, victim=victim, **counts,
            **further(index, report), seconds=round(time.monotonic() - start_s, 2),
            problems=report.problems,
        )  # fmt: skip
        broken += bool(report.problems)
    return broken, totals


ROUNDS = {"bus": (bus_rounds, bus.VICTIMS), "registry": (truth_rounds, truth.VICTIMS)}


def leak_rounds(seed: int, rounds: int) -> dict[str, object]:
    """One node through many rounds of killed clients: what it holds must not grow."""
    problems: list[str] = []
    before: bus.Resources | None = None
    with Node() as node:
        for index in range(rounds):
            victim = bus.VICTIMS[index % 3]  # not the node itself
            lane = bus.LANES[index // 3 % len(bus.LANES)]
            report = bus.run_round(node, seed + 1_000_000 + index, victim, lane=lane)
            problems += report.problems
            if index == SETTLED_ROUNDS:
                before = bus.Resources.of(node.pid)
        after = bus.Resources.of(node.pid)
    assert before is not None
    if after.descriptors > before.descriptors + DESCRIPTORS_MORE:
        problems.append(f"descriptors grew from {before.descriptors} to {after.descriptors}")
    if after.threads > before.threads + THREADS_MORE:
        problems.append(f"threads grew from {before.threads} to {after.threads}")
    if after.rss_bytes > before.rss_bytes + RSS_MORE_BYTES:
        problems.append(f"RSS grew from {before.rss_bytes} to {after.rss_bytes} bytes")
    return {
        "rounds": rounds, "descriptors": [before.descriptors, after.descriptors],
        "threads": [before.threads, after.threads],
        "rss_bytes": [before.rss_bytes, after.rss_bytes], "problems": problems,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
