"""What the tests of consensus share: entries, and a disk that loses power."""

from __future__ import annotations

import errno
import itertools
import random
from typing import Any

import pytest

from sira.consensus.state import ENTRY_VERSION, Applied, State
from sira.v1 import tables_pb2


class Bench:
    """A state, and short words for its entries."""

    def __init__(self) -> None:
        self.state = State()
        self._sequences = itertools.count(1)

    def entry(self, elapsed_ms: int = 0, **command: Any) -> tables_pb2.TableEntry:
        made = tables_pb2.TableEntry(version=ENTRY_VERSION, elapsed_ms=elapsed_ms)
        if command:
            made.command.CopyFrom(tables_pb2.TableCommand(**command))
        else:
            made.tick.SetInParent()
        return made

    def apply(self, elapsed_ms: int = 0, **command: Any) -> Applied:
        return self.state.apply(self.entry(elapsed_ms, **command))

    def transact(
        self, compares: Any = (), puts: Any = (), deletes: Any = (), **more: Any
    ) -> tables_pb2.TableResult:
        asked = tables_pb2.TableTransaction()
        for table, key, revision in compares:
            asked.compares.add(table=table, key=key, revision=revision)
        for table, key, value in puts:
            asked.puts.add(table=table, key=key, value=value)
        for table, key in deletes:
            asked.deletes.add(table=table, key=key)
        return self.apply(transaction=asked, **more).result

    def acquire(
        self, name: str = "a", who: str = "p", *, elapsed_ms: int = 0, **asked: Any
    ) -> tables_pb2.TableResult:
        fields = {"limit": 1, "ttl_ms": 1_000} | asked
        command = tables_pb2.LeaseAcquire(tenant="t", name=name, principal=who, **fields)
        return self.apply(elapsed_ms, lease_acquire=command).result

    def renew(
        self, ticket: int, name: str = "a", who: str = "p", *, elapsed_ms: int = 0, ttl_ms: int = 0
    ) -> tables_pb2.TableResult:
        command = tables_pb2.LeaseRenew(
            tenant="t", name=name, principal=who, ticket=ticket, ttl_ms=ttl_ms
        )
        return self.apply(elapsed_ms, lease_renew=command).result

    def release(
        self, ticket: int, name: str = "a", who: str = "p", *, elapsed_ms: int = 0
    ) -> tables_pb2.TableResult:
        command = tables_pb2.LeaseRelease(tenant="t", name=name, principal=who, ticket=ticket)
        return self.apply(elapsed_ms, lease_release=command).result

    def claims(self) -> dict[int, tables_pb2.LeaseClaim]:
        rows = self.state.rows.scan("leases")
        found = [tables_pb2.LeaseClaim.FromString(row.value) for row in rows]
        return {each.ticket: each for each in found}


@pytest.fixture
def bench() -> Bench:
    return Bench()


class PowerCut(BaseException):
    """The machine is off: nothing catches it."""


class Disk:
    """A disk that may lose power: what is not synced is lost, torn, or there after all.

    Of each write that was not synced, each 512-byte sector is there or not by chance, whatever the
    order; a file whose length grew may be as long or not. Names are as they were at the last
    `sync_folder`, or as they are now, each for itself.
    """

    SECTOR = 512
    waits = False

    def __init__(self, rng: random.Random, *, cut_after: int | None = None) -> None:
        self._rng = rng
        self.left = cut_after  # operations until the power goes
        self.room_bytes: int | None = None
        self.broken = ""  # an operation that fails with EIO
        self.operations = 0
        self._files: dict[str, _File] = {}
        self._names_on_disk: dict[str, _File] = {}

    def _count(self, operation: str) -> None:
        self.operations += 1
        if self.broken == operation:
            raise OSError(errno.EIO, "Input/output error")
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise PowerCut

    def names(self) -> list[str]:
        return sorted(self._files)

    def read(self, name: str) -> bytes:
        return bytes(self._files[name].now)

    def create(self, name: str) -> None:
        self._count("create")
        self._files[name] = _File()

    def append(self, name: str, data: bytes) -> None:
        file = self._files[name]
        if self.room_bytes is not None:
            held = sum(len(each.now) for each in self._files.values())
            if held + len(data) > self.room_bytes:
                file.now += data[: max(0, self.room_bytes - held)]
                raise OSError(errno.ENOSPC, "No space left on device")
        if self.left == 0:  # the power goes while it is written
            file.now += data[: self._rng.randrange(len(data) + 1)]
        self._count("append")
        file.now += data

    def truncate(self, name: str, length_bytes: int) -> None:
        self._count("truncate")
        del self._files[name].now[length_bytes:]

    def sync(self, name: str) -> None:
        self._count("sync")
        file = self._files[name]
        file.on_disk = bytes(file.now)

    def rename(self, name: str, to: str) -> None:
        self._count("rename")
        self._files[to] = self._files.pop(name)

    def remove(self, name: str) -> None:
        self._count("remove")
        self._files.pop(name, None)

    def sync_folder(self) -> None:
        self._count("sync_folder")
        self._names_on_disk = dict(self._files)

    def close(self) -> None:
        pass

    def after_power_loss(self) -> Disk:
        """Return the disk as it is found when the power is back."""
        found = Disk(self._rng)
        for name in sorted({*self._files, *self._names_on_disk}):
            now, then = self._files.get(name), self._names_on_disk.get(name)
            file = now if now is then else self._rng.choice([now, then])
            if file is not None:
                found._files[name] = file.after_power_loss(self._rng, self.SECTOR)
        found._names_on_disk = dict(found._files)
        return found


class _File:
    def __init__(self, data: bytes = b"") -> None:
        self.now, self.on_disk = bytearray(data), data

    def after_power_loss(self, rng: random.Random, sector: int) -> _File:
        """Mix what was synced with what was written since, sector by sector."""
        now, then = bytes(self.now), self.on_disk
        common = 0
        while common < min(len(now), len(then)) and now[common] == then[common]:
            common += 1
        length = rng.choice([len(now), len(then), rng.randint(*sorted((len(now), len(then))))])
        mixed = bytearray(length)
        mixed[: min(length, len(then))] = then[:length]
        for start in range(common // sector * sector, length, sector):
            if rng.random() < 0.5:
                end = min(start + sector, length, len(now))
                mixed[start:end] = now[start:end]
        return _File(bytes(mixed))


@pytest.fixture
def disks() -> type[Disk]:
    return Disk


@pytest.fixture
def power_cut() -> type[PowerCut]:
    return PowerCut
