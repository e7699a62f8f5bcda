"""Fuzzing at both doors: the fixed corpus and a fresh seed; `make soak` does it for 30 minutes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.soak.door import plans, run, stage, witness
from tests.soak.door.corpus import CORPUS
from tests.soak.door.drive import Attacker, Seen

KNOWN = plans.Known({"good": "token", "cut": "tok"}, ("fuzz.a", "x"), (bytes(16),))


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_fuzzing_at_both_doors_harms_nobody_and_tells_no_secret(tls: bool) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    attack = run.run(5, seed, tls=tls, tell=print)
    print(attack)
    assert attack.problems == []
    assert sum(attack.plans.values()) > len(CORPUS)


@pytest.mark.integration
def test_a_secret_that_comes_back_is_seen_at_both_doors(tmp_path: Path) -> None:
    """The same attacks with the token of one who may read: the canary is found, or nothing is."""
    with stage.opened(tmp_path, tls=False) as at, witness.watching(at) as beside:
        known = at.known(beside.client_ids())
        known.shown["good"] = at.keys.token(stage.WITNESS)
        seen, made = Seen(), [make(known) for make in CORPUS]
        attacker = Attacker(at, seen)
        for number, plan in enumerate(made):
            if b"secret.box" in _said(plan):
                attacker.carry_out(number, plan)
        attacker.close()
    told = {int(each.removeprefix("plan ").partition(":")[0]) for each in seen.problems}
    assert all("a secret came back" in each for each in seen.problems), seen.problems
    assert {type(made[number]) for number in told} == {plans.Call, plans.Http}


def _said(plan: plans.Plan) -> bytes:
    return b"".join(
        plan.messages
        if isinstance(plan, plans.Call)
        else plan.pieces
        if isinstance(plan, plans.Http)
        else (plan.data,)
    )


def test_a_plan_is_a_function_of_its_seed() -> None:
    made = [plans.make(seed, KNOWN) for seed in range(300)]
    assert made == [plans.make(seed, KNOWN) for seed in range(300)]
    assert {type(each) for each in made} == {plans.Call, plans.Wire, plans.Http}


def test_every_method_of_the_descriptors_is_fuzzed() -> None:
    called = {
        plan.method
        for plan in (plans.make(seed, KNOWN) for seed in range(3_000))
        if isinstance(plan, plans.Call)
    }
    assert set(plans.METHODS) <= called
