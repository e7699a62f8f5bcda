"""One case: a process is killed, stopped or ended at a pass of a point, and what must hold then.

Whoever it is:
- the pair beside goes on, and loses nothing;
- who lives and subscribed gets, once and in order, every message that was accepted (but for what a
  node had taken when it died), and views of dead publishers' memory read what was written;
- the node's ledger balances, what was dropped was dropped for a reason that the case explains;
- no memory, link, segment or chunk of the dead is left: with the node, or with who lent to them;
- nothing is left in /dev/shm.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.fault.bus import UNKNOWN, Broken

from . import actors
from .stage import BESIDE, PAUSE_S, Actor, Sent, Stage, wait_for

ROLES = ("publisher", "subscriber", "node")
ACTIONS = {
    "kill": signal.SIGKILL,
    "stop": signal.SIGSTOP,  # and on
    "stop_kill": signal.SIGSTOP,
    "exit": signal.SIGTERM,  # in order
}
DEATHS_MAX = 20
VISITS_MAX = 20
DEATH_S = 5.0  # in which what a death has a publisher do is done, on most machines
GO_ON = 10  # messages that show that a pair goes on
SLOT_FLOATS_MAX = 32  # a message of so few goes in a slot: "shm" is past the node then
# What a publisher surely does when a reader dies that had left something unread.
AT_DEATH = {
    "gone.sent", "route.left", "route_left.sent",
    "segment.retired", "withdraw.announced", "withdraw.committed",
}  # fmt: skip
EXPLAINED = {"PEER_LOST", "UNSUBSCRIBED", "NO_MATCH"}


@dataclass(frozen=True)
class Case:
    """What happens to whom, and where."""

    point: str
    role: str
    action: str
    count: int
    # Reached there; "death": after that of a reader; "orphan": when its publisher has ended;
    # "end": of the process.
    when: str = "flow"

    @property
    def goes_on(self) -> bool:
        """Whether it is there afterwards as it was before."""
        return self.action == "stop" and self.when != "end"


@dataclass
class Outcome:
    problems: list[str] = field(default_factory=list)
    accepted: int = 0
    got: int = 0


def census(stage: Stage) -> dict[str, dict[str, tuple[str, int]]]:
    """Return for each role which points it passes, when, and how often it surely does so then."""
    readers = [stage.start(actors.subscriber, f"walk.census.{each}") for each in (">", "d")]
    for each in readers:
        wait_for(lambda a=each: a.has("open"), "it subscribed")
    subscriber, mortal = readers
    publisher = stage.start(actors.publisher, "walk.census", PAUSE_S)
    clients = (publisher, subscriber, stage.node)
    flows(publisher, "walk.census")
    begun = passes(clients)
    flows(publisher, "walk.census")
    in_flow = passes(clients)
    die_unread(
        stage, publisher, mortal, "walk.census",
        lambda: set(passes((publisher,))[0]) >= AT_DEATH,
    )  # fmt: skip
    flows(publisher, "walk.census")
    at_death = passes(clients)
    publisher.end()
    wait_for(
        lambda: "link_over.came" in passes((subscriber,))[0], "it hears that nobody writes any more"
    )
    (orphaned,) = passes((subscriber,))
    subscriber.end()
    stage.bus.close()
    for each in (stage.bystander, *stage.beside):
        each.end()
    stage.node.end()
    found: dict[str, dict[str, tuple[str, int]]] = {}
    for index, role in enumerate(ROLES):
        others_die = role == "publisher"  # what the other roles first pass late only takes longer
        at_end = clients[index].passes["end"]
        found[role] = {point: ("end", count) for point, count in at_end.items()}
        if role == "subscriber":
            found[role].update({point: ("orphan", count) for point, count in orphaned.items()})
        for point, count in at_death[index].items():
            found[role][point] = ("death", count) if others_die else ("flow", 1)
        for point, count in in_flow[index].items():
            # On a slow machine a route is left in between, too; once is no promise of another time.
            if not (others_die and point in AT_DEATH):
                found[role][point] = ("flow", count - begun[index].get(point, 0) or 1)
    return found


def passes(clients: tuple[Actor, ...]) -> list[dict[str, int]]:
    for each in clients:
        each.passes.clear()
        each.signal(signal.SIGUSR2)
        wait_for(lambda a=each: "asked" in a.look().passes, "it says what it passed")
    return [each.passes["asked"] for each in clients]


def die_unread(
    stage: Stage, publisher: Actor, reader: Actor, base: str, is_reached: Callable[[], bool]
) -> None:
    """Kill one reader after the other until that has had the publisher do what is waited for.

    One death may not do: a publisher that leaves its route in between leaves the rest to the node.
    """
    topic = f"{base}.d"
    for _ in range(DEATHS_MAX):
        leave_unread(publisher, reader, topic)
        with contextlib.suppress(Broken):
            wait_for(is_reached, "a reader's death shows", timeout_s=DEATH_S)
            return
        reader = stage.start(actors.subscriber, topic)
        wait_for(lambda r=reader: r.has("open"), "it subscribed")
        flows(publisher, base, victim=publisher)
    raise Broken(f"{DEATHS_MAX} readers died, and nothing came of it")


def leave_unread(publisher: Actor, reader: Actor, topic: str) -> None:
    """Kill a reader that has left something unread in its link."""
    reader.signal(signal.SIGSTOP)
    wait_for(lambda: reader.is_stopped, "the reader is stopped")
    before = len(publisher.look().ok[topic])
    wait_for(
        lambda: (
            len(publisher.look().ok[topic]) >= before + GO_ON
            or "flow" in publisher.passes  # it ends, and waits for what the reader has
            or publisher.is_over
            or publisher.is_stopped
        ),
        "it publishes on",
    )
    reader.signal(signal.SIGKILL)
    reader.join()


def flows(publisher: Actor, base: str, *, victim: Actor | None = None) -> None:
    """Wait until all that a publisher does is under way, past the node, too; or it is struck."""
    topic = f"{base}.d"
    before = len(publisher.look().ok[topic])

    def goes() -> bool:
        publisher.look()
        is_over = publisher.is_over
        if publisher is victim and (is_over or publisher.is_stopped):
            return True
        if is_over:
            raise Broken(f"{publisher.path.stem} ended with {publisher.process.exitcode}")
        new = publisher.ok[topic][before:]
        return (
            len(new) >= 3 * GO_ON
            and sum(past_node(topic, each) for each in new) >= GO_ON
            and len(publisher.ok[f"{base}.n"]) >= GO_ON
        )

    wait_for(goes, f"{base} flows past the node")


def is_small(number: int) -> bool:
    return actors.FLOATS[number % len(actors.FLOATS)] <= SLOT_FLOATS_MAX


def past_node(topic: str, sent: Sent) -> bool:
    """Whether it surely went past the node; of a chunk the receipt does not tell."""
    return topic.endswith(".d") and sent.lane == "shm" and is_small(sent.number)


def run(stage: Stage, number: int, case: Case) -> Outcome:
    """Run one case; the stage is whole again at the end. Raises Broken: something stands still."""
    outcome = Outcome()
    base = f"walk.c{number}"
    fault = actors.Fault(case.point, case.count, ACTIONS[case.action])
    debris = set(os.listdir("/dev/shm"))
    beside_before = stage.beside_got()
    subscriber = stage.start(
        actors.subscriber, f"{base}.>", fault=fault if case.role == "subscriber" else None
    )
    wait_for(lambda: subscriber.has("open") or subscriber.is_over, "it subscribed")
    if case.role == "node":  # not before: who subscribes waits for the node no longer than 5 s
        stage.arm(stage.node, fault)
    publisher = stage.start(
        actors.publisher, base, PAUSE_S, fault=fault if case.role == "publisher" else None
    )
    victim = {"publisher": publisher, "subscriber": subscriber, "node": stage.node}[case.role]
    if case.when != "flow":
        flows(publisher, base, victim=victim)
    if case.when == "end":
        victim.signal(signal.SIGTERM)
    elif case.when == "orphan":
        publisher.end()
    elif case.when == "death" and not (victim.is_over or victim.is_stopped):
        die_unread(stage, publisher, subscriber, base, lambda: victim.is_over or victim.is_stopped)
    if case.role == "node" and case.when == "flow":
        visit(stage, base)
    happen(stage, case, victim)

    if case.role != "publisher" and case.when != "orphan":
        flows(publisher, base)
    beside = stage.beside_got()
    wait_for(lambda: stage.beside_got() >= beside + GO_ON, "the pair beside goes on")
    if case.goes_on and case.role == "publisher":
        flows(publisher, base)
    for each in (publisher, subscriber):
        if not each.is_over:
            each.end()
    check(stage, case, base, outcome, publisher, subscriber)
    if stage.beside_got() <= beside_before:
        outcome.problems.append("the pair beside did not go on")
    left = set(os.listdir("/dev/shm")) - debris

    def is_gone() -> bool:  # others of this machine may have memory of their own there for a while
        left.intersection_update(os.listdir("/dev/shm"))
        return not left

    try:
        wait_for(is_gone, "nothing new is in /dev/shm")
    except Broken:
        outcome.problems.append(f"left in /dev/shm: {sorted(left)}")
    return outcome


def visit(stage: Stage, base: str) -> None:
    """Have publishers come and be killed until the node is struck: it makes links and ends them."""
    node = stage.node
    for number in range(VISITS_MAX):
        topic = f"{base}v{number}.d"
        visitor = stage.start(actors.publisher, f"{base}v{number}", PAUSE_S)
        with contextlib.suppress(Broken):
            wait_for(
                lambda v=visitor, t=topic: (
                    node.is_over or node.is_stopped or len(v.look().ok[t]) >= GO_ON
                ),
                "it publishes",
                timeout_s=DEATH_S,
            )
        visitor.signal(signal.SIGKILL)
        visitor.join()
        with contextlib.suppress(Broken):
            wait_for(lambda: node.is_over or node.is_stopped, "it is struck", timeout_s=1.0)
            return


def happen(stage: Stage, case: Case, victim: Actor) -> None:
    """Wait for it, and do what is to be done with a process that was stopped."""
    wait_for(lambda: is_struck(case, victim), f"{case} is reached")
    if victim.is_stopped and case.role != "node":
        before = stage.beside_got()
        wait_for(
            lambda: stage.beside_got() >= before + GO_ON,
            "the pair beside goes on while another one is stopped",
        )
    struck_on(case, victim)
    if case.role == "node" and victim.is_over:
        stage.start_node_again()


def is_struck(case: Case, victim: Actor) -> bool:
    """Whether it is dead, or stopped. Raises Broken: it ended in another way."""
    if ACTIONS[case.action] == signal.SIGSTOP:
        return victim.is_stopped
    if case.action == "kill" and victim.is_over and victim.process.exitcode != -signal.SIGKILL:
        raise Broken(f"{case}: it ended with {victim.process.exitcode}")
    return victim.is_over


def struck_on(case: Case, victim: Actor) -> None:
    """Let one that was stopped go on, or kill it."""
    if victim.is_over:
        return
    victim.signal(signal.SIGCONT if case.action == "stop" else signal.SIGKILL)
    if not case.goes_on:
        victim.join()


def check(
    stage: Stage, case: Case, base: str, outcome: Outcome, publisher: Actor, subscriber: Actor
) -> None:
    problems = outcome.problems
    node_died = case.role == "node" and not case.goes_on
    bystander = stage.bystander
    for topic in (f"{base}.d", f"{base}.n"):
        _settle(stage, topic)
        publisher.look(), subscriber.look(), bystander.look()
        accepted = publisher.ok[topic]
        outcome.accepted += len(accepted)
        refused = {code for code in publisher.no[topic].values()}
        if refused - (UNKNOWN if node_died else set()):
            problems.append(f"{topic}: refused for {sorted(refused)}")
        readers = [("the bystander", bystander)]
        if case.when != "death" and (case.role != "subscriber" or case.goes_on):
            readers.append(("the subscriber", subscriber))
        for name, reader in readers:
            got = reader.got[topic]
            outcome.got += len(got)
            if got != sorted(set(got)):
                problems.append(f"{topic}: {name} got messages twice, or out of order")
            if set(got) - set(range(publisher.sent[topic])):
                problems.append(f"{topic}: {name} got what nobody sent")
            owed = [each.number for each in accepted if each.matched >= 2]
            if node_died:  # what it had taken died with it
                owed = [
                    each.number for each in accepted if each.matched >= 2 and past_node(topic, each)
                ]
            if missing := set(owed) - set(got):
                problems.append(
                    f"{topic}: {name} misses {len(missing)} of {len(owed)}: {sorted(missing)[:5]}"
                )
    for each in (publisher, subscriber, bystander, *stage.beside):
        problems.extend(each.look().wrong)
        each.wrong.clear()
    check_books(stage, case, base, outcome)
    try:
        wait_for(lambda: not stage.memory(base), "all memory is back")
    except Broken:
        problems.append(f"memory is left: {stage.memory(base)}")


def _settle(stage: Stage, topic: str) -> None:
    """Until all that is owed is settled."""

    def settled() -> bool:
        ledger = stage.ledger(topic)
        return ledger is not None and all(row.pending == 0 for row in ledger)

    try:
        wait_for(settled, f"nothing is pending on {topic}")
    except Broken as error:
        raise Broken(f"{error}: {stage.ledger(topic)}; {stage.memory('walk')}") from None


def check_books(stage: Stage, case: Case, base: str, outcome: Outcome) -> None:
    ledger = stage.ledger(f"{base}.>")
    if ledger is None or not ledger.balanced:
        outcome.problems.append(f"the ledger does not balance: {ledger and ledger.rows}")
        return
    for row in ledger.rows:
        if strange := set(row.dropped) - EXPLAINED:
            outcome.problems.append(f"{row.topic}: dropped for {sorted(strange)}")
        if case.goes_on and case.when == "flow" and row.dropped and row.topic[-1] == "d":
            outcome.problems.append(f"{row.topic}: {row.dropped}, and nobody died")


def end_beside(stage: Stage) -> list[str]:
    """End the pair beside; return what it has lost."""
    reader, publisher = stage.beside
    publisher.end()
    with contextlib.suppress(Broken):  # it is told what is wrong
        wait_for(lambda: not check_beside(stage), "the last messages have come")
    reader.end()
    return check_beside(stage)


def check_beside(stage: Stage) -> list[str]:
    """At the end of all cases: has the pair beside lost anything, but what dead nodes had?"""
    subscriber, publisher = (each.look() for each in stage.beside)
    problems = []
    for way in "dn":
        topic = f"{BESIDE}.{way}"
        got = subscriber.got[topic]
        accepted = {
            each.number
            for each in publisher.ok[topic]
            if not stage.node_died or past_node(topic, each)
        }
        if got != sorted(set(got)):
            problems.append(f"{topic}: twice, or out of order")
        if missing := accepted - set(got):
            problems.append(f"{topic}: misses {len(missing)}: {sorted(missing)[:5]}")
        if publisher.no[topic] and not stage.node_died:
            problems.append(f"{topic}: refused {publisher.no[topic]}")
    return problems
