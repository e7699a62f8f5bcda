"""One suite, run against a node in this process and against a real one, by each way to it.

Ways to a real node: `node` is gRPC, `socket` its Unix socket, where large messages go by reference;
`shm` the same with every message that has a byte, `copied` with none; `direct`: past the node where
that can be, as it is by default in tests that do not run on all of these; `mixed`: each other bus
is on gRPC, the others as with `shm`. A test runs on the ways that can tell something of it, see
`ways_of`. Async tests run on uvloop under a watchdog. Each test has topics of its own, so that a
real node can serve them all.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import uvloop

import sira
import sira.testing
from sira.client.sync import SyncBus

WATCHDOG_S = 120.0
# Whose messages also go by reference, whatever their size.
_BY_REFERENCE = {
    "test_publish_subscribe", "test_delivery", "test_requests", "test_sync_twin", "test_books",
    "test_capabilities",
}  # fmt: skip
# Of what a node in this process has not got.
_NEEDS_A_NODE = {"test_capabilities"}
# And also to or from a bus that is on another way; the twin only waits for what the others do.
_MIXED = _BY_REFERENCE - {"test_sync_twin", "test_capabilities"}
_A_BUS = re.compile(r"\bworld\.(bus|sync)\(")
# Short queues, so that few messages fill them: what happens then is the same.
_QUEUES: dict[str, object] = {"queue_messages_max": 1_024, "publish_held_messages_max": 1_024}
_ENVIRONMENT = {
    "shm": {"SIRA_SHM_BYTES_MIN": "1"},
    "direct": {"SIRA_SHM_BYTES_MIN": "1", "SIRA_DIRECT": "on"},
    "mixed": {"SIRA_SHM_BYTES_MIN": "1"},
    "copied": {"SIRA_SHM": "off"},
}
_numbers = itertools.count(1)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run coroutine tests; whatever a test leaves behind on the loop is an error."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    wanted = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in wanted}
    faults: list[dict[str, Any]] = []

    async def guarded() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: faults.append(context))
        async with asyncio.timeout(WATCHDOG_S):
            await pyfuncitem.obj(**arguments)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(guarded())
    assert not [fault for fault in faults if not _is_poller_noise(fault)], faults
    return True


def _is_poller_noise(context: dict[str, Any]) -> bool:
    """Whether gRPC's poller met another loop of this process; see `sira.client.runner`."""
    return "PollerCompletionQueue" in str(context.get("message")) + repr(context.get("handle"))


class World:
    """Where a test runs: makes buses that are all connected to one node."""

    def __init__(self, kind: str, node: sira.testing.Node | None) -> None:
        self.kind = kind
        self.node = node
        self._local = None if node is not None else sira.testing.LocalNode(**_QUEUES)
        self._buses = 0

    def bus(self, **settings: Any) -> sira.Bus:
        if self.node is not None:
            return sira.connect(self.url, **settings)
        assert self._local is not None
        return sira.testing.LocalBus(self._local, **settings)

    @property
    def lanes(self) -> list[str]:
        """Give the lanes of a message that has a byte, sent by the first bus."""
        return [
            {
                "shm": "shm",
                "direct": "shm",
                "mixed": "shm",
                "socket": "socket",
                "copied": "socket",
            }.get(self.kind, "grpc")
        ]

    @property
    def lane_to(self) -> str:
        """Give the lane that a subscription of the first bus is served by."""
        return {"copied": "socket", "local": "grpc", "node": "grpc"}.get(self.kind, "shm")

    def sync(self, **settings: Any) -> SyncBus:
        return (
            SyncBus(self.bus(message_type=sira.SyncMessage, **settings))
            if (self.node is None)
            else sira.connect_sync(self.url, **settings)
        )

    @property
    def url(self) -> str:
        """Where the node is reached next. Requires: it is a process."""
        assert self.node is not None
        self._buses += 1
        by_grpc = self.kind == "node" or (self.kind == "mixed" and self._buses % 2 == 0)
        return self.node.url if by_grpc else self.node.socket_url


@pytest.fixture(scope="session")
def real_node() -> Iterator[sira.testing.Node]:
    with sira.testing.node(**_QUEUES) as node:
        yield node


def ways_of(module: str, source: str, *, large: bool) -> list[str]:
    """Return the ways that can tell something of a test; the rest would be one of these again.

    Args:
        module: the test's.
        source: of the test: one that has a single bus is no mixture.
        large: it sends 64 KiB and more; what is smaller is copied on `socket` too.
    """
    ways = ["node", "socket"] if module in _NEEDS_A_NODE else ["local", "node", "socket"]
    if module in _BY_REFERENCE:
        ways += ["shm", "direct"]
        if module in _MIXED and len(_A_BUS.findall(source)) > 1:
            ways.append("mixed")
        if large:
            ways.append("copied")
    return ways


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "world" in metafunc.fixturenames:
        large = any(mark.name == "large" for mark in metafunc.definition.iter_markers())
        module = metafunc.module.__name__.rpartition(".")[2]
        ways = ways_of(module, inspect.getsource(metafunc.function), large=large)
        metafunc.parametrize("world", ways, indirect=True)


@pytest.fixture
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> World:
    node = request.getfixturevalue("real_node") if request.param != "local" else None
    if request.module.__name__.rpartition(".")[2] in _BY_REFERENCE:  # each way by itself
        monkeypatch.setenv("SIRA_DIRECT", "off")
    for variable, value in _ENVIRONMENT.get(request.param, {}).items():
        monkeypatch.setenv(variable, value)
    return World(request.param, node)


@pytest.fixture(params=["node", "socket"])
def reach(request: pytest.FixtureRequest) -> Callable[[sira.testing.Node], str]:
    """Give the URL of a node of the test's own, by each of the ways to it."""
    return lambda node: node.socket_url if request.param == "socket" else node.url


@pytest.fixture
def topic() -> str:
    """A topic that no other test uses."""
    return f"contract.t{next(_numbers)}"


@pytest.fixture
def until() -> Callable[..., Awaitable[Any]]:
    """Wait for a condition: `await until(lambda: ...)`; the watchdog ends it."""

    async def wait(condition: Callable[[], Any]) -> Any:
        while True:
            found = condition()
            if inspect.isawaitable(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.005)

    return wait


@pytest.fixture
def accounted() -> Callable[..., Awaitable[sira.LedgerRow]]:
    """Wait until nothing of a topic is pending; return its row, which must balance."""

    async def wait(bus: sira.Bus, topic: str) -> sira.LedgerRow:
        while True:
            ledger = await bus.ledger(topic)
            assert ledger.balanced
            row = ledger[topic]
            if row.pending == 0:
                return row
            await asyncio.sleep(0.01)

    return wait
