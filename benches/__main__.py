"""Measure Sira beside its rivals, print tables and goals, write JSON lines and a plot.

`python -m benches [row ...] [--quick] [--repeats N] [--only SYSTEM,...] [--out DIR] [--json]`
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from benches import machine, plot, report
from benches.goals import verdicts
from benches.harness import ROOT, Result, run_group
from benches.rows import ROWS


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benches", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("rows", nargs="*", metavar="row", help=", ".join(ROWS))
    parser.add_argument("--quick", action="store_true", help="one short repeat, fewer sizes")
    parser.add_argument("--repeats", type=int, help="default 5, with --quick 1")
    parser.add_argument("--only", help="systems to run, by commas: sira, grpc, zmq, nats, redis")
    parser.add_argument("--out", type=Path, default=ROOT / "benches" / "results")
    parser.add_argument("--json", action="store_true", help="JSON lines alone on stdout")
    arguments = parser.parse_args()
    unknown = [row for row in arguments.rows if row not in ROWS]
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}; rows are {', '.join(ROWS)}")
    if arguments.repeats is not None and not 1 <= arguments.repeats <= 100:
        parser.error("--repeats is 1 to 100")
    return arguments


def _tell(line: str) -> None:
    """Progress, on stderr."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def _stop(_signal: int, _frame: Any) -> None:
    """Ctrl-C or SIGTERM: every server is stopped on the way out."""
    raise KeyboardInterrupt


def main() -> int:
    """Measure, print, save; 0 when every installed system gave figures, else 1, 130 on Ctrl-C."""
    arguments = _arguments()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    repeats = arguments.repeats or (1 if arguments.quick else 5)
    only = set(arguments.only.split(",")) if arguments.only else None
    described = machine.describe()
    results: list[Result] = []
    started_s = time.monotonic()
    interrupted = False
    try:
        for row in arguments.rows or list(ROWS):
            for group in ROWS[row].groups(arguments.quick):
                cases = [c for c in group if only is None or c.system in only]
                results += run_group(cases, repeats=repeats, tell=_tell)
    except KeyboardInterrupt:
        interrupted = True
        _tell("interrupted: printing what was complete")
    run = {
        "repeats": repeats,
        "quick": arguments.quick,
        "elapsed_s": round(time.monotonic() - started_s, 1),
        "load_average_after": list(os.getloadavg()),
    }
    judged = verdicts(results)
    lines = report.json_lines(results, described, run)
    text = io.StringIO()
    report.print_tables(results, judged, described, run, text, width=160)
    stem = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{described['commit'] or 'none'}"
    paths = report.save(arguments.out, stem, lines + report.goal_lines(judged), text.getvalue())
    caption = f"{described['cpu']}, {described['cores']} cores, commit {described['commit'] or '-'}"
    if (drawn := plot.draw(results, arguments.out / f"{stem}.png", caption=caption)) is not None:
        paths.append(drawn)
    if arguments.json:
        print("\n".join(lines))
    else:
        report.print_tables(results, judged, described, run, sys.stdout)
    _tell("written: " + ", ".join(str(path) for path in paths))
    if interrupted:
        return 130
    return 1 if any(result.status == "failed" for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
