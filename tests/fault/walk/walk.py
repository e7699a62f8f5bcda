"""Which cases there are: points that the C core lists x roles that pass them x what happens."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator

from tests.fault.bus import Broken

from . import actors, rounds, waves
from .rounds import ACTIONS, Case
from .stage import Stage

# Later passes than this are as the ones before; and a case should not wait for long.
COUNT_MAX = 20
# No client waits at a full link: only the C core does, where shm_stress_test.c walks these.
UNREACHED = {"writer.armed", "writer.woken"}

Fact = dict[str, object]
Passes = dict[str, dict[str, tuple[str, int]]]  # by role and point: when first, how often


def walk(
    *, quick: bool, seed: int, point: str = "", role: str = "", action: str = ""
) -> Iterator[Fact]:
    """Run the cases; yield a fact for each.

    Args:
        quick: each point once, by one role, many at a time; else each by every role that passes
            it, early and late, with every action, alone.
    """
    with Stage() as stage:
        passes = rounds.census(stage)
        cpu_s = stage.cpu_s()
    every = set(actors.native_points()) | {
        f"{name}.{end}" for name in actors.RECORDS.values() for end in ("sent", "came")
    }
    unreached = every - set().union(*passes.values())
    problems = []
    if unreached != UNREACHED:
        problems.append(f"reached by nobody: {sorted(unreached)}, not {sorted(UNREACHED)}")
    yield {"what": "census", "points": len(every), "cpu_s": cpu_s, "problems": problems}
    rng = random.Random(seed)
    made = [
        each
        for each in (_once(passes, rng) if quick else _all(passes))
        if (not point or each.point == point)
        and (not role or each.role == role)
        and (not action or each.action == action)
    ]
    parts = list(waves.waves(made)) if quick else [[each] for each in made]
    yield {"what": "plan", "cases": len(made), "parts": len(parts)}
    left = iter(enumerate(parts))
    while True:
        with Stage() as stage:  # a new one after a case that broke it
            is_whole = yield from _walk_on(stage, left)
            if is_whole:
                problems = rounds.end_beside(stage)
                yield {"what": "beside", "cpu_s": stage.cpu_s(), "problems": problems}
                return


def _walk_on(stage: Stage, left: Iterator[tuple[int, list[Case]]]) -> Iterator[Fact]:
    """Run what is left; return whether the stage is still whole."""
    for number, part in left:
        start_s = time.monotonic()
        broken = ""
        try:
            if len(part) == 1:
                outcome = rounds.run(stage, number, part[0])
            else:
                outcome = waves.run(stage, number, part)
        except Broken as error:
            outcome, broken = rounds.Outcome(problems=[f"Broken: {error}"]), str(error)
        yield {
            "what": "case", "cases": [vars(each) for each in part], "accepted": outcome.accepted,
            "got": outcome.got, "seconds": round(time.monotonic() - start_s, 2),
            "cpu_s": round(stage.cpu_s(), 2), "problems": outcome.problems,
        }  # fmt: skip
        if broken:
            return False
    return True


def _once(passes: Passes, rng: random.Random) -> Iterator[Case]:
    """Yield each point once: roles, actions and passes in turn.

    Not those of records that came: to all others it is as if they had only been sent.
    """
    actions = itertools.cycle(("kill", "stop", "exit"))
    taken = dict.fromkeys(passes, 0)
    for point in sorted(set().union(*passes.values())):
        if point.endswith(".came") and point.split(".")[0] in actors.RECORDS.values():
            continue
        roles = [role for role in passes if point in passes[role]]
        role = min(roles, key=lambda each: taken[each] * (4 if each == "node" else 1))
        taken[role] += 1
        when, most = passes[role][point]
        yield Case(point, role, next(actions), 1 + rng.randrange(_late(most)), when)


def _all(passes: Passes) -> Iterator[Case]:
    for role, found in passes.items():
        for point, (when, most) in sorted(found.items()):
            for action in ACTIONS:
                # The first pass is often another step of the protocol than a later one.
                for count in sorted({1, _late(most)}):
                    yield Case(point, role, action, count, when)


def _late(most: int) -> int:
    """Return a pass that is reached surely, and not soon."""
    return min(most // 4, COUNT_MAX) or 1
