"""Mailboxes with links under several threads: nothing is lost, nobody sleeps over a message."""

from __future__ import annotations

import gc
import threading
from collections import defaultdict
from collections.abc import Callable

import numpy as np

from sira import _native

from .client_harness import Box, attached, frame, inline_item, message
from .link_harness import STAMP, TOPIC, Link

WATCHDOG_S = 60.0
COUNT = 5000


def run(*bodies: Callable[[], None]) -> None:
    """Run each in a thread of its own until all have ended."""
    errors: list[BaseException] = []

    def guarded(body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(body,), daemon=True) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WATCHDOG_S)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads)


def post_all(link: Link, source: str, priorities: tuple[int, ...]) -> None:
    for number in range(COUNT):
        priority = priorities[number % len(priorities)]
        body = {f"t{number}": np.zeros(500, np.uint8)} if number % 50 == 0 else str(number)
        while link.post(body, source=source, priority=priority) < 0:
            link.writer.wait(1.0)
            link.writer.collect()


def number_of(got: _native.Message) -> int:
    return int(next(iter(got))[1:] if len(got) else got.text)


def test_a_thread_that_waits_on_bells_gets_all_that_others_post_and_feed() -> None:
    inbox, box = attached()
    links = [Link(slots=32), Link(slots=32)]
    bells = _native.ShmBells()
    tokens = {}
    for link in links:
        box.bind(link.reader, 0, TOPIC, STAMP)
        tokens[bells.add(link.reader)] = link.reader
    news = _native.shm_bell()
    bells.add(news)
    seen: dict[tuple[str, int], list[int]] = defaultdict(list)
    left = 3 * COUNT

    def feed_all() -> None:
        for number in range(COUNT):
            made = message(str(number), source="node", priority=number % 2)
            inbox.feed(frame(inline_item(made)))
            if number % 100 == 99:
                while box.depth > 1000:  # as the node, which knows a window
                    threading.Event().wait(0.001)

    def consume() -> None:
        nonlocal left
        while left:
            got = box.pop()
            if got is not None:
                seen[got.source, got.priority].append(number_of(got))
                left -= 1
                continue
            for token in bells.wait(0.05):  # what is fed rings no bell here
                if token in tokens:
                    tokens[token].distribute()

    run(
        consume,
        feed_all,
        lambda: post_all(links[0], "one", (0, 5)),
        lambda: post_all(links[1], "two", (3,)),
    )
    expected = {("node", p): list(range(p, COUNT, 2)) for p in (0, 1)}
    expected |= {("one", 0): list(range(0, COUNT, 2)), ("one", 5): list(range(1, COUNT, 2))}
    expected["two", 3] = list(range(COUNT))
    assert seen == expected


def test_several_threads_pop_and_each_message_goes_to_one_of_them() -> None:
    box, link = Box(), Link(slots=32)
    box.bind(link.reader, 0, TOPIC, STAMP)
    got: list[list[int]] = [[], []]

    def consume(mine: list[int]) -> None:
        while sum(map(len, got)) < COUNT:
            box.arm()
            while (each := box.pop()) is not None:
                mine.append(number_of(each))

    run(
        lambda: consume(got[0]),
        lambda: consume(got[1]),
        lambda: post_all(link, "one", (0,)),
    )
    assert sorted(got[0] + got[1]) == list(range(COUNT))


def test_cells_are_bound_and_unbound_while_others_pop_and_the_collector_runs() -> None:
    box, link = Box(), Link(slots=128, cells=1024)
    stop = threading.Event()
    box.context = box  # a cycle: message, context, mailbox
    popped = 0

    def bind() -> None:
        for cell in range(1, 1000):
            box.bind(link.reader, cell, TOPIC, STAMP)
            for number in range(3):
                while link.post({"x": np.zeros(300)} if number else "x", cell) < 0:
                    link.writer.collect()
            if cell % 3 == 0:
                box.unbind(link.reader, cell - 1)
            if cell % 100 == 0:
                gc.collect()
        stop.set()

    def consume() -> None:
        nonlocal popped
        while not stop.is_set() or box.depth:
            box.arm()
            link.reader.distribute()
            while (got := box.pop()) is not None:
                popped += 1
                assert got.topic == TOPIC

    run(bind, consume)
    box.unbind_all()
    assert link.reader.distribute() == 0
    assert 0 < popped <= 3 * 999
    gc.collect()
    assert link.writer.collect() == (128, 0)
    assert sum(link.counts(cell)[1] for cell in range(1, 1000)) == popped
