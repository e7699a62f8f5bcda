"""What a client does now and then for the links that it writes (client/local/direct.py)."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from sira import _native
from sira.client.local.arenas import Arenas
from sira.client.local.direct import Direct
from tests.unit.native.test_shm import Pair

LARGE = bytes(100_000)


class Counted:
    """A writer that counts how often it is asked what has come back."""

    def __init__(self, pair: Pair) -> None:
        self._writer, self.collects = pair.writer, 0

    @property
    def holds(self) -> int:
        return self._writer.holds

    def collect(self, *how: bool) -> tuple[int, int]:
        self.collects += 1
        return self._writer.collect(*how)

    def withdraw_all(self, reason: int) -> int:
        return self._writer.withdraw_all(reason)

    def end(self) -> None:
        self._writer.end()


class Way:
    """A connection with these links, all written here."""

    def __init__(self, *pairs: Pair) -> None:
        self.writers = {number: Counted(pair) for number, pair in enumerate(pairs, 1)}
        self.given_up: list[int] = []
        self.owner: object = None

    def give_up(self, links: list[int]) -> None:
        self.given_up += links
        for each in links:
            del self.writers[each]

    def give_back(self, asks: list[int]) -> None:
        assert not asks

    def over(self) -> None:
        self.writers.clear()


class Outbox:
    """One that has nothing to tell."""

    links = False

    def asked_ended(self) -> list[int]:
        return []

    def broken_links(self) -> list[Any]:
        return []


@pytest.fixture
def loop() -> Any:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def direct_of(loop: asyncio.AbstractEventLoop, way: Way) -> Direct:
    direct = Direct(loop, Outbox(), _native, Arenas(1 << 20))  # type: ignore[arg-type]
    direct.begin(way)  # type: ignore[arg-type]
    return direct


def corrupt(pair: Pair) -> None:
    """Have the reader say that all came back that there could be, and much that could not."""
    os.pwrite(pair.node.fileno(), b"\xff" * 1024, 192)


def test_only_links_with_memory_out_are_asked_what_has_come_back(
    loop: asyncio.AbstractEventLoop,
) -> None:
    silent, small, large = Pair(), Pair(), Pair()
    way = Way(silent, small, large)
    direct = direct_of(loop, way)
    small.send(b"lies in the link itself")
    large.send(LARGE)
    direct._tend()
    assert [each.collects for each in way.writers.values()] == [0, 0, 1]
    assert large.arena.asked_bytes >= len(LARGE)
    large.take()
    small.take()
    direct._tend()
    assert [each.collects for each in way.writers.values()] == [0, 0, 2]
    assert large.arena.asked_bytes == 0
    direct._tend()
    assert [each.collects for each in way.writers.values()] == [0, 0, 2]
    direct.end()


def test_a_link_whose_reader_says_what_cannot_be_is_given_up_and_the_others_are_tended(
    loop: asyncio.AbstractEventLoop,
) -> None:
    hostile, honest = Pair(), Pair()
    way = Way(hostile, honest)
    direct = direct_of(loop, way)
    for each in (hostile, honest):
        each.send(LARGE)
    honest.take()
    corrupt(hostile)
    direct._tend()
    assert way.given_up == [1]
    assert honest.arena.asked_bytes == 0
    assert direct._timer is not None, "it goes on"
    direct.end()


def test_what_a_reader_that_is_gone_had_said_ends_nothing_else(
    loop: asyncio.AbstractEventLoop,
) -> None:
    hostile = Pair()
    way = Way(hostile)
    direct = direct_of(loop, way)
    hostile.send(LARGE)
    corrupt(hostile)
    direct.writer_over(1, way.writers.pop(1))  # type: ignore[arg-type]
    assert hostile.arena.asked_bytes == 0
    direct.end()
