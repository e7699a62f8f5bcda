"""Many cases at once, for `make test`: the same promises, a fraction of the processes.

Readers that die beside each other on one publisher's topics; publishers that die beside each other
with one reader; and one pair that lives through the deaths of many nodes. What `rounds.py` does for
one case alone, and for all actions and roles, is left to `make fault ISSUE=shm`.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence

from tests.fault.bus import Broken

from . import actors, rounds
from .rounds import ACTIONS, GO_ON, Case, Outcome
from .stage import PAUSE_S, Actor, Stage, wait_for

ALONE = ("death", "orphan")
AT_ONCE = 6  # of all that publish or read beside each other
SURVIVORS = Case("", "none", "kill", 0)  # for the checks of those that nothing happened to


def waves(cases: Sequence[Case]) -> Iterator[list[Case]]:
    """Yield cases that go together; each has one role."""
    for role in rounds.ROLES:
        of_role = [each for each in cases if each.role == role]
        alone = [each for each in of_role if each.when in ALONE]
        together = [each for each in of_role if each.when not in ALONE]
        step = len(together) or 1 if role == "node" else AT_ONCE
        yield from (together[i : i + step] for i in range(0, len(together), step))
        yield from ([each] for each in alone)


def run(stage: Stage, number: int, wave: Sequence[Case]) -> Outcome:
    """Run the cases of one wave. Raises Broken: something does not go on."""
    if wave[0].when in ALONE:
        return rounds.run(stage, number, wave[0])
    kinds = {"subscriber": _readers, "publisher": _publishers, "node": _nodes}
    outcome = Outcome()
    before = stage.beside_got()
    kinds[wave[0].role](stage, f"walk.w{number}", wave, outcome)
    wait_for(lambda: stage.beside_got() >= before + GO_ON, "the pair beside goes on")
    return outcome


def _fault(case: Case) -> actors.Fault:
    return actors.Fault(case.point, case.count, ACTIONS[case.action])


def _strike(wave: Sequence[Case], victims: Sequence[Actor]) -> None:
    for case, victim in zip(wave, victims, strict=True):
        if case.when == "end":
            victim.signal(signal.SIGTERM)
    left = dict(zip(victims, wave, strict=True))

    def strike() -> bool:
        for victim, case in list(left.items()):
            if rounds.is_struck(case, victim):
                del left[victim]
                # At once: while a reader is stopped, its publisher waits for it (`block`).
                rounds.struck_on(case, victim)
        return not left

    try:
        wait_for(strike, "all are struck")
    except Broken as error:
        raise Broken(f"{error}, not {list(left.values())}") from None


def _readers(stage: Stage, base: str, wave: Sequence[Case], outcome: Outcome) -> None:
    steady = stage.start(actors.subscriber, f"{base}.>")
    victims = [stage.start(actors.subscriber, f"{base}.>", fault=_fault(each)) for each in wave]
    for each in (steady, *victims):
        wait_for(lambda a=each: a.has("open") or a.is_over, "it subscribed")
    publisher = stage.start(actors.publisher, base, PAUSE_S)
    for case, victim in zip(wave, victims, strict=True):
        if case.when == "end":
            wait_for(lambda v=victim: len(v.look().got[f"{base}.d"]) >= GO_ON, "it reads")
    _strike(wave, victims)
    rounds.flows(publisher, base)
    publisher.end()
    rounds.check(stage, SURVIVORS, base, outcome, publisher, steady)
    for case, victim in zip(wave, victims, strict=True):
        if not victim.is_over:
            victim.end()
        for topic, got in victim.look().got.items():
            if got != sorted(set(got)):
                outcome.problems.append(f"{case}: {topic} twice, or out of order")
            owed = {each.number for each in publisher.ok[topic] if each.number > got[0]}
            if case.goes_on and (missing := owed - set(got)):
                outcome.problems.append(f"{case}: {topic} misses {sorted(missing)[:5]}")
        outcome.problems.extend(victim.wrong)
    steady.end()


def _publishers(stage: Stage, base: str, wave: Sequence[Case], outcome: Outcome) -> None:
    bases = [f"{base}v{index}" for index in range(len(wave))]
    steady = stage.start(actors.subscriber, *(f"{each}.>" for each in bases))
    wait_for(lambda: steady.opened == len(wave), "it subscribed")
    victims = [
        stage.start(actors.publisher, own, PAUSE_S, fault=_fault(case))
        for own, case in zip(bases, wave, strict=True)
    ]
    for own, case, victim in zip(bases, wave, victims, strict=True):
        if case.when == "end":
            rounds.flows(victim, own, victim=victim)
    _strike(wave, victims)
    for own, case, victim in zip(bases, wave, victims, strict=True):
        if case.goes_on:
            rounds.flows(victim, own)
        if not victim.is_over:
            victim.end()
    for own, case, victim in zip(bases, wave, victims, strict=True):
        rounds.check(stage, case, own, outcome, victim, steady)
    steady.end()


def _nodes(stage: Stage, base: str, wave: Sequence[Case], outcome: Outcome) -> None:
    subscriber = stage.start(actors.subscriber, f"{base}.>")
    wait_for(lambda: subscriber.has("open"), "it subscribed")
    publisher = stage.start(actors.publisher, base, PAUSE_S)
    rounds.flows(publisher, base)
    for index, case in enumerate(wave):
        stage.arm(stage.node, _fault(case))
        # Whoever comes has the node make links and map memory, and whoever goes give them up.
        visitor = stage.start(actors.publisher, f"{base}.v{index}", PAUSE_S)
        if case.when == "end":
            stage.node.signal(signal.SIGTERM)
        rounds.happen(stage, case, stage.node)
        visitor.signal(signal.SIGKILL)
        visitor.join()
        try:
            rounds.flows(publisher, base)
        except Broken as error:
            raise Broken(f"after {case}: {error}") from None
    publisher.end()
    rounds.check(stage, Case("", "node", "kill", 0), base, outcome, publisher, subscriber)
    subscriber.end()
