"""Threads and a loop that wait at the bells of links: each hears what is for it, none sleeps on."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from sira.client.local.bells import Bells, Waiter, spin_us_max
from sira.kernel.errors import BadRequest
from tests.unit.native.client_harness import Box
from tests.unit.native.link_harness import STAMP, TOPIC, Link

WATCHDOG_S = 60.0


class Heard(Box):
    """A mailbox that tells who waits for it."""

    waiter: Waiter | None = None

    def _wake(self) -> None:
        if self.waiter is not None:
            self.waiter.wake()


class Hall:
    """Some links with a mailbox each, heard by one `Bells`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, links: int) -> None:
        self.links = [Link() for _ in range(links)]
        self.boxes = [Heard() for _ in range(links)]
        self.waiting: dict[bytes, object] = {}
        self.took_turns: set[int] = set()
        self.bells = Bells(loop, rang=self._rang, waiting=self.waiting)
        self._readers = {}
        for link, box in zip(self.links, self.boxes, strict=True):
            self.add(link, box)

    def add(self, link: Link, box: Heard) -> None:
        """Listen to a link; on the loop."""
        box.bind(link.reader, 0, TOPIC, STAMP)
        self._readers[self.bells.add(link.reader)] = link.reader

    def _rang(self, tokens: list[int]) -> None:
        self.took_turns.add(threading.get_ident())
        for token in tokens:
            if token in self._readers:
                self._readers[token].distribute()

    def take(self, number: int, *, timeout_s: float = math.inf) -> bytes | None:
        """Wait in this thread for the next message of a link; None: none came in time."""
        box, waiter = self.boxes[number], Waiter()
        until_s = time.monotonic() + timeout_s
        box.waiter = waiter
        try:
            while True:
                waiter.woken = False
                box.arm()
                message = box.pop()
                if message is not None:
                    return bytes(message.bytes)
                left_s = until_s - time.monotonic()
                if left_s <= 0:
                    return None
                if number % 2:  # the two are one but for who takes
                    self.bells.wait(waiter, left_s)
                elif (message := self.bells.take(waiter, box, left_s)) is not None:
                    return bytes(message.bytes)
        finally:
            self.bells.leave(waiter)


def run(work: Callable[[], Awaitable[None]]) -> None:
    faults: list[Any] = []

    async def guarded() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
        async with asyncio.timeout(WATCHDOG_S):
            await work()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(guarded())
    assert not faults


async def until(condition: Callable[[], Any]) -> None:
    """Wait for what a thread does; the watchdog ends it."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("spin_us", ["0", "50"])
def test_every_thread_hears_what_is_for_it_whoever_leads(
    spin_us: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIRA_SPIN_US", spin_us)
    links, rounds = 4, 500

    async def work() -> None:
        hall = Hall(asyncio.get_running_loop(), links)
        counts = [0] * links
        turns = [threading.Semaphore(1) for _ in range(links)]

        def take(number: int) -> None:
            for turn in range(rounds):
                assert hall.take(number) == turn.to_bytes(4, "little")
                counts[number] += 1
                turns[number].release()

        def send(number: int) -> None:
            for turn in range(rounds):
                assert turns[number].acquire(timeout=WATCHDOG_S)
                hall.links[number].send(turn.to_bytes(4, "little"))

        threads = [threading.Thread(target=work, args=(number,), daemon=True)
                   for work in (take, send) for number in range(links)]  # fmt: skip
        for each in threads:
            each.start()
        for each in threads:
            await asyncio.to_thread(each.join)
        assert counts == [rounds] * links
        hall.bells.close()

    run(work)


def test_the_loop_watches_where_no_thread_does_and_again_after_one_did() -> None:
    async def work() -> None:
        hall = Hall(asyncio.get_running_loop(), 2)
        hall.boxes[0].arm()
        hall.links[0].send(b"by the loop")
        await until(lambda: hall.boxes[0].depth)
        assert hall.took_turns == {threading.get_ident()}
        assert hall.boxes[0].pop() is not None
        hall.took_turns.clear()
        taking = asyncio.get_running_loop().run_in_executor(None, hall.take, 0)
        await until(lambda: hall.bells.native.is_led and not hall.bells.native.is_watched)
        hall.links[0].send(b"by a thread")
        assert await taking == b"by a thread"
        assert threading.get_ident() not in hall.took_turns
        hall.links[1].send(b"by the loop again")
        await until(lambda: hall.boxes[1].depth)
        hall.bells.close()

    run(work)


def test_the_loop_takes_over_at_once_where_somebody_on_it_waits() -> None:
    async def work() -> None:
        hall = Hall(asyncio.get_running_loop(), 1)
        hall.waiting[b"id"] = None
        hall.links[0].send(b"x")
        assert await asyncio.to_thread(hall.take, 0) == b"x"
        for _ in range(3):
            await asyncio.sleep(0)
        assert await asyncio.to_thread(hall.take, 0, timeout_s=0.1) is None
        await until(lambda: hall.bells.native.is_watched)
        hall.bells.close()

    run(work)


@pytest.mark.parametrize("spin_us", ["0", "50"])
def test_a_link_that_comes_while_a_thread_leads_rings_for_it(
    spin_us: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIRA_SPIN_US", spin_us)

    async def work() -> None:
        hall = Hall(asyncio.get_running_loop(), 1)
        for number in range(1, 20):
            hall.links.append(Link())
            hall.boxes.append(Heard())
            taking = asyncio.get_running_loop().run_in_executor(None, hall.take, number)
            await until(lambda: hall.bells.native.is_led and not hall.bells.native.is_watched)
            hall.add(hall.links[-1], hall.boxes[-1])
            hall.links[-1].send(b"late")
            assert await taking == b"late"
        hall.bells.close()

    run(work)


def test_what_comes_another_way_wakes_who_leads_and_who_follows() -> None:
    async def work() -> None:
        hall = Hall(asyncio.get_running_loop(), 1)
        got: list[int] = []
        waiters: list[Waiter] = []

        def wait(number: int) -> None:
            waiter = Waiter()
            waiters.append(waiter)
            try:
                while number not in told:
                    waiter.woken = False
                    if number not in told:
                        hall.bells.wait(waiter, math.inf)
            finally:
                hall.bells.leave(waiter)
            got.append(number)

        told: set[int] = set()
        threads = [threading.Thread(target=wait, args=(n,), daemon=True) for n in range(5)]
        for each in threads:
            each.start()
        await until(lambda: len(waiters) == 5)
        for number in range(5):
            told.add(number)
            for waiter in list(waiters):
                waiter.wake()
            await until(lambda: len(got) > number)  # noqa: B023  within the round
        for each in threads:
            await asyncio.to_thread(each.join)
        hall.bells.close()

    run(work)


def test_closing_ends_every_wait_and_gives_the_descriptors_back() -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async def work() -> None:
        gc.collect()  # what other tests have left does not go during this one
        before = descriptors()
        bells = Bells(asyncio.get_running_loop(), rang=lambda _: None, waiting={})
        ended = []

        def wait() -> None:
            waiter = Waiter()
            bells.wait(waiter, math.inf)
            bells.leave(waiter)
            ended.append(threading.get_ident())

        threads = [threading.Thread(target=wait, daemon=True) for _ in range(3)]
        for each in threads:
            each.start()
        await until(lambda: len(bells._followers) == 2)
        bells.close()
        bells.close()
        for each in threads:
            await asyncio.to_thread(each.join)
        assert len(ended) == 3
        bells.kick()
        assert descriptors() <= before

    run(work)


def test_how_long_to_spin_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for asked, wanted in (("", 50.0), ("0", 0.0), ("200", 200.0)):
        monkeypatch.setenv("SIRA_SPIN_US", asked)
        assert spin_us_max() == wanted
    for asked in ("-1", "x", "1e3", "99999999"):
        monkeypatch.setenv("SIRA_SPIN_US", asked)
        with pytest.raises(BadRequest, match="microseconds"):
            spin_us_max()
