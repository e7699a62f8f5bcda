"""Requests of the synchronous SDK past the node: of one thread, of several, of signal handlers."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import pytest

import sira
import sira.testing

pytestmark = pytest.mark.integration
WATCHDOG_S = 120.0


@pytest.fixture
def topic(node: sira.testing.Node, request: pytest.FixtureRequest) -> Iterator[str]:
    """Answer what is asked there with the same, but for b"late": that takes half a second."""
    name = f"threads.{abs(hash(request.node.name))}"
    with sira.connect_sync(node.socket_url) as connected, ThreadPoolExecutor() as threads:
        messages = connected.subscribe(name).open()

        def serve() -> None:
            for message in messages:
                if message.bytes == b"late":
                    time.sleep(0.5)
                message.reply(message.bytes)

        served = threads.submit(serve)
        yield name
        connected.close()
        served.result(WATCHDOG_S)


@pytest.fixture
def interrupted() -> Iterator[Callable[[Callable[[], Any]], None]]:
    """Have the main thread do something in a handler of signals, a tenth of a second from now."""
    before = signal.getsignal(signal.SIGUSR1)
    timers: list[threading.Timer] = []

    def interrupt(work: Callable[[], Any]) -> None:
        def handler(_number: int, _frame: FrameType | None) -> None:
            work()

        signal.signal(signal.SIGUSR1, handler)
        main = threading.main_thread().ident
        assert main is not None
        timers.append(threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGUSR1)))
        timers[-1].start()

    yield interrupt
    for each in timers:
        each.join(WATCHDOG_S)
    signal.signal(signal.SIGUSR1, before)


def ask_past(bus: sira.SyncBus, topic: str) -> None:
    """Ask until it goes past the node."""
    until_s = time.monotonic() + WATCHDOG_S
    while bus.request(topic, b"x", timeout_s=WATCHDOG_S).context != "shm":
        assert time.monotonic() < until_s, "every request went by the node"


def test_threads_that_ask_at_once_each_get_their_own_answers(bus: sira.SyncBus, topic: str) -> None:
    def ask(number: int) -> None:
        for turn in range(300):
            body = b"%d of %d" % (turn, number)
            assert bus.request(topic, body, timeout_s=WATCHDOG_S).bytes == body

    ask_past(bus, topic)
    with ThreadPoolExecutor() as threads:
        for each in [threads.submit(ask, number) for number in range(4)]:
            each.result(WATCHDOG_S)
    assert bus._bus._requests is not None
    assert not bus._bus._requests._pending


def test_what_a_handler_of_signals_raises_ends_a_request_that_leaves_nothing(
    bus: sira.SyncBus, topic: str, interrupted: Callable[[Callable[[], Any]], None]
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    ask_past(bus, topic)
    interrupted(stop)
    with pytest.raises(KeyboardInterrupt):
        bus.request(topic, b"late", timeout_s=WATCHDOG_S)
    assert bus._bus._requests is not None
    assert not bus._bus._requests._pending
    assert bus.request(topic, b"next", timeout_s=WATCHDOG_S).bytes == b"next"


def test_a_handler_of_signals_may_ask_while_its_thread_waits(
    bus: sira.SyncBus, topic: str, interrupted: Callable[[Callable[[], Any]], None]
) -> None:
    """Twice: the second one comes while the thread waits by the long way."""
    got: list[bytes] = []

    def ask() -> None:
        got.append(bus.request(topic, b"asked", timeout_s=WATCHDOG_S).bytes)
        if len(got) < 2:
            interrupted(ask)

    ask_past(bus, topic)
    interrupted(ask)
    assert bus.request(topic, b"late", timeout_s=WATCHDOG_S).bytes == b"late"
    assert got[0] == b"asked"
    until_s = time.monotonic() + WATCHDOG_S
    while len(got) < 2:
        assert time.monotonic() < until_s
        time.sleep(0.01)
    assert got == [b"asked"] * 2
