"""One round: what a node has acknowledged to keep, while it is killed in the middle of it.

Writers register agents, take registrations back, set values of the configuration, take leases, each
over plain gRPC; a follower keeps a copy by `Watch`. Victim `node` is killed and started again by
its supervisor; `supervisor` takes the node along; `drain` goes down in order (SIGTERM).

What must hold afterwards, and over all rounds on the same data folder:
- what was acknowledged is there as it was said, and what was taken back is gone; what was not
  answered is there as a whole or not at all;
- a command repeated under its request id, whatever died in between, was done once;
- fencing tokens only grow;
- who follows from a revision on has the same as who asks for all;
- what is registered can be found.
"""

from __future__ import annotations

import abc
import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from sira.testing import Node
from sira.v1 import (
    cluster_pb2,
    cluster_pb2_grpc,
    leases_pb2,
    leases_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
)

from .bus import Broken, wait_for

VICTIMS = ("node", "supervisor", "drain")
CALL_S = 10.0
AGAIN_S = 0.02
EXTRA_BYTES = (0, 100, 40_000)  # with the largest, the journal becomes a snapshot in a few rounds
VALUE_BYTES = (10, 30_000)
BATCH_MAX = 8
AGENTS_MAX = 400
KEYS = 5
GO_ON = 20  # acknowledged commands of each writer that show that it goes on
FOUND = 10  # agents that are looked for by their capability


@dataclass
class Report:
    victim: str
    acknowledged: int = 0
    unknown: int = 0
    repeated: int = 0
    agents: int = 0
    problems: list[str] = field(default_factory=list)


class Books:
    """What is known to be kept, over all rounds on one node."""

    def __init__(self) -> None:
        self.agents: dict[str, bytes] = {}
        self.values: dict[str, tuple[int, bytes]] = {}
        self.token = 0
        self.numbers = itertools.count()
        self.snapshots: set[str] = set()

    def look(self, node: Node) -> None:
        """Take note which snapshots the node has written."""
        found = Path(node.data_dir / "data" / "tables").glob("snapshot-*.sira")
        self.snapshots |= {each.name for each in found}


class Writer(threading.Thread, abc.ABC):
    """Does one kind of command after the other until it is told to end."""

    def __init__(self, node: Node, books: Books, seed: int, report: Report) -> None:
        super().__init__(name=type(self).__name__, daemon=True)
        self.node, self.books, self.report = node, books, report
        self.rng = random.Random(f"{seed} {self.name}")
        self.channel = grpc.insecure_channel(
            node.url.removeprefix("sira://"),
            options=[("grpc.max_reconnect_backoff_ms", 100), ("grpc.use_local_subchannel_pool", 1)],
        )
        self.over = threading.Event()
        self.acknowledged = self.unknown = self.repeated = 0
        self.error = ""

    def run(self) -> None:
        try:
            while not self.over.is_set():
                self.step()
        except Exception as error:  # it is told in the report
            self.error = f"{self.name}: {error!r}"

    @abc.abstractmethod
    def step(self) -> None:
        """Do one thing."""

    def end(self) -> None:
        """End in order; twice is once."""
        if self.over.is_set():
            return
        self.over.set()
        self.join()
        self.channel.close()
        self.report.acknowledged += self.acknowledged
        self.report.unknown += self.unknown
        self.report.repeated += self.repeated
        if self.error:
            self.report.problems.append(self.error)

    def until_answered(self, call: Callable[..., Any], request: Any, *, first: bool = True) -> Any:
        """Repeat a command under its request id until it is answered."""
        until_s = time.monotonic() + 60.0
        while True:
            try:
                answer = call(request, timeout=CALL_S)
            except grpc.RpcError as error:
                if error.code() not in LOST or time.monotonic() > until_s:
                    raise
                self.unknown += first
                first = False
                time.sleep(AGAIN_S)
            else:
                self.acknowledged += 1
                self.repeated += not first
                return answer


LOST = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
}


class Registrar(Writer):
    """Registers, changes and takes back agents, and never asks about one twice without knowing."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.stub = registry_pb2_grpc.RegistryStub(self.channel)
        self.open: dict[str, bytes | None] = {}  # not answered: what would be there; None: nothing

    def step(self) -> None:
        known = [name for name in self.books.agents if name not in self.open]
        is_full = len(known) >= AGENTS_MAX
        if known and self.rng.random() < (0.7 if is_full else 0.3):
            self.remove(self.rng.choice(known))
            return
        names = self.rng.sample(known, min(len(known), self.rng.randint(1, 2)))
        if not is_full:
            count = self.rng.randint(1, BATCH_MAX)
            names += [f"f{next(self.books.numbers)}" for _ in range(count)]
        self.put({name: self.rng.randbytes(self.rng.choice(EXTRA_BYTES)) for name in names})

    def put(self, extras: dict[str, bytes]) -> None:
        asked = registry_pb2.RegisterRequest()
        for name, extra in extras.items():
            one = asked.registrations.add(name=name, instance=f"{int(name[1:]):032x}")
            one.capabilities.add(name=f"does-{name}", text=f"the work of {name}")
            one.extra["n"] = extra
        self.open |= extras
        try:
            answer = self.stub.Register(asked, timeout=CALL_S)
        except grpc.RpcError as error:
            self.lost(error)
            return
        for told in answer.results:
            if told.error.code:
                if told.error.code not in ("UNREACHABLE", "NODE_DRAINING", "CONNECTION_CLOSED"):
                    raise Broken(f"{told.name}: {told.error}")
                self.unknown += 1
                continue
            self.books.agents[told.name] = extras[told.name]
            del self.open[told.name]
            self.acknowledged += 1

    def remove(self, name: str) -> None:
        self.open[name] = None
        try:
            self.stub.Deregister(registry_pb2.DeregisterRequest(name=name), timeout=CALL_S)
        except grpc.RpcError as error:
            self.lost(error)
            return
        del self.books.agents[name], self.open[name]
        self.acknowledged += 1

    def lost(self, error: grpc.RpcError) -> None:
        if error.code() not in LOST:
            raise error
        self.unknown += 1
        time.sleep(AGAIN_S)

    def settle(self, there: dict[str, bytes]) -> list[str]:
        """Compare with what is there; what was not answered is known from here on."""
        problems = []
        for name, wanted in self.open.items():
            found = there.get(name)
            if found not in (wanted, self.books.agents.get(name)):
                problems.append(f"{name} is neither as it was nor as it was asked to be")
            if found is None:
                self.books.agents.pop(name, None)
            else:
                self.books.agents[name] = found
        self.open.clear()
        return problems


class Setter(Writer):
    """Sets values, each on the version before; one whose answer was lost is set again."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.stub = cluster_pb2_grpc.ClusterStub(self.channel)

    def step(self) -> None:
        key = f"app.fault.k{self.rng.randrange(KEYS)}"
        version, _ = self.books.values.get(key, (0, b""))
        value = b'"%s"' % self.rng.randbytes(self.rng.choice(VALUE_BYTES)).hex().encode()
        request = cluster_pb2.SetConfigRequest(
            key=key, value=value, expected_version=version, request_id=f"{next(self.books.numbers)}"
        )
        made = self.until_answered(self.stub.SetConfig, request)
        if made.version != version + 1:
            raise Broken(f"{key}: version {made.version} came after {version}")
        self.books.values[key] = (made.version, value)


class Holder(Writer):
    """Takes one lease again and again."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.stub = leases_pb2_grpc.LeasesStub(self.channel)

    def step(self) -> None:
        request = leases_pb2.AcquireLeaseRequest(
            name="fault", ttl_ms=60_000, request_id=f"{next(self.books.numbers)}"
        )
        held = self.until_answered(self.stub.Acquire, request)
        if held.token <= self.books.token:
            raise Broken(f"token {held.token} came after {self.books.token}")
        self.books.token = held.token
        back = leases_pb2.ReleaseLeaseRequest(name="fault", ticket=held.ticket)
        before = self.repeated
        try:
            self.until_answered(self.stub.Release, back)
        except grpc.RpcError as error:
            # It was released, and the answer was lost.
            if error.code() != grpc.StatusCode.NOT_FOUND or self.repeated > before:
                raise


class Follower(Writer):
    """Keeps a copy of all agents by `Watch`, from the last revision on when it was cut off."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.stub = registry_pb2_grpc.RegistryStub(self.channel)
        self.copy: dict[str, bytes] = {}
        self.revision = 0
        self.call: Any = None

    def step(self) -> None:
        if not self.revision:  # cut off before all there was had been told: it begins anew
            self.copy.clear()
        self.call = self.stub.Watch(registry_pb2.RegistryWatchRequest(since=self.revision))
        try:
            for told in self.call:
                change = told.WhichOneof("change")
                if change == "put":
                    self.copy[told.put.registration.name] = told.put.registration.extra["n"]
                elif change == "removed":
                    self.copy.pop(told.removed.registration.name, None)
                elif change == "restart":
                    self.copy.clear()
                self.revision = told.revision
                self.acknowledged += 1
        except grpc.RpcError as error:
            if error.code() not in LOST:
                raise
            self.over.wait(AGAIN_S)

    def end(self) -> None:
        if self.call is not None:
            self.call.cancel()
        super().end()


def run_round(node: Node, books: Books, seed: int, victim: str) -> Report:
    """Run one round on a running node; it is running again at the end. Raises Broken."""
    report = Report(victim)
    given = (node, books, seed, report)
    registrar, follower = Registrar(*given), Follower(*given)
    writers = (registrar, Setter(*given), Holder(*given), follower)
    rng = random.Random(seed)
    try:
        for each in writers:
            each.start()
        goes_on(writers)
        time.sleep(rng.uniform(0.0, 0.3))
        before = node.pid
        if victim == "node":
            os.kill(before, signal.SIGKILL)
            wait_for(lambda: node.pid not in (0, before), "the supervisor starts another node")
        elif victim == "supervisor":
            node.kill()
            node.start()
        else:
            node.stop()
            node.start()
        goes_on(writers)
        for each in writers[:-1]:
            each.end()
        if not report.problems:
            check(node, books, report, registrar, follower)
    finally:
        for each in writers:
            each.end()
    books.look(node)
    return report


def goes_on(writers: tuple[Writer, ...]) -> None:
    before = [each.acknowledged for each in writers]

    def all_have() -> bool:
        for each in writers:
            if each.error:
                raise Broken(each.error)
        return all(
            each.acknowledged >= count + GO_ON for each, count in zip(writers, before, strict=True)
        )

    wait_for(all_have, "all writers go on")


def check(
    node: Node, books: Books, report: Report, registrar: Registrar, follower: Follower
) -> None:
    """Compare what the node has with what it said."""
    problems = report.problems
    with grpc.insecure_channel(node.url.removeprefix("sira://")) as channel:
        registry = registry_pb2_grpc.RegistryStub(channel)
        there = listed(registry)
        for name in random.Random(len(there)).sample(sorted(there), min(FOUND, len(there))):
            asked = registry_pb2.DiscoverRequest(capability=f"does-{name}")
            found = registry.Discover(asked, timeout=CALL_S)
            if [each.agent for each in found.matches] != [name]:
                problems.append(f"{name} is not found by its capability: {found.reason}")
        config = cluster_pb2_grpc.ClusterStub(channel)
        for key, (version, value) in books.values.items():
            is_ = config.GetConfig(cluster_pb2.GetConfigRequest(key=key), timeout=CALL_S)
            if (is_.version, is_.value) != (version, value):
                problems.append(f"{key} is at version {is_.version}, was set to {version}")
    report.agents = len(there)
    problems += registrar.settle(there)
    for name in sorted(books.agents.keys() | there.keys()):
        if there.get(name) != books.agents.get(name):
            was, now = told(books.agents, name), told(there, name)
            problems.append(f"{name} was acknowledged as {was}, is {now}")
    try:
        wait_for(lambda: follower.copy == there, "who follows has what who asks has")
    except Broken as error:
        every = follower.copy.keys() | there.keys()
        apart = sorted(name for name in every if follower.copy.get(name) != there.get(name))
        problems.append(f"{error}: {len(apart)} are different: {apart[:5]}")


def listed(stub: Any) -> dict[str, bytes]:
    """Return all agents there are, with their extras."""
    there: dict[str, bytes] = {}
    page = ""
    while True:
        asked = registry_pb2.ListAgentsRequest(page_token=page, limit=100)
        answer = stub.List(asked, timeout=CALL_S)
        for each in answer.agents:
            there[each.registration.name] = each.registration.extra["n"]
        page = answer.next_page_token
        if not page:
            return there


def told(agents: dict[str, bytes], name: str) -> str:
    return f"{len(agents[name])} bytes" if name in agents else "gone"
