"""Loans of the synchronous SDK past the node: in the thread that makes them, without the loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import sira
import sira.testing
from sira.client.loan import SyncLoan
from sira.client.runner import Runner

pytestmark = pytest.mark.integration
SPEC = {"x": "u8[1048576]"}
WATCHDOG_S = 120.0


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often this thread has had the loop do something, counted in the only element."""
    counted, run, here = [0], Runner.run, threading.get_ident()

    def count(self: Runner, *args: Any) -> Any:
        counted[0] += threading.get_ident() == here
        return run(self, *args)

    monkeypatch.setattr(Runner, "run", count)
    return counted


@pytest.fixture
def served(node: sira.testing.Node) -> Iterator[Callable[[str, threading.Event], None]]:
    """Answer requests on a topic with their first byte, in a thread; 9 once an event is set."""
    with sira.connect_sync(node.socket_url) as connected, ThreadPoolExecutor() as threads:

        def begin(topic: str, goes_on: threading.Event) -> None:
            messages = connected.subscribe(topic)

            def serve() -> None:
                for message in messages:
                    first = bytes(message["x"][:1])
                    assert first != b"\t" or goes_on.wait(WATCHDOG_S)
                    message.reply(first)

            done.append(threads.submit(serve))

        done: list[Any] = []
        yield begin
        connected.close()
        for each in done:
            each.cancel()


def lend(bus: sira.SyncBus, topic: str, value: int, *, request: bool = False) -> SyncLoan:
    with bus.loan(topic, SPEC, request=request, timeout_s=WATCHDOG_S) as out:
        out["x"][:1] = value
    return out


def ask_past(bus: sira.SyncBus, topic: str, turns: list[int]) -> SyncLoan:
    """Ask until the loop has no part in it; the loan, whose reply is still to be taken."""
    until_s = time.monotonic() + WATCHDOG_S
    while time.monotonic() < until_s:
        before = turns[0]
        out = lend(bus, topic, 7, request=True)
        if turns[0] == before:
            return out
        assert out.reply().bytes == b"\7"
    raise AssertionError("every request went by the loop")


def test_a_loan_of_a_thread_is_sent_without_the_loop_and_without_a_copy(
    node: sira.testing.Node, bus: sira.SyncBus, turns: list[int]
) -> None:
    with sira.connect_sync(node.socket_url) as other, other.subscribe("thread.loan") as messages:
        until_s, number, alone = time.monotonic() + WATCHDOG_S, 0, False
        while not alone:
            assert time.monotonic() < until_s, "every loan went by the loop"
            number, before = number % 200 + 1, turns[0]
            out = lend(bus, "thread.loan", number)
            alone = turns[0] == before
            assert out.receipt is not None and out.receipt.copies == 0
            assert next(messages)["x"][0] == number, "in order, whichever way it came"
        assert list(out.receipt.lanes) == ["shm"] and not out["x"].flags.writeable


def test_a_thread_asks_with_a_loan_and_waits_for_its_reply_when_it_likes(
    bus: sira.SyncBus, turns: list[int], served: Callable[[str, threading.Event], None]
) -> None:
    goes_on = threading.Event()
    served("thread.asked", goes_on)
    out = ask_past(bus, "thread.asked", turns)
    assert out.receipt is None and out.reply().bytes == b"\7"
    assert out.reply(timeout_s=0).bytes == b"\7", "at each call the same"

    late = lend(bus, "thread.asked", 9, request=True)
    with pytest.raises(sira.Timeout):
        late.reply(timeout_s=0.01)
    with ThreadPoolExecutor() as threads:
        waiting = [threads.submit(late.reply) for _ in range(3)]
        goes_on.set()
        assert [each.result(WATCHDOG_S).bytes for each in waiting] == [b"\t"] * 3


def test_a_reply_that_nobody_waits_for_is_forgotten(
    bus: sira.SyncBus, turns: list[int], served: Callable[[str, threading.Event], None]
) -> None:
    served("thread.alone", threading.Event())
    requests = bus._bus._requests
    assert requests is not None
    out = ask_past(bus, "thread.alone", turns)
    assert len(requests._pending) == 1
    del out
    assert not requests._pending
    assert ask_past(bus, "thread.alone", turns).reply().bytes == b"\7"


def test_what_a_handler_raises_is_raised_where_the_reply_of_a_loan_is_taken(
    node: sira.testing.Node, bus: sira.SyncBus, turns: list[int]
) -> None:
    def handler(x: Any) -> bytes:
        if x[0] == 1:
            raise ZeroDivisionError
        return bytes(x[:1])

    with sira.Agent("divider", topic="thread.raises", handler=handler, url=node.socket_url):
        assert ask_past(bus, "thread.raises", turns).reply().bytes == b"\7"
        out = lend(bus, "thread.raises", 1, request=True)
        for _ in range(2):
            with pytest.raises(sira.HandlerFailed):
                out.reply()
