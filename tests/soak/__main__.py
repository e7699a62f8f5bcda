"""`python -m tests.soak [--fuzz-s S] [--messages N] [--crowd N] [--out FILE]`: 1 on any problem."""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import sys
from pathlib import Path

import sira
from benches.machine import commit

from . import crowd, doors, flow

RSS_MORE_BYTES = 24 << 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--fuzz-s", type=float, default=600.0)
    parser.add_argument("--messages", type=int, default=10_000_000)
    parser.add_argument("--crowd", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    lines: list[str] = []

    def say(what: str, **fact: object) -> None:
        lines.append(json.dumps({"what": what, **fact}))
        print(lines[-1], flush=True)

    def tell(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    say("start", commit=commit() or "unknown", sira=sira.__version__, seed=given.seed)
    problems: list[str] = []
    if given.messages:
        moved = flow.run(given.messages, rss_more_bytes=RSS_MORE_BYTES, tell=tell)
        say("flow", **dataclasses.asdict(moved))
        problems += moved.problems
    if given.crowd:
        seen = crowd.run(given.crowd, 1_000, tell=tell)
        say("crowd", **dataclasses.asdict(seen))
        problems += seen.problems
    if given.fuzz_s:
        attack = doors.run(given.fuzz_s, given.seed, tell=tell)
        say("doors", **dataclasses.asdict(attack))
        problems += attack.problems
    say("end", ok=not problems)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text("\n".join(lines) + "\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
