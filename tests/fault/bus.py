"""One round: a node, a publisher, two subscribers, a group; one is killed at some moment.

In every other four rounds the publisher hears itself as well. Victim `drain` is the node, told to
go down in order (SIGTERM) and started again.

What must hold, whoever dies (numbers are the publisher's):
- the node's ledger balances, and when all who live have gone on, nothing is pending;
- nobody gets a message twice, nor a changed one, nor out of order (what a dead member had not been
  sent comes to the other one later than newer messages that this one already had; what a draining
  node refused comes when it is sent again);
- who lives and was subscribed all along gets every message that was accepted, also the group as a
  whole, but for what the ledger counts as PEER_LOST with the member that died, and the message
  that it had in hand;
- a node that goes down in order has delivered all that it accepted, and its receipts were heard;
- a message whose fate the publisher does not know is one that it names (`UNKNOWN` below).
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import psutil

import sira
from sira.testing import Node

WATCHDOG_S = 60.0
VICTIMS = ("subscriber", "member", "publisher", "node", "supervisor", "drain")
LANES = ("grpc", "socket", "shm", "direct")
# `shm`: every message is a tensor by reference, however small it is. `direct`: past the node where
# that can be, which needs a group of one.
ENVIRONMENT = {
    "grpc": {},
    "socket": {"SIRA_DIRECT": "off"},
    "shm": {"SIRA_DIRECT": "off", "SIRA_SHM_BYTES_MIN": "1"},
    "direct": {"SIRA_DIRECT": "on"},
}
NODE_VICTIMS = ("node", "supervisor")
SIZES = (16, 64, 4_000, 150_000)  # floats; the last is a large message, sent in chunks
SMALL_FLOATS = 5_000
# A subscriber writes each message down before it takes the next one. When it is killed between the
# two, this one was delivered, and the node may have heard of that: no more than one can be so.
IN_HAND = 1
UNKNOWN = {"OUTCOME_UNKNOWN", "UNREACHABLE", "TIMEOUT", "CONNECTION_CLOSED"}


class Broken(AssertionError):
    """A promise did not hold."""


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = WATCHDOG_S) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until:
            raise Broken(f"not in {timeout_s:g} s: {what}")
        time.sleep(0.01)


class Actor:
    """A process of actors.py and the lines that it wrote."""

    def __init__(self, name: str, *arguments: str, lane: str) -> None:
        self.name = name
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fault.actors", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **ENVIRONMENT[lane]},
        )
        self._threads = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        self.errors = b""
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.decode().rstrip("\n"))

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors = self.process.stderr.read()

    def said(self, word: str) -> bool:
        if self.process.poll() not in (None, 0, -signal.SIGKILL):
            raise Broken(f"{self.name} ended: {self.errors.decode(errors='replace')[-2000:]}")
        return word in self.lines

    def numbers(self, word: str) -> list[int]:
        return [int(line.split()[1]) for line in list(self.lines) if line.startswith(word + " ")]

    def receipts(self) -> list[tuple[int, int]]:
        """Return the number and the matches of each accepted message."""
        words = [line.split() for line in self.lines if line.startswith("accepted ")]
        return [(int(number), int(matched)) for _, number, matched, _ in words]

    def count(self, lane: str) -> int:
        """Return how many messages were accepted on a lane."""
        return sum(
            line.startswith("accepted ") and line.endswith(f" {lane}") for line in self.lines
        )

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(WATCHDOG_S)
        for thread in self._threads:
            thread.join(WATCHDOG_S)
        assert self.process.stdout is not None and self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()


@dataclass
class Report:
    victim: str
    sent: int = 0
    accepted: int = 0
    unknown: int = 0
    delivered: int = 0
    peer_lost: int = 0
    direct: int = 0  # accepted past the node, as far as their receipts tell it
    problems: list[str] = field(default_factory=list)


def check_order(name: str, got: list[int], problems: list[str], *, inherits: bool) -> None:
    if len(set(got)) != len(got):
        problems.append(
            f"{name} got messages twice: {sorted(n for n in got if got.count(n) > 1)[:5]}"
        )
    if got != sorted(got) and not inherits:
        problems.append(f"{name} got messages out of order")


def url_of(node: Node, lane: str) -> str:
    """Where a node is reached by a way of LANES."""
    return node.url if lane == "grpc" else node.socket_url


def run_round(node: Node, seed: int, victim: str, *, lane: str = "grpc") -> Report:
    """Run one round on a running node; the node is running again at the end. Raises Broken."""
    rng = random.Random(seed)
    topic = f"fault.r{seed}"
    floats = rng.choice(SIZES)
    common = ("--url", url_of(node, lane), "--topic", topic)
    actor = partial(Actor, lane=lane)
    steady = actor("steady", "subscribe", *common)
    mortal = actor("mortal", "subscribe", *common)
    members = [
        actor(f"member{i}", "subscribe", *common, "--group", "g")
        for i in range(1 if lane == "direct" else 2)
    ]
    subscribers = [steady, mortal, *members]
    everyone = list(subscribers)
    hears = seed // 4 % 2 == 0
    report = Report(victim)
    try:
        for each in subscribers:
            wait_for(lambda a=each: a.said("ready"), f"{each.name} subscribed")
        at_once = 32 if floats < 10_000 else 4
        publisher = actor(
            "publisher", "publish", *common,
            "--at-once", str(at_once), "--payload-floats", str(floats),
            *(("--hears",) if hears else ()),
        )  # fmt: skip
        everyone.append(publisher)
        wait_for(lambda: bool(publisher.numbers("accepted")), "the first message is accepted")
        time.sleep(rng.uniform(0.0, 0.4))
        chosen = {"subscriber": mortal, "member": members[0], "publisher": publisher}.get(victim)
        if chosen is not None:
            chosen.end(signal.SIGKILL)
        elif victim == "node":
            os.kill(node.pid, signal.SIGKILL)  # its supervisor starts it again
        elif victim == "drain":
            node.stop()
            node.start()
        else:
            node.kill()
            node.start()
        time.sleep(rng.uniform(0.05, 0.3))
        if victim != "publisher":
            if victim in (*NODE_VICTIMS, "drain"):
                again = len(publisher.numbers("accepted"))
                wait_for(
                    lambda: len(publisher.numbers("accepted")) > again + 10, "it publishes again"
                )
            publisher.end()
            if not publisher.said("done"):
                raise Broken("the publisher did not finish")
        if lane == "direct" and floats < SMALL_FLOATS:  # of a large one `shm` tells less
            report.direct = publisher.count("shm")
        settle(node, topic)
        for each in subscribers:
            if each is not chosen:
                each.end()
        check(
            node, topic, report, publisher, steady, mortal, members, chosen,
            hears=hears, is_direct=lane == "direct",
        )  # fmt: skip
    finally:
        for each in everyone:
            each.end(signal.SIGKILL)
    return report


def settle(node: Node, topic: str) -> None:
    """Until all that is owed is settled: who lives confirms within half a second."""
    with sira.connect_sync(node.url) as bus:
        wait_for(
            lambda: all(row.pending == 0 for row in bus.ledger(topic)),
            "nothing is pending any more",
        )


def check(
    node: Node,
    topic: str,
    report: Report,
    publisher: Actor,
    steady: Actor,
    mortal: Actor,
    members: list[Actor],
    chosen: Actor | None,
    *,
    hears: bool,
    is_direct: bool,
) -> None:
    problems = report.problems
    accepted = publisher.numbers("accepted")
    report.sent, report.accepted = len(publisher.numbers("sent")), len(accepted)
    outcomes = {
        line.split()[0]
        for line in publisher.lines
        if line not in ("ready", "done") and not line.startswith(("sent", "accepted", "got"))
    }
    report.unknown = sum(len(publisher.numbers(code)) for code in outcomes)
    if outcomes - UNKNOWN:
        problems.append(f"the publisher was refused: {sorted(outcomes - UNKNOWN)}")
    for actor in (steady, mortal, *members, publisher):
        # What a node refused because it goes down is sent again when each one's own wait is over.
        inherits = report.victim == "drain" or (actor in members and report.victim == "member")
        check_order(actor.name, actor.numbers("got"), problems, inherits=inherits)
        if actor.numbers("CORRUPT"):
            problems.append(f"{actor.name} got changed messages {actor.numbers('CORRUPT')[:5]}")
    with sira.connect_sync(node.url) as bus:
        ledger = bus.ledger(topic)
        if not ledger.balanced:
            problems.append(f"the ledger does not balance: {ledger.rows}")
        row = next(iter(ledger), None)
    if row is None:
        if report.victim not in NODE_VICTIMS or not is_direct:  # all went past the new one
            problems.append("the node has no row of the topic")
        return
    report.delivered = row.delivered
    report.peer_lost = row.dropped.get("PEER_LOST", 0)
    explained = {"PEER_LOST", "UNSUBSCRIBED"}
    if report.victim in (*NODE_VICTIMS, "drain"):
        explained.add("NO_MATCH")  # the publisher came back before the subscribers did
    strange = set(row.dropped) - explained
    if strange:
        problems.append(f"deliveries were dropped for {sorted(strange)}")
    group = sorted(number for member in members for number in member.numbers("got"))
    if len(set(group)) != len(group):
        problems.append("two members of the group got the same message")
    if report.victim in NODE_VICTIMS:
        # What the old node had taken and not delivered died with it; the new one owes only its own.
        return
    if report.victim == "drain":
        # Those that found every subscriber there; others were accepted before all were back.
        matches = {n: m for n, m in publisher.receipts() if m}
        accepted = [n for n, m in matches.items() if m == max(matches.values())]
    complete = [("steady", set(steady.numbers("got")))]
    if hears and report.victim != "publisher":
        complete.append(("the publisher", set(publisher.numbers("got"))))
    if report.victim != "subscriber":
        complete.append(("mortal", set(mortal.numbers("got"))))
    if report.victim != "member":
        complete.append(("the group", set(group)))
    for name, got in complete:
        missing = set(accepted) - got
        if missing:
            problems.append(
                f"{name} did not get {len(missing)} accepted messages: {sorted(missing)[:5]}"
            )
    if report.victim == "member" and len(members) > 1:  # else nobody is owed what came after
        missing = set(accepted) - set(group)
        if len(missing) > report.peer_lost + IN_HAND:
            problems.append(
                f"the group misses {len(missing)} messages, {report.peer_lost} are accounted for, "
                f"and {IN_HAND} may have been in hand"
            )


@dataclass(frozen=True)
class Resources:
    """What a process holds. Counted between rounds, when nobody is connected."""

    descriptors: int
    threads: int
    rss_bytes: int

    @classmethod
    def of(cls, pid: int) -> Resources:
        process = psutil.Process(pid)
        return cls(process.num_fds(), process.num_threads(), process.memory_info().rss)


def environment_note() -> str:
    return f"python {sys.version.split()[0]}, {os.cpu_count()} cpus"
