"""Run for long, by parts: `python -m tests.soak [--part NAME ...] [--door-s S] [--seed N]`.

`flow`: ten million messages by gRPC, ten million past the node; `crowd`: a thousand subscribers;
`frames`: broken frames at the two streams; `door`: everything that can be sent to the gRPC and HTTP
ports, half the time plain, half over TLS. One JSON line each; exit code 1 on any problem. A plan of
`door` that went wrong is made again by `--plan N --seed S`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import sys
import time
from pathlib import Path

import grpc

import sira
from benches.machine import commit

from . import crowd, doors, flow
from .door import run as door

RSS_MORE_BYTES = 24 << 20
PARTS = ("flow", "crowd", "frames", "door")
RESULTS = Path("benches/results")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--part", action="append", choices=PARTS, help="all, where none is named")
    parser.add_argument("--fuzz-s", type=float, default=600.0, help="of `frames`")
    parser.add_argument("--door-s", type=float, default=1_800.0, help="of `door`")
    parser.add_argument("--messages", type=int, default=10_000_000, help="of `flow`")
    parser.add_argument("--crowd", type=int, default=1_000, help="subscribers of `crowd`")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--plan", type=int, action="append", help="of `door`: this one alone")
    parser.add_argument("--out", type=Path, default=None, help=f"a file; default: in {RESULTS}")
    given = parser.parse_args()
    parts = given.part or (["door"] if given.plan else list(PARTS))
    lines: list[str] = []

    def say(what: str, **fact: object) -> None:
        lines.append(json.dumps({"what": what, **fact}))
        print(lines[-1], flush=True)

    def tell(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    say(
        "start", commit=commit() or "unknown", sira=sira.__version__, seed=given.seed, parts=parts,
        grpcio=grpc.__version__,
    )  # fmt: skip
    problems: list[str] = []
    if "flow" in parts:
        for way in flow.WAYS:
            moved = flow.run(way, given.messages, rss_more_bytes=RSS_MORE_BYTES, tell=tell)
            say("flow", **dataclasses.asdict(moved))
            problems += moved.problems
    if "crowd" in parts:
        seen = crowd.run(given.crowd, 1_000, tell=tell)
        say("crowd", **dataclasses.asdict(seen))
        problems += seen.problems
    if "frames" in parts:
        attack = doors.run(given.fuzz_s, given.seed, tell=tell)
        say("frames", **dataclasses.asdict(attack))
        problems += attack.problems
    if "door" in parts:
        for tls in (False, True):
            beset = door.run(given.door_s / 2, given.seed, tls=tls, tell=tell, only=given.plan)
            say("door", **dataclasses.asdict(beset))
            problems += beset.problems
    say("end", ok=not problems)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    out = given.out or RESULTS / f"{stamp}-{commit() or 'unknown'}-soak.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(lines) + "\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
