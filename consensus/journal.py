"""The journal: what was proposed, in order, on disk before it is answered. Blocks: for a thread.

`recover` makes the state from the newest snapshot and the records after it; `append` writes and
syncs; `turn` and `write_snapshot` keep it short. Files: `journal-<first index>.sira` and
`snapshot-<index>.sira`, their format is in records.py.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Protocol

from google.protobuf.message import DecodeError

from sira.consensus import records, snapshot
from sira.consensus.records import Record, corrupt
from sira.consensus.snapshot import Picture
from sira.consensus.state import State
from sira.consensus.storage import Storage
from sira.kernel.errors import (
    DataDirUnusable,
    JournalFailed,
    SiraError,
    StorageFull,
    UpgradeRequired,
)
from sira.v1 import tables_pb2

SNAPSHOT_AFTER_BYTES = 16 << 20  # of journal, and more than the last snapshot
_NAME = re.compile(r"(journal|snapshot)-(\d{20})\.sira")
_NEW = ".tmp"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Told(Protocol):
    """Where a recovery says what it did."""

    def __call__(self, event: str, text: str, **fields: str | int) -> None:
        """Say it."""
        ...


class Journal:
    """The journal of one node. Belongs to one thread at a time."""

    def __init__(
        self, storage: Storage, *, snapshot_after_bytes: int = SNAPSHOT_AFTER_BYTES
    ) -> None:
        """Keep files in `storage`; nothing is read before `recover`."""
        self._storage, self._snapshot_after_bytes = storage, snapshot_after_bytes
        self._name = ""  # of the file that is written
        self._end = 0  # offset behind its last whole record
        self._snapshot_bytes = 0

    # ---- beginning -------------------------------------------------------------------------------

    def recover(self, told: Told | None = None) -> State:
        """Return the state that was reached; from then on the journal can be appended to.

        Raises:
            JournalCorrupt: file and offset of what cannot be; nothing is skipped.
            UpgradeRequired: a newer Sira wrote it.
            DataDirUnusable: the folder cannot be read or written.
        """
        try:
            return self._recover(told or _nobody)
        except OSError as error:
            raise DataDirUnusable(f"the tables cannot be read or written: {error}") from error

    def _recover(self, told: Told) -> State:
        names = self._storage.names()
        journals, snapshots = _of("journal", names), _of("snapshot", names)
        state = self._restored(snapshots)
        begun = state.index
        first = max((each for each in journals if each <= state.index + 1), default=None)
        if first is None and (journals or snapshots):
            raise corrupt(
                _name("journal", state.index + 1), 0, "it is missing, or one before it is"
            )
        needed = [each for each in sorted(journals) if first is not None and each >= first]
        for each in needed:
            self._replay(state, each, last=each == needed[-1], told=told)
        if not needed:
            self.turn(state.index + 1)
        # A name that was given and not synced before the last life ended is believed from now on.
        self._storage.sync_folder()
        oldest = needed[0] if needed else state.index + 1
        for name in names:
            found = _NAME.fullmatch(name)
            if name.endswith(_NEW) or (
                found and _is_needless(found, oldest, max(snapshots, default=0))
            ):
                self._storage.remove(name)
        if state.index:  # a node that begins has nothing to say
            told(
                "recovered",
                f"{len(state.rows)} rows at revision {state.revision}",
                rows=len(state.rows),
                revision=state.revision,
                index=state.index,
                replayed=state.index - begun,
            )
        return state

    def _restored(self, snapshots: Sequence[int]) -> State:
        """Return the state of the newest snapshot; it was whole before it had its name."""
        if not snapshots:
            return State()
        name = _name("snapshot", max(snapshots))
        data = self._storage.read(name)
        if records.read_head(data, records.SNAPSHOT, name) != max(snapshots):
            raise corrupt(name, 0, "it is of another index than its name says")
        found, _ = records.read_records(data, name, first=None, last_file=False)
        try:
            state = snapshot.restore(tables_pb2.TableSnapshot.FromString(r.body) for r in found)
        except SiraError as error:
            raise type(error)(f"{name}: {error}", details={"file": name}) from error
        self._snapshot_bytes = len(data)
        return state

    def _replay(self, state: State, first: int, *, last: bool, told: Told) -> None:
        """Apply what a file has and the state has not."""
        name = _name("journal", first)
        data = self._storage.read(name)
        if records.read_head(data, records.JOURNAL, name) != first:
            raise corrupt(name, 0, "it begins at another index than its name says")
        if first > state.index + 1:
            raise corrupt(name, 0, f"entries {state.index + 1} to {first - 1} are missing")
        found, end = records.read_records(data, name, first=first, last_file=last)
        for each in found:
            if each.first + each.count - 1 > state.index:
                _apply(state, each, name)
        if not last:
            return
        if end < len(data):
            told(
                "torn",
                f"{name}: {len(data) - end} bytes of a last write that was never answered are cut",
                file=name,
                offset=end,
                bytes=len(data) - end,
            )
            self._storage.truncate(name, end)
        # What was written and not synced before the last life ended is believed from now on.
        self._storage.sync(name)
        self._name, self._end = name, end

    # ---- going on --------------------------------------------------------------------------------

    def append(self, first: int, entries: Sequence[tables_pb2.TableEntry]) -> None:
        """Write entries from index `first` on, and wait until they are on disk.

        Raises:
            StorageFull: no room; nothing of them is there.
            JournalFailed: nobody knows what is on disk: nothing may be appended any more.
        """
        body = tables_pb2.TableBatch(entries=entries).SerializeToString()
        data = records.record(first, len(entries), body)
        try:
            self._storage.append(self._name, data)
        except OSError as error:
            if error.errno not in _FULL:
                raise _failed("written", error) from error
            try:
                self._storage.truncate(self._name, self._end)
            except OSError as worse:
                raise _failed("cut back", worse) from worse
            raise StorageFull(
                f"no room for {len(data)} bytes of {self._name}: {error.strerror}"
            ) from error
        try:
            self._storage.sync(self._name)
        except OSError as error:
            raise _failed("synced", error) from error
        self._end += len(data)

    @property
    def wants_snapshot(self) -> bool:
        """Whether it has become long."""
        return self._end > max(self._snapshot_after_bytes, self._snapshot_bytes)

    def turn(self, first: int) -> None:
        """Go on in a new file, from index `first` on. Requires: all before it is written.

        Raises:
            OSError: it cannot be made; the old one is written on.
        """
        name = _name("journal", first)
        data = records.head(records.JOURNAL, first)
        self._write(name, [data])
        self._name, self._end = name, len(data)

    def write_snapshot(self, picture: Picture) -> None:
        """Write a snapshot beside what there is, then remove what it makes needless.

        It may run beside `append`, in another thread: nothing else in here is touched by both.

        Raises:
            OSError: it cannot be written; what there was is there.
        """
        name = _name("snapshot", picture.index)
        made = (
            records.record(0, 1, each.SerializeToString()) for each in snapshot.sections(picture)
        )
        head = records.head(records.SNAPSHOT, picture.index)
        self._snapshot_bytes = self._write(name, chain([head], made))
        names = self._storage.names()
        first = max(each for each in _of("journal", names) if each <= picture.index + 1)
        for name in names:
            found = _NAME.fullmatch(name)
            if found and _is_needless(found, first, picture.index):
                self._storage.remove(name)

    def close(self) -> None:
        """Let go of the files."""
        self._storage.close()

    def _write(self, name: str, parts: Iterable[bytes]) -> int:
        """Write a file that is whole before it has its name; return its length in bytes."""
        new, length = name + _NEW, 0
        self._storage.create(new)
        for part in parts:  # each write lets others have Python
            self._storage.append(new, part)
            length += len(part)
        self._storage.sync(new)
        self._storage.rename(new, name)
        self._storage.sync_folder()
        return length


def _apply(state: State, record: Record, name: str) -> None:
    """Apply a record's entries.

    Raises:
        UpgradeRequired, JournalCorrupt: file and offset of what is not understood.
    """
    try:
        batch = tables_pb2.TableBatch.FromString(record.body)
    except DecodeError as error:
        raise corrupt(name, record.offset, f"a record is no TableBatch: {error}") from None
    if len(batch.entries) != record.count:
        raise corrupt(name, record.offset, f"{len(batch.entries)} entries, not {record.count}")
    for entry in batch.entries:
        try:
            state.apply(entry)
        except UpgradeRequired as error:
            raise UpgradeRequired(
                f"{name}, offset {record.offset}: {error}",
                details=error.details | {"file": name, "offset": str(record.offset)},
            ) from error


def _name(kind: str, index: int) -> str:
    return f"{kind}-{index:020d}.sira"


def _of(kind: str, names: Sequence[str]) -> list[int]:
    """Return the indexes of the files of a kind."""
    found = (_NAME.fullmatch(name) for name in names)
    return [int(each[2]) for each in found if each and each[1] == kind]


def _is_needless(file: re.Match[str], first_journal: int, snapshot_index: int) -> bool:
    """Whether a journal before the first, or a snapshot before the one, that are needed."""
    return int(file[2]) < (first_journal if file[1] == "journal" else snapshot_index)


def _failed(what: str, error: OSError) -> JournalFailed:
    return JournalFailed(
        f"the journal could not be {what}: {error.strerror}", details={"errno": str(error.errno)}
    )


def _nobody(event: str, text: str, **fields: str | int) -> None:
    """Say it to nobody."""
