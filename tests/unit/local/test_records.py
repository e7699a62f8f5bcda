"""Records of the Unix socket: what is written is read back, and no bytes do harm."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sira
from sira import _native
from sira.kernel.errors import ProtocolError
from sira.kernel.local import record

LIMIT = 1 << 20
kinds = st.sampled_from(range(record.CALL, record.WINDOW + 1))
records = st.tuples(kinds, st.integers(1, (1 << 32) - 1), st.integers(0, 253), st.binary())


def receive(reader: _native.RecordReader, data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Give the reader as much as it has room for, as often as needed."""
    found = []
    while data:
        count = min(reader.room, len(data))
        with memoryview(reader) as view:
            assert len(view) == reader.room
            view[:count] = data[:count]
        found += reader.feed(count)
        data = data[count:]
    return found


def encoded(each: tuple[int, int, int, bytes]) -> bytes:
    kind, call, descriptors, body = each
    return record.head(kind, call, len(body), descriptors) + body


@given(st.lists(records, max_size=20), st.integers(0, 1 << 30))
@settings(deadline=None)
def test_records_come_out_as_they_went_in_however_they_are_cut(
    wanted: list[tuple[int, int, int, bytes]], seed: int
) -> None:
    rng = random.Random(seed)
    reader, found = _native.RecordReader(LIMIT), []
    data = b"".join(map(encoded, wanted))
    while data:
        count = rng.choice((1, 3, 15, 16, 17, 100, 70_000))
        found += receive(reader, data[:count])
        data = data[count:]
    assert found == wanted and not reader.partial


@pytest.mark.parametrize("size", [0, 1, 16_383, 16_384, 65_520, 65_521, 200_000, LIMIT])
@pytest.mark.parametrize("step", [7, 4_096, 65_536, 1 << 30])
def test_bodies_of_every_size_arrive_between_small_ones(size: int, step: int) -> None:
    body = random.Random(size).randbytes(size)
    wanted = [(3, 1, 0, b"before"), (3, 2, 0, body), (3, 3, 0, b"after"), (7, 4, 0, b"1234")]
    data, reader, found = b"".join(map(encoded, wanted)), _native.RecordReader(LIMIT), []
    for at in range(0, len(data), step):
        found += receive(reader, data[at : at + step])
    assert found == wanted


@given(st.binary(max_size=200), st.booleans())
@settings(max_examples=500, deadline=None)
def test_any_bytes_give_records_or_a_typed_error(data: bytes, likely: bool) -> None:
    if likely:  # a head that passes most checks, to come behind it
        kind = 1 + len(data) % 13
        call = int(kind < record.SEGMENT)
        data = struct.pack("<IIBBHI", len(data) % 64, call, kind, 0, 0, 0) + data
    reader = _native.RecordReader(64)
    try:
        for kind, call, descriptors, body in receive(reader, data):
            assert record.HELLO <= kind <= record.ROUTE_LEFT and len(body) <= 64
            assert 0 <= call < 1 << 32 and descriptors <= record.DESCRIPTORS_MAX
    except sira.SiraError as error:
        assert error.code == "PROTOCOL_ERROR"
        with pytest.raises(BufferError):
            memoryview(reader)  # for good
        with pytest.raises(BufferError):
            reader.feed(0)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (struct.pack("<IIBBHI", LIMIT + 1, 1, 3, 0, 0, 0), "longer"),
        (struct.pack("<IIBBHI", (1 << 32) - 1, 1, 3, 0, 0, 0), "longer"),
        (struct.pack("<IIBBHI", 0, 1, 99, 0, 0, 0), "kind"),
        (struct.pack("<IIBBHI", 0, 0, 3, 0, 0, 0), "call"),
        (struct.pack("<IIBBHI", 0, 1, 3, 254, 0, 0), "descriptors"),
        (struct.pack("<IIBBHI", 0, 1, 3, 0, 1, 0), "reserved"),
        (struct.pack("<IIBBHI", 0, 1, 3, 0, 0, 1), "reserved"),
        (b"GET / HTTP/1.1\r\n", "kind"),
    ],
)
def test_a_head_that_lies_is_refused_by_its_reason(head: bytes, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        receive(_native.RecordReader(LIMIT), head)


def test_the_reader_keeps_what_is_written_into_it_in_bounds() -> None:
    reader = _native.RecordReader(LIMIT)
    with pytest.raises(BufferError):
        reader.feed(1)  # nothing was received
    with memoryview(reader) as view:
        with pytest.raises(BufferError):
            reader.feed(0)  # while somebody may still write
        room = len(view)
    with pytest.raises(ValueError, match="room"):
        reader.feed(room + 1)


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_bodies_that_cannot_be_read_are_typed_errors(body: bytes) -> None:
    for read in (record.read_hello, record.read_grant, record.read_status):
        try:
            read(body)
        except sira.SiraError as error:
            assert error.code in ("PROTOCOL_ERROR", "UNSUPPORTED")
    try:
        record.read_call(body, metadata_bytes_max=200)
    except sira.SiraError as error:
        assert error.code == "PROTOCOL_ERROR"


def test_a_call_says_what_it_was_given() -> None:
    body = record.call("/a.B/C", [("k", "v"), ("k", "w")], 1.5)
    found = record.read_call(body, metadata_bytes_max=1_000)
    assert (found.method, found.timeout_us) == ("/a.B/C", 1_500_000)
    assert [(each.key, each.value) for each in found.metadata] == [("k", "v"), ("k", "w")]
    assert record.read_call(record.call("/a.B/C", [], None), metadata_bytes_max=99).timeout_us == 0
    with pytest.raises(ProtocolError, match="at most 10"):
        record.read_call(body, metadata_bytes_max=10)


@pytest.mark.parametrize("given_bytes", [0, (1 << 30) + 1, (1 << 32) - 1])
def test_a_window_gives_something_and_not_everything(given_bytes: int) -> None:
    with pytest.raises(ProtocolError):
        record.read_grant(record.grant(given_bytes))
    assert record.read_grant(record.grant(5)) == 5


def test_what_is_said_of_shared_memory_is_read_back() -> None:
    read = record.read_segment(record.segment(7, 1 << 20, "a.b"), 1)
    assert (read.segment, read.bytes, read.audience) == (7, 1 << 20, "a.b")
    assert record.read_segments(record.segments([1, 9])) == [1, 9]
    assert record.read_leases(record.leases([3, 1 << 63])) == [3, 1 << 63]


@pytest.mark.parametrize(
    ("number", "size_bytes", "descriptors"), [(0, 64, 1), (1, 0, 1), (1, 64, 0), (1, 64, 2)]
)
def test_a_segment_has_a_number_a_size_and_one_descriptor(
    number: int, size_bytes: int, descriptors: int
) -> None:
    with pytest.raises(ProtocolError):
        record.read_segment(record.segment(number, size_bytes), descriptors)


@pytest.mark.parametrize("read", [record.read_segments, record.read_leases])
def test_what_is_no_list_is_refused(read: Callable[[bytes], list[int]]) -> None:
    with pytest.raises(ProtocolError):
        read(b"\x0a\xff")
