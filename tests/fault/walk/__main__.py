"""`python -m tests.fault.walk`: each fault point, one by one. `make fault ISSUE=shm` does all."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time

from . import NATIVE_VARIABLE
from .build import build


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fault.walk", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="each point and role once")
    parser.add_argument("--point", default="", help="this one alone")
    parser.add_argument("--role", default="")
    parser.add_argument("--action", default="")
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    if not os.environ.get(NATIVE_VARIABLE):
        environment = {**os.environ, NATIVE_VARIABLE: str(build()), "OPENBLAS_NUM_THREADS": "1"}
        os.execve(sys.executable, [sys.executable, "-m", __package__, *sys.argv[1:]], environment)
    from .walk import walk

    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(1 << 31)
    start_s = time.monotonic()
    broken = 0
    for fact in walk(
        quick=given.quick, seed=seed, point=given.point, role=given.role, action=given.action
    ):
        broken += bool(fact.get("problems"))
        print(json.dumps(fact), flush=True)
    end = {"what": "end", "ok": not broken, "broken": broken, "seed": seed}
    print(json.dumps(end | {"seconds": round(time.monotonic() - start_s, 1)}), flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
