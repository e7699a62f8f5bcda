"""The journal on a disk: what was answered is there again, what is broken is never skipped."""

from __future__ import annotations

import random
import resource
import zlib
from pathlib import Path
from typing import Any

import pytest

from sira.consensus import records, snapshot
from sira.consensus.journal import Journal
from sira.consensus.records import HEAD, RECORD_BYTES
from sira.consensus.state import State
from sira.consensus.storage import FolderStorage, MemoryStorage
from sira.kernel.errors import (
    DataDirUnusable,
    JournalCorrupt,
    JournalFailed,
    StorageFull,
    UpgradeRequired,
)
from sira.v1 import tables_pb2

FIRST = "journal-00000000000000000001.sira"


def put(number: int, *, size: int = 10) -> tables_pb2.TableEntry:
    entry = tables_pb2.TableEntry(version=1, elapsed_ms=1)
    entry.command.transaction.puts.add(table="t", key=f"{number:06d}", value=bytes(size))
    return entry


def fill(journal: Journal, state: State, counts: list[int]) -> None:
    """Append a record of so many entries for each count."""
    for count in counts:
        entries = [put(state.index + 1 + at) for at in range(count)]
        journal.append(state.index + 1, entries)
        for entry in entries:
            state.apply(entry)


def filled(counts: list[int]) -> MemoryStorage:
    storage = MemoryStorage()
    journal = Journal(storage)
    fill(journal, journal.recover(), counts)
    return storage


def spoil(storage: MemoryStorage, name: str, data: bytes) -> None:
    storage.create(name)
    storage.append(name, data)


def offsets(data: bytes) -> list[int]:
    """Where each record begins, and the end."""
    found, end = records.read_records(data, "x", first=1, last_file=True)
    return [*(each.offset for each in found), end]


def test_what_was_appended_is_there_again() -> None:
    storage = filled([1, 3, 2])
    state = Journal(storage).recover()
    assert (state.index, state.revision, state.now_ms) == (6, 6, 6)
    assert [row.key for row in state.rows.scan("t")] == [f"{n:06d}" for n in range(1, 7)]


def test_a_file_cut_anywhere_gives_all_records_that_are_whole() -> None:
    data = filled([1, 3, 2]).read(FIRST)
    starts = offsets(data)
    for cut in range(HEAD.size, len(data) + 1):
        storage = MemoryStorage()
        spoil(storage, FIRST, data[:cut])
        journal = Journal(storage)
        state = journal.recover()
        assert state.index == [0, 1, 4, 6][sum(start <= cut for start in starts) - 1]
        fill(journal, state, [1])  # and it goes on from there
        assert Journal(storage).recover().index == state.index


def test_a_bit_flipped_before_the_last_record_stops_the_start_and_says_where() -> None:
    data = filled([1, 3, 2]).read(FIRST)
    starts = offsets(data)
    for at in range(HEAD.size, starts[2]):
        broken = bytearray(data)
        broken[at] ^= 1 << at % 8
        storage = MemoryStorage()
        spoil(storage, FIRST, bytes(broken))
        with pytest.raises(JournalCorrupt) as caught:
            Journal(storage).recover()
        assert caught.value.details["file"] == FIRST
        assert int(caught.value.details["offset"]) == starts[0] if at < starts[1] else starts[1]
        assert storage.read(FIRST) == broken  # nothing was touched


def test_a_head_that_is_broken_stops_the_start() -> None:
    data = filled([1]).read(FIRST)
    for at in range(HEAD.size):
        storage = MemoryStorage()
        spoil(storage, FIRST, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(JournalCorrupt):
            Journal(storage).recover()


def test_a_newer_format_or_kind_is_never_skipped() -> None:
    storage = filled([1])
    name, _, _, first, _ = HEAD.unpack_from(storage.read(FIRST))
    crc = zlib.crc32(HEAD.pack(name, 2, 0, first, 0))
    spoil(storage, FIRST, HEAD.pack(name, 2, crc, first, 0))
    with pytest.raises(UpgradeRequired, match="format version 2"):
        Journal(storage).recover()
    storage = filled([2])
    newer = tables_pb2.TableEntry(version=2)
    newer.tick.SetInParent()
    Journal.append(_opened(storage), 3, [newer])
    with pytest.raises(UpgradeRequired) as caught:
        Journal(storage).recover()
    assert caught.value.details["file"] == FIRST


def _opened(storage: MemoryStorage) -> Journal:
    journal = Journal(storage)
    journal.recover()
    return journal


@pytest.mark.parametrize("gone", ["journal-00000000000000000001.sira"])
def test_a_file_that_is_missing_is_not_skipped(gone: str) -> None:
    storage = filled([2])
    journal = Journal(storage)
    state = journal.recover()
    journal.turn(3)
    fill(journal, state, [1])
    storage.remove(gone)
    with pytest.raises(JournalCorrupt, match="missing"):
        Journal(storage).recover()


def test_a_snapshot_stands_for_what_was_before_it() -> None:
    storage = filled([5])
    journal = Journal(storage, snapshot_after_bytes=100)
    state = journal.recover()
    assert journal.wants_snapshot
    journal.turn(6)
    picture = snapshot.picture(state)
    fill(journal, state, [2])  # goes on while it is written
    journal.write_snapshot(picture)
    assert storage.names() == [
        "journal-00000000000000000006.sira", "snapshot-00000000000000000005.sira",
    ]  # fmt: skip
    again = Journal(storage).recover()
    assert (again.index, again.revision, again.now_ms) == (7, 7, 7)
    assert again.rows.scan("t") == state.rows.scan("t")


def test_a_snapshot_that_is_broken_stops_the_start() -> None:
    storage = filled([5])
    journal = Journal(storage)
    state = journal.recover()
    journal.turn(6)
    journal.write_snapshot(snapshot.picture(state))
    name = storage.names()[1]
    data = storage.read(name)
    for at in range(0, len(data), 7):
        spoil(storage, name, data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        with pytest.raises(JournalCorrupt):
            Journal(storage).recover()
    for cut in range(0, len(data), 5):
        spoil(storage, name, data[:cut])
        with pytest.raises(JournalCorrupt):
            Journal(storage).recover()


def test_a_full_disk_refuses_and_leaves_nothing_behind(disks: Any) -> None:
    disk = disks(random.Random(1))
    journal = Journal(disk)
    state = journal.recover()
    fill(journal, state, [1])
    disk.room_bytes = len(disk.read(FIRST)) + RECORD_BYTES + 5
    with pytest.raises(StorageFull) as caught:
        journal.append(2, [put(2)])
    assert caught.value.retryable
    disk.room_bytes = None
    fill(journal, state, [1])
    assert Journal(disk).recover().index == 2


@pytest.mark.parametrize("operation", ["append", "sync"])
def test_a_disk_that_fails_is_written_no_more(disks: Any, operation: str) -> None:
    disk = disks(random.Random(1))
    journal = Journal(disk)
    fill(journal, journal.recover(), [1])
    disk.broken = operation
    with pytest.raises(JournalFailed):
        journal.append(2, [put(2)])


def test_a_file_size_limit_is_a_full_disk(tmp_path: Path) -> None:
    """On the real disk: the kernel itself refuses the write half way."""
    journal = Journal(FolderStorage(tmp_path / "tables"))
    state = journal.recover()
    fill(journal, state, [1])
    length = (tmp_path / "tables" / FIRST).stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length + 30, hard))
    try:
        with pytest.raises(StorageFull):
            journal.append(2, [put(2, size=100)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "tables" / FIRST).stat().st_size == length
    fill(journal, state, [1])
    journal.close()
    assert Journal(FolderStorage(tmp_path / "tables")).recover().index == 2


@pytest.mark.parametrize("operation", ["create", "rename", "sync_folder"])
def test_a_folder_that_cannot_be_written_says_so(disks: Any, operation: str) -> None:
    disk = disks(random.Random(1))
    disk.broken = operation
    with pytest.raises(DataDirUnusable):
        Journal(disk).recover()


def test_a_record_inside_a_value_is_no_record_of_the_journal() -> None:
    """A value may hold what looks like a later record; a torn write of it is still cut."""
    lure = records.record(5, 1, b"x")
    storage = filled([1])
    entry = tables_pb2.TableEntry(version=1)
    entry.command.transaction.puts.add(table="t", key="k", value=lure + bytes(100))
    body = tables_pb2.TableBatch(entries=[entry]).SerializeToString()
    torn = records.record(2, 1, body)[:-50]
    storage.append(FIRST, torn)
    assert Journal(storage).recover().index == 1
