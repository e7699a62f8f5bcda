"""Bounds connections that have proved nothing: silent ones, half handshakes, single bytes.

gRPC takes every connection that comes, keeps 20 to 40 KiB for each and lets the silent ones go only
when `handshake_s` is over, all at once if they came at once. So who holds too many of them is not
let in: a filter at the listening sockets drops the first packet of each new one, which TCP of the
other side sends again, ever more seldom. That costs no descriptor, and what stands already stays.
The same holds for who opens connection after connection on which calls begin and no request ever
comes: gRPC itself ends those of some floods, and no limit of one connection sees the next one.
`to_hold` and `refusing` decide and are pure; `Strangers` holds the clock and the sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import ipaddress
import resource
import stat
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

from sira import _native
from sira.kernel.edge.allowances import Allowances
from sira.kernel.edge.open_sockets import (
    Peer,
    copy_at,
    listens,
    open_count,
    parse,
    peer_of,
    received_bytes,
    set_filter,
)
from sira.kernel.slices import Pace

ADDRESSES_MAX = 128  # held at once, those with the most; 5 instructions each, of 4,096 at most
_LOOK_S = 0.1
_SOON = 16  # connections more or fewer: look at them now
_STRANGERS_S, _NO_STRANGERS_S = 1.0, 5.0  # between two walks when nothing seems to have changed
_REST, _IDLE_REST = 4.0, 50.0  # the same, in times of what the last one took
# A flood costs CPU. While the process uses so much of a core, what has come on each connection is
# asked of TCP, some 6 microseconds each.
_BUSY_S, _BUSY_CORES = 0.25, 0.2
# A walk holds the loop for so long at a time. When many come, the next slice follows in the next
# turn; else a request whose way is some turns long shall not meet a slice in each of them.
_SLICE_S, _SLICE_REST_S = 0.0003, 0.002
_FILES = 16  # connections between two looks at the clock, or files that were not known
_SPAN = 256  # descriptors in one go of which nothing is new, 0.3 µs each
_TRIM = 500  # fewer connections than at the peak: what they took goes back to the system
# Connections that gRPC has not taken yet: they come in whatever is decided. gRPC asks for 4,096.
_WAITING_MAX = 256
_NETWORK = 0xFFF00000  # SKF_NET_OFF: from here on loads are from the header of IP
_KEEP = 0xFFFFFFFF


@functools.lru_cache(maxsize=4096)
def network(address: str) -> str:
    """Return what counts as one address: IPv4 as it is, of IPv6 the /64 that one host may use."""
    parsed = ipaddress.ip_address(address)
    if parsed.version == 4:
        return address
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))


def fair_share(counts: Iterable[int], *, each_max: int, all_max: int) -> int:
    """Return how many each may have, at least 1, so that all together have `all_max` at most."""
    ordered = sorted(counts)
    left = all_max
    for index, count in enumerate(ordered):
        share = left // (len(ordered) - index)
        if count > share:
            return max(1, min(each_max, share))
        left -= count
    return each_max


def to_hold(
    counts: Mapping[str, int], held: frozenset[str], *, each_max: int, all_max: int
) -> frozenset[str]:
    """Return the addresses from which nothing new is let in.

    Args:
        counts: connections that have proved nothing, by address.
        held: what this returned before: they stay until they have half of what they may.
        each_max, all_max: of one address, and of all; past `all_max` those with the most are held.
    """
    share = fair_share(counts.values(), each_max=each_max, all_max=all_max)
    past = [
        address
        for address, count in counts.items()
        if count > share or (address in held and 2 * count > share)
    ]
    return frozenset(sorted(past, key=counts.__getitem__, reverse=True)[:ADDRESSES_MAX])


def refusing(addresses: Iterable[str]) -> bytes:
    """Return a program of classic BPF that drops packets of TCP from these, and no others.

    It reads the source from the header of IP (RFC 791, 8200). Instructions: linux/filter.h.
    """
    four, six = bytearray(), bytearray()
    drop = _do(0x06, 0)
    for address in sorted(addresses):
        first, _, _ = address.partition("/")
        packed = ipaddress.ip_address(first).packed
        if len(packed) == 4:
            four += _do(0x15, int.from_bytes(packed), skip_else=1) + drop
            continue
        high, low = struct.unpack("!II", packed[:8])
        six += _do(0x20, _NETWORK + 8) + _do(0x15, high, skip_else=3)
        six += _do(0x20, _NETWORK + 12) + _do(0x15, low, skip_else=1) + drop
    keep = _do(0x06, _KEEP)
    four = bytearray(_do(0x20, _NETWORK + 12)) + four + keep
    version = _do(0x30, _NETWORK) + _do(0x74, 4)  # the first four bits of either header
    choose = _do(0x15, 6, skip_else=1) + _do(0x05, len(four) // 8)
    return bytes(version + choose + four + six + keep)


def _do(code: int, value: int, *, skip_else: int = 0) -> bytes:
    return struct.pack("=HBBI", code, 0, skip_else, value)


@dataclass(frozen=True, slots=True)
class _File:
    """A socket of ours as it was looked at: `peer` of a connection; None: it listens."""

    inode: int
    peer: Peer | None


def _look(descriptor: int, inode: int, ports: frozenset[int]) -> _File | None:
    """Return what it is; None: neither listens at one of our ports nor is a connection to one."""
    copy = copy_at(descriptor, ports)
    if copy is None:
        return None
    with copy:
        if listens(copy):
            copy.listen(_WAITING_MAX)
            return _File(inode, None)
        peer = peer_of(copy)
        return _File(inode, peer) if peer is not None else None


def _give_back() -> None:
    """Give free memory back to the system: glibc keeps what threads have freed. Blocks."""
    with contextlib.suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)


class _Busy:
    """Whether the process has used much CPU lately."""

    def __init__(self) -> None:
        self._at_s, self._used_s, self._is = time.monotonic(), time.process_time(), False

    def look(self, now_s: float, used_s: float) -> bool:
        """Return it; `used_s` is its CPU time so far."""
        past_s = now_s - self._at_s
        if past_s >= _BUSY_S:
            self._is = used_s - self._used_s >= _BUSY_CORES * past_s
            self._at_s, self._used_s = now_s, used_s
        return self._is


class Strangers:
    """Connections of one node on which nothing was proved yet. Belongs to its loop."""

    def __init__(
        self,
        *,
        each_max: int,
        all_max: int,
        empty_per_s_max: float,
        hold_s: float,
        held: Callable[[str, str, int], None],
        looked: Callable[
            [Mapping[Peer, int | None], Callable[[], Awaitable[None]]], Awaitable[None]
        ],
    ) -> None:
        """Prepare; nothing is looked at before `run`.

        Args:
            each_max: of one address; 0: any number.
            all_max: of all; 0: any number. Half of what the process may open bounds both.
            empty_per_s_max: connections of one address, in a second, that made calls and never sent
                a request; 0: any number.
            hold_s: nothing new is let in for so long from who is past that.
            held: told each address that nothing new is let in from, the setting that it has passed,
                and how many it has, or has had lately.
            looked: told, at each walk, all connections that stand, and while the process is busy
                what has come on each since it began, bytes; and what to await in between, often.
        """
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = files // 2 if files != resource.RLIM_INFINITY else 1 << 30
        self._all_max = min(all_max or most, most)
        self._each_max = min(each_max or most, self._all_max)
        self._is_bounded = bool(each_max or all_max)
        self._empty = Allowances(per_s_max=empty_per_s_max)
        self._hold_s = hold_s
        self._barred: dict[str, float] = {}  # for empty ones, until then; earliest first
        self._crowded: frozenset[str] = frozenset()  # held for how many they have
        self._told, self._looked = held, looked
        self._ports: frozenset[int] = frozenset()
        self._open = _native.Files()
        self._files: dict[int, _File] = {}  # of all that are open, those that are ours
        self._proved: dict[str, tuple[Peer | None, int]] = {}  # and the walk before which
        self._walks = 0
        self._peak = self._standing = 0
        self._is_owed = False  # some may have gone since memory was given back
        self.count = 0
        self.held: frozenset[str] = frozenset()
        self.held_count = 0

    def proved(self, peer: str) -> None:
        """Note that somebody has shown, on the connection of `peer`, who he is."""
        if peer not in self._proved:
            self._proved[peer] = parse(peer), self._walks

    def came_empty(self, peer: str) -> None:
        """Note that a call of the connection `peer` is over, and no request ever came on that."""
        parsed = parse(peer)
        if parsed is None or not self._hold_s:
            return
        address, now_s = network(parsed[0]), time.monotonic()
        if not self._empty.note(address, now_s) or address in self._barred:
            return
        while len(self._barred) >= ADDRESSES_MAX:
            del self._barred[next(iter(self._barred))]
        self._barred[address] = now_s + self._hold_s
        self._put_in_force(self._crowded, {})

    async def run(self, *ports: int) -> None:
        """Look after connections to these ports of ours, for ever."""
        self._ports = frozenset(ports) - {0}
        if not open_count():
            return
        seen, walked_s, took_s = 0, -_NO_STRANGERS_S, 0.0
        busy = _Busy()
        while True:
            now_s, open_now = time.monotonic(), open_count()
            rest_s = _STRANGERS_S if self.count or self.held else _NO_STRANGERS_S
            is_busy = busy.look(now_s, time.process_time())
            if is_busy:
                rest_s = _BUSY_S
            is_rush = abs(open_now - seen) >= _SOON
            if is_rush or now_s >= walked_s + max(rest_s, _IDLE_REST * took_s):
                pace = Pace(slice_s=_SLICE_S, rest_s=0 if is_rush else _SLICE_REST_S)
                await self._walk(pace, counts_bytes=is_busy)
                seen, walked_s, took_s = open_now, now_s, pace.took_s()
            await asyncio.sleep(max(_LOOK_S, _REST * took_s))

    async def _walk(self, pace: Pace, *, counts_bytes: bool) -> None:
        """Count the strangers; hold the addresses of too many; give back what those gone took."""
        self._walks += 1
        await self._walk_files(pace)
        received: dict[Peer, int | None] = {}
        for index, (descriptor, known) in enumerate(list(self._files.items()), 1):
            if known.peer is not None:
                received[known.peer] = (
                    received_bytes(descriptor, known.inode) if counts_bytes else None
                )
            if index % _FILES == 0:
                await pace.step()
        await self._looked(received, pace.step)
        proved = set()
        for index, peer in enumerate(list(self._proved), 1):
            known_peer, walk = self._proved[peer]
            if known_peer in received:
                proved.add(known_peer)
            elif walk < self._walks:
                del self._proved[peer]
            if index % _FILES == 0:
                await pace.step()
        strangers: Counter[str] = Counter()
        for index, each in enumerate(received, 1):
            if each not in proved:
                strangers[network(each[0])] += 1
            if index % _FILES == 0:
                await pace.step()
        # Who has proved something since this began is among the last that were noted.
        for known_peer, walk in reversed(self._proved.values()):
            if walk < self._walks:
                break
            if known_peer in received and known_peer not in proved:
                strangers[network(known_peer[0])] -= 1
        self.count = strangers.total()
        self._hold(+strangers)
        await self._trim(len(received))

    async def _walk_files(self, pace: Pace) -> None:
        """Look at what was opened since the last walk, and forget what was closed."""
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        at, left = 0, open_count()
        while left > 0 and (at < most or most == resource.RLIM_INFINITY):
            at, left, changed = self._open.look(at, left, _SPAN, _FILES)
            for descriptor, inode, mode in changed:
                ours = None
                with contextlib.suppress(OSError):  # it may be gone by now
                    ours = _look(descriptor, inode, self._ports) if stat.S_ISSOCK(mode) else None
                if ours is not None:
                    self._files[descriptor] = ours
                else:
                    self._files.pop(descriptor, None)
            await pace.step()
        for descriptor in self._open.end(at):
            self._files.pop(descriptor, None)

    async def _trim(self, standing: int) -> None:
        """Give back what those gone took: when many have, and once more when no more go."""
        is_falling, self._standing = standing < self._standing, standing
        self._peak = max(self._peak, standing)
        if standing + _TRIM <= self._peak:
            self._peak, self._is_owed = standing, True
        elif is_falling or not self._is_owed:
            return
        else:
            self._is_owed = False
        await asyncio.to_thread(_give_back)

    def _hold(self, counts: Mapping[str, int]) -> None:
        now_s, crowded = time.monotonic(), self._crowded
        for address in [each for each, until_s in self._barred.items() if until_s <= now_s]:
            del self._barred[address]
        if self._is_bounded:
            crowded = to_hold(counts, crowded, each_max=self._each_max, all_max=self._all_max)
        self._put_in_force(crowded, counts)

    def _put_in_force(self, crowded: frozenset[str], counts: Mapping[str, int]) -> None:
        """Hold these and who is barred, if that can be done; tell who was not held before."""
        held = crowded | self._barred.keys()
        if held != self.held and not self._let_in_none_from(held):
            return
        for address in sorted(held - self.held):
            self.held_count += 1
            if address in self._barred:
                setting, count = "empty_per_address_s_max", self._empty.count(address)
            else:
                count = counts[address]
                of_one = count > self._each_max
                setting = "strangers_per_address_max" if of_one else "strangers_max"
            # Not from here: what it raises would end the counting.
            asyncio.get_running_loop().call_soon(self._told, address, setting, count)
        self._crowded, self.held = crowded, held

    def _let_in_none_from(self, addresses: frozenset[str]) -> bool:
        """Set the filters; return whether they are in force."""
        code, done = refusing(addresses) if addresses else b"", False
        for descriptor in [number for number, each in self._files.items() if each.peer is None]:
            copy = copy_at(descriptor, self._ports)
            if copy is not None:
                with copy:
                    done |= listens(copy) and set_filter(copy, code)
        return done
