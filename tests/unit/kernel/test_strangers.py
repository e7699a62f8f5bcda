"""From whom nothing new is let in (kernel/edge/strangers.py): pure decisions, and their program."""

from __future__ import annotations

import asyncio
import ipaddress
import random
import socket
import struct
from contextlib import ExitStack

import pytest

from sira.kernel.edge.open_sockets import open_count
from sira.kernel.edge.strangers import (
    ADDRESSES_MAX,
    Strangers,
    fair_share,
    network,
    refusing,
    to_hold,
)
from sira.kernel.slices import Pace

NOBODY: frozenset[str] = frozenset()
A, B, C = "10.0.0.1", "10.0.0.2", "2001:db8:0:7::/64"


def test_who_has_more_than_it_may_is_held_and_no_other() -> None:
    counts = {A: 11, B: 10, C: 1}
    assert to_hold(counts, NOBODY, each_max=10, all_max=100) == {A}


def test_who_is_held_stays_so_until_it_has_half() -> None:
    held = frozenset({A})
    assert to_hold({A: 6}, held, each_max=10, all_max=100) == held
    assert to_hold({A: 5}, held, each_max=10, all_max=100) == NOBODY
    assert to_hold({}, held, each_max=10, all_max=100) == NOBODY


def test_past_the_limit_of_all_those_with_the_most_are_held() -> None:
    assert to_hold({A: 8, B: 7, C: 2}, NOBODY, each_max=10, all_max=12) == {A, B}
    assert to_hold({A: 8, B: 2, C: 2}, NOBODY, each_max=10, all_max=12) == NOBODY


def test_a_newcomer_is_let_in_however_many_addresses_there_are() -> None:
    counts = {f"10.1.{port >> 8}.{port & 255}": 1 for port in range(10_000)}
    assert to_hold(counts, NOBODY, each_max=10, all_max=100) == NOBODY


def test_held_addresses_are_bounded_and_those_with_the_most() -> None:
    counts = {f"10.1.{port >> 8}.{port & 255}": 100 + port for port in range(1_000)}
    held = to_hold(counts, NOBODY, each_max=10, all_max=1 << 20)
    assert len(held) == ADDRESSES_MAX
    assert min(counts[each] for each in held) == 100 + 1_000 - ADDRESSES_MAX


def test_shares_are_the_largest_that_fit() -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    source = random.Random(seed)
    for _ in range(500):
        counts = [source.randrange(1, 50) for _ in range(source.randrange(1, 20))]
        all_max = source.randrange(len(counts), 600)
        share = fair_share(counts, each_max=1_000, all_max=all_max)
        together = [sum(min(count, most) for count in counts) for most in (share, share + 1)]
        assert together[0] <= all_max
        assert together[1] > all_max or share >= max(counts)


def test_an_address_of_ipv6_stands_for_what_one_host_may_use() -> None:
    assert network("2001:db8:0:7:1:2:3:4") == network("2001:db8:0:7::9") == C
    assert network("2001:db8:0:8::9") != C
    assert network(A) == A


def _lets_in(program: bytes, source: str) -> bool:
    """Run a program of classic BPF over the header of a packet from `source`, as Linux does."""
    packed = ipaddress.ip_address(source).packed
    if len(packed) == 4:
        header = b"\x45" + bytes(11) + packed + bytes(4)
    else:
        header = b"\x60" + bytes(7) + packed + bytes(16)
    code = list(struct.iter_unpack("=HBBI", program))
    at = loaded = 0
    while True:
        kind, skip, skip_else, value = code[at]
        at += 1
        if kind == 0x06:
            return bool(value)
        if kind == 0x15:
            at += skip if loaded == value else skip_else
        elif kind == 0x05:
            at += value
        elif kind == 0x74:
            loaded >>= value
        else:
            start = value - 0xFFF00000
            loaded = int.from_bytes(header[start : start + {0x20: 4, 0x30: 1}[kind]])


@pytest.mark.parametrize("held", [(), (A,), (C,), (A, C, "10.0.0.9", "2001:db8:1::/64")])
def test_the_program_drops_what_comes_from_these_and_nothing_else(held: tuple[str, ...]) -> None:
    program = refusing(held)
    for source in (A, B, "10.0.0.9", "10.0.1.1", "2001:db8:0:7::5", "2001:db8:1::1", "2001:db8::7"):
        assert _lets_in(program, source) == (network(source) not in held), source


def test_the_largest_program_is_one_that_linux_takes() -> None:
    most = [f"2001:db8:0:{port:x}::/64" for port in range(1, ADDRESSES_MAX + 1)]
    program = refusing(most)
    assert len(program) // 8 <= 4_096
    assert not _lets_in(program, "2001:db8:0:80::1")
    assert _lets_in(program, "2001:db8:0:81::1")
    assert _lets_in(program, A)


def test_files_that_are_no_connections_of_ours_cost_a_walk_few_turns() -> None:
    """A node's own files (Unix sockets, links) are many, and none is a stranger."""

    class Counting(Pace):
        turns = 0

        async def step(self) -> None:
            self.turns += 1

    async def walk(strangers: Strangers) -> int:
        pace = Counting(slice_s=0.0)
        await strangers._walk(pace, counts_bytes=False)
        return pace.turns

    async def heard(_: object, __: object) -> None:
        """Nobody is told."""

    async def work() -> None:
        strangers = Strangers(
            each_max=0, all_max=0, empty_per_s_max=0.0, hold_s=0.0, held=print, looked=heard
        )
        with ExitStack() as stack:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            ours = listener.getsockname()
            strangers._ports = frozenset({ours[1]})
            others = [stack.enter_context(each) for _ in range(300) for each in socket.socketpair()]
            first = await walk(strangers)
            assert first > len(others) // 16, "what was not known is looked at one by one"
            assert await walk(strangers) <= open_count() // 256 + 2
            with socket.create_connection(ours):
                taken, _ = listener.accept()
                with taken:
                    await walk(strangers)
                    assert strangers.count == 1
            await walk(strangers)
            assert strangers.count == 0, "it has gone"

    asyncio.run(work())
