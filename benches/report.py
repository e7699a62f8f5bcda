"""Results as JSON lines, as tables, and the tables' words."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.table import Table

from benches.figure import Verdict
from benches.harness import Result
from benches.rows import ROWS
from benches.stats import median

WIDE = 5
"""A row with more figures than this is printed with a line for each figure."""


def json_lines(
    results: Sequence[Result], machine: dict[str, Any], run: dict[str, Any]
) -> list[str]:
    """One line a result: medians, all samples, parameters, machine, versions, commit."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return [
        json.dumps(
            {
                "row": result.row,
                "system": result.system,
                "status": result.status,
                "detail": result.detail,
                "figures": {name: median(values) for name, values in result.samples.items()},
                "samples": result.samples,
                "params": result.params,
                "run": run,
                "time": stamp,
                "commit": machine["commit"],
                "machine": machine,
            },
            allow_nan=True,
        )
        for result in results
    ]


def goal_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """One line a goal."""
    return [
        json.dumps(
            {
                "goal": v.goal.title,
                "row": v.goal.ours.row,
                "at_least" if v.goal.at_least else "at_most": v.goal.limit,
                "value": None if math.isnan(v.value) else v.value,
                "met": v.met,
            }
        )
        for v in verdicts
    ]


def number(value: float) -> str:
    """Three significant figures, thousands grouped, no exponent."""
    if math.isnan(value):
        return "-"
    if abs(value) >= 1000:
        digits = math.floor(math.log10(abs(value))) - 2
        return f"{round(value, -max(0, digits - 1)):,.0f}"
    return f"{value:.3g}"


def _size(payload_bytes: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if payload_bytes >= size:
            return f"{payload_bytes / size:g} {unit}"
    return f"{payload_bytes} B"


def _row_table(row: str, results: Sequence[Result]) -> Table:
    """One row's table: a line for each case, a column for each figure."""
    names = list(dict.fromkeys(name for r in results for name in r.samples))
    sized = len({r.params.get("payload_bytes") for r in results}) > 1
    placed = any("placement" in r.params for r in results)
    if len(names) > WIDE and not sized and not placed:
        return _turned_table(row, results, names)
    table = Table(title=f"{row}: {ROWS[row].SUMMARY}", title_justify="left")
    if sized:
        table.add_column("payload", justify="right")
    if placed:
        table.add_column("placement")
    table.add_column("system", overflow="fold")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    if any(r.status != "ok" for r in results) or not names:
        table.add_column("note")
    for before, result in zip((None, *results), results, strict=False):
        if placed and before and before.params["placement"] != result.params["placement"]:
            table.add_section()
        cells = [_size(result.params["payload_bytes"])] if sized else []
        if placed:
            cells.append(result.params["placement"])
        cells.append(result.system)
        cells += [number(median(result.samples.get(name, []))) for name in names]
        table.add_row(*cells, _note(result)) if result.status != "ok" else table.add_row(*cells)
    return table


def _kinds(results: Sequence[Result]) -> list[list[Result]]:
    """Split a row into what belongs in one table.

    Cases of one size, or with a figure in common; who has a placement stands with its like.
    """
    kinds: list[list[Result]] = []
    for result in results:
        for kind in kinds:
            if any(
                ("placement" in result.params) == ("placement" in other.params)
                and (
                    result.params.get("payload_bytes") == other.params.get("payload_bytes")
                    or result.samples.keys() & other.samples.keys()
                )
                for other in kind
            ):
                kind.append(result)
                break
        else:
            kinds.append([result])
    return kinds


def _note(result: Result) -> str:
    """Why a case has no figures; empty when it has."""
    if result.status == "ok":
        return ""
    return f"{result.status}: {result.detail.strip().rpartition(chr(10))[2]}"


def _turned_table(row: str, results: Sequence[Result], names: Sequence[str]) -> Table:
    """As `_row_table`, with a column for each case and a line for each figure."""
    table = Table(title=f"{row}: {ROWS[row].SUMMARY}", title_justify="left")
    table.add_column("figure")
    for result in results:
        table.add_column(result.system, justify="right")
    for name in names:
        table.add_row(name, *(number(median(r.samples.get(name, []))) for r in results))
    if any(r.status != "ok" for r in results):
        table.add_row("note", *(_note(r) for r in results))
    return table


def _goal_table(verdicts: Sequence[Verdict]) -> Table:
    """Every goal with what was measured."""
    table = Table(title="goals (information, not a test)", title_justify="left")
    for heading in ("row", "figure", "measured", "goal", "met"):
        table.add_column(heading, justify="right" if heading in ("measured", "goal") else "left")
    for v in verdicts:
        met = "not measured" if v.met is None else "yes" if v.met else "no"
        sign = "≥" if v.goal.at_least else "≤"
        limit = f"{sign} {number(v.goal.limit)}"
        table.add_row(v.goal.ours.row, v.goal.title, number(v.value), limit, met)
    return table


def _machine_lines(machine: dict[str, Any], run: dict[str, Any]) -> list[str]:
    memcpy = machine["memcpy_gb_per_s"]
    found = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    load = " ".join(f"{value:.2f}" for value in machine["load_average"])
    after = " ".join(f"{value:.2f}" for value in run["load_average_after"])
    return [
        f"machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"kernel {machine['kernel']}",
        f"bare eventfd round trip {machine['eventfd_round_trip_us']:.1f} µs; memcpy "
        f"{memcpy['warm']:.1f} GB/s, into new pages {memcpy['new_pages']:.1f}",
        f"load average before {load}, after {after}; "
        f"malloc {machine['malloc_environment'] or 'default'}",
        f"versions: {found}",
        f"commit {machine['commit'] or '(none)'}, {run['repeats']} repeats, interleaved; medians",
    ]


def _parameter_lines(cases: Sequence[Result]) -> list[str]:
    """What the cases of each size have in common; sizes with the same in one line."""
    lines: dict[str, list[str]] = {}
    for size in dict.fromkeys(case.params.get("payload_bytes") for case in cases):
        same = [case.params for case in cases if case.params.get("payload_bytes") == size]
        shared = {
            name: value
            for name, value in same[0].items()
            if name != "payload_bytes" and all(other.get(name) == value for other in same)
        }
        lines.setdefault(str(shared), []).append("" if size is None else f" of {_size(size)}")
    return [f"parameters{','.join(sizes)}: {shared}" for shared, sizes in lines.items()]


def print_tables(
    results: Sequence[Result],
    verdicts: Sequence[Verdict],
    machine: dict[str, Any],
    run: dict[str, Any],
    out: IO[str],
    *,
    width: int | None = None,
) -> None:
    """Print machine, one table a row, and the goals to `out`."""
    console = Console(file=out, width=width, highlight=False)
    for line in _machine_lines(machine, run):
        console.print(line, markup=False)
    for row in dict.fromkeys(result.row for result in results):
        for cases in _kinds([result for result in results if result.row == row]):
            console.print()
            console.print(_row_table(row, cases))
            for line in _parameter_lines(cases):
                console.print(line, markup=False)
    if verdicts:
        console.print()
        console.print(_goal_table(verdicts))


def save(folder: Path, stem: str, lines: Sequence[str], table: str) -> list[Path]:
    """Write the JSON lines and the tables; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{stem}.jsonl", folder / f"{stem}.txt"]
    paths[0].write_text("".join(line + "\n" for line in lines))
    paths[1].write_text(table)
    return paths
