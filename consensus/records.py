"""The format of the files on disk: a head, then records. Pure: bytes in, bytes out.

    head    32 bytes: name of the format (8), u32 version, u32 CRC-32 of all the rest of the head,
            u64 first (journal: index of the first entry; snapshot: of the last in it), u64 zero
    record  24 bytes: u32 length of the body, u32 CRC-32 of the body, u64 index of its first entry,
            u32 count of entries, u32 CRC-32 of the 20 bytes before; then the body

All little-endian. A record of a journal is what left in one write and was synced as one, so power
loss can spoil the last record of the last file and nothing before it. The head of a record has a
CRC of its own: a length that is wrong must not make a record in the middle look like a torn end.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from sira.kernel.errors import JournalCorrupt, UpgradeRequired

JOURNAL, SNAPSHOT = b"SIRAJRNL", b"SIRASNAP"
VERSION = 1
HEAD = struct.Struct("<8sIIQQ")
_RECORD = struct.Struct("<IIQI")
_CRC = struct.Struct("<I")
RECORD_BYTES = _RECORD.size + _CRC.size
BODY_BYTES_MAX = 64 << 20
# How far ahead an index is looked for, where a head is broken: more than ever stood in one file.
_AHEAD_MAX = 1 << 32


@dataclass(frozen=True, slots=True)
class Record:
    """One record: `count` entries from index `first` on."""

    offset: int
    first: int
    count: int
    body: bytes

    @property
    def end(self) -> int:
        """Offset behind it."""
        return self.offset + RECORD_BYTES + len(self.body)


def head(format_: bytes, first: int) -> bytes:
    """Return the head of a file."""
    crc = zlib.crc32(HEAD.pack(format_, VERSION, 0, first, 0))
    return HEAD.pack(format_, VERSION, crc, first, 0)


def read_head(data: bytes, format_: bytes, name: str) -> int:
    """Return what a file's head says of its first index.

    Raises:
        JournalCorrupt: no head of this format.
        UpgradeRequired: of a version that this code does not know.
    """
    if len(data) < HEAD.size:
        raise corrupt(name, 0, "it has no whole head")
    found, version, crc, first, rest = HEAD.unpack_from(data)
    if found != format_ or crc != zlib.crc32(HEAD.pack(found, version, 0, first, rest)):
        raise corrupt(name, 0, f"no head of the format {format_.decode()}")
    if version != VERSION:
        raise UpgradeRequired(
            f"{name} has format version {version}; this Sira knows {VERSION}",
            details={"file": name, "version": str(version), "known": str(VERSION)},
        )
    return int(first)


def record(first: int, count: int, body: bytes) -> bytes:
    """Return a record as it is written."""
    assert len(body) <= BODY_BYTES_MAX, len(body)
    front = _RECORD.pack(len(body), zlib.crc32(body), first, count)
    return front + _CRC.pack(zlib.crc32(front)) + body


def read_records(
    data: bytes, name: str, *, first: int | None, last_file: bool
) -> tuple[list[Record], int]:
    """Return the whole records of a file, and where they end.

    Args:
        data: the file, head included.
        name: for the error.
        first: index that the first record must have; each next one goes on from there. None: a
            snapshot, whose records all stand at 0.
        last_file: its end may be torn.

    Returns:
        Records, and the offset behind the last of them: what follows, if anything, is a torn end.

    Raises:
        JournalCorrupt: a record is broken and not merely the last one torn.
    """
    found: list[Record] = []
    offset, index = HEAD.size, first or 0
    while offset < len(data):
        each = _read_one(data, offset)
        if each is None:
            if last_file and _is_torn(data, offset, index):
                return found, offset
            raise corrupt(name, offset, "a record is broken, and it is not the torn end of a write")
        if each.first != index:
            raise corrupt(name, offset, f"a record has index {each.first} in the place of {index}")
        found.append(each)
        offset = each.end
        if first is not None:
            index += each.count
    return found, offset


def _read_one(data: bytes, offset: int) -> Record | None:
    """Return the record at an offset; None: there is no whole one."""
    front = _front(data, offset)
    if front is None:
        return None
    length, crc, first, count = front
    body = data[offset + RECORD_BYTES : offset + RECORD_BYTES + length]
    if len(body) < length or zlib.crc32(body) != crc:
        return None
    return Record(offset, first, count, body)


def _front(data: bytes, offset: int) -> tuple[int, int, int, int] | None:
    """Return what a record's head says; None: it is broken or cut."""
    if len(data) - offset < RECORD_BYTES:
        return None
    length, crc, first, count = _RECORD.unpack_from(data, offset)
    (own,) = _CRC.unpack_from(data, offset + _RECORD.size)
    if own != zlib.crc32(data[offset : offset + _RECORD.size]) or length > BODY_BYTES_MAX:
        return None
    return length, crc, first, count


def _is_torn(data: bytes, offset: int, index: int) -> bool:
    """Whether what stands at `offset` can be the last write before power was lost.

    It can when nothing that was written after it is there.
    """
    front = _front(data, offset)
    if front is not None:  # what it says of its length is true
        return front[2] == index and offset + RECORD_BYTES + front[0] >= len(data)
    return not _whole_follows(data, offset + 1, index)


def _whole_follows(data: bytes, start: int, index: int) -> bool:
    """Whether anywhere from `start` on there is a whole record of a later index."""
    field = _RECORD.size - 12  # offset of the index in the head
    count = len(data) - start - RECORD_BYTES + 1
    if count <= 0:
        return False
    view = np.frombuffer(data, np.uint8)
    for shift in range(min(8, count)):
        begin = start + shift + field
        words = view[begin : begin + (len(data) - begin) // 8 * 8].view("<u8")
        for at in np.flatnonzero((words >= index) & (words < index + _AHEAD_MAX)):
            if _read_one(data, start + shift + 8 * int(at)) is not None:
                return True
    return False


def corrupt(name: str, offset: int, what: str) -> JournalCorrupt:
    """Return the error that names file and offset."""
    return JournalCorrupt(
        f"{name}, offset {offset}: {what}", details={"file": name, "offset": str(offset)}
    )
