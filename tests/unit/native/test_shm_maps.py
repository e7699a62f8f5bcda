"""Spans of others' memory: what may be mapped, what a span keeps, and when its lease is over."""

from __future__ import annotations

import fcntl
import gc
import mmap
import os
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from sira import _native
from sira.kernel.errors import FrameCorrupt, SiraError

SIZE = 1 << 20


@pytest.fixture
def bell() -> Iterator[int]:
    """An eventfd."""
    made = _native.shm_bell()
    yield made
    os.close(made)


def rung(bell: int) -> bool:
    try:
        return bool(os.read(bell, 8))
    except BlockingIOError:
        return False


def segment() -> tuple[_native.ShmArena, _native.ShmChunk, int]:
    """An arena with one chunk, and a descriptor of its one segment."""
    arena = _native.ShmArena(SIZE)
    chunk = arena.take(200_000)
    with memoryview(chunk) as view:
        view[:4] = b"data"
    ((_, fd, size),) = arena.segments()
    assert size == 256 << 10
    return arena, chunk, os.dup(fd)


def mapped(bell: int = -1) -> tuple[_native.ShmMaps, _native.ShmArena]:
    arena, _, fd = segment()
    maps = _native.ShmMaps(bell)
    maps.map(3, fd, 256 << 10)
    return maps, arena


def test_a_lease_is_over_with_the_last_look_at_its_span(bell: int) -> None:
    maps, _ = mapped(bell)
    span = maps.span(3, 0, 100, 11)
    array = np.frombuffer(span, np.uint8)
    assert (maps.spans, maps.lent_bytes, maps.ended(), rung(bell)) == (1, 100, [], False)
    assert bytes(array[:4]) == b"data" and not array.flags.writeable
    del span
    assert maps.ended() == [] and bytes(array[:4]) == b"data"
    del array
    assert rung(bell) and maps.ended() == [11] and maps.ended() == []
    assert (maps.spans, maps.lent_bytes) == (0, 0)


def test_the_bell_is_rung_once_for_all_that_nobody_asked_for(bell: int) -> None:
    maps, _ = mapped(bell)
    spans = [maps.span(3, 64 * i, 64, i + 1) for i in range(1_000)]
    spans.clear()
    assert int.from_bytes(os.read(bell, 8), "little") == 1
    assert sorted(maps.ended()) == list(range(1, 1_001))
    maps.span(3, 0, 1, 5_000)
    assert rung(bell) and maps.ended() == [5_000]


def test_a_span_may_end_in_any_thread(bell: int) -> None:
    maps, _ = mapped(bell)
    held = [maps.span(3, 0, 1, lease) for lease in range(1, 101)]
    threads = [threading.Thread(target=held.pop) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    assert rung(bell) and sorted(maps.ended()) == list(range(1, 101))


def test_what_is_looked_at_outlives_the_segment_its_publisher_and_the_maps() -> None:
    maps, arena = mapped()
    span = maps.span(3, 0, 4, 1)
    maps.drop(3)
    with pytest.raises(FrameCorrupt):
        maps.span(3, 0, 4, 2)
    del arena, maps
    gc.collect()
    assert bytes(span) == b"data"


@pytest.mark.parametrize(
    ("number", "offset", "size"),
    [(4, 0, 1), (3, SIZE, 1), (3, (256 << 10) - 1, 2), (3, 2**64 - 1, 2), (3, 1, 2**64 - 1)],
)
def test_what_lies_outside_is_refused_and_its_lease_is_over(
    number: int, offset: int, size: int
) -> None:
    maps, _ = mapped()
    with pytest.raises(FrameCorrupt):
        maps.span(number, offset, size, 9)
    assert maps.ended() == [9]


def unsealed() -> int:
    fd = os.memfd_create("segment", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, SIZE)
    return fd


def writable_by_others() -> int:
    fd = unsealed()
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


def a_file() -> int:
    return os.open("/proc/self/exe", os.O_RDONLY)


@pytest.mark.parametrize("made", [unsealed, writable_by_others, a_file])
def test_only_a_sealed_memfd_is_mapped(made: object) -> None:
    assert callable(made)
    fd = made()
    with pytest.raises(SiraError) as caught:
        _native.ShmMaps().map(1, fd, SIZE)
    assert caught.value.code == "LINK_CORRUPT"
    os.close(fd)  # still the caller's


def test_the_size_is_what_was_told_and_an_id_is_one_segments() -> None:
    _, _, fd = segment()
    maps = _native.ShmMaps()
    for wrong in (SIZE, 4096, 0, 2**63):
        with pytest.raises((SiraError, OSError)):
            maps.map(1, fd, wrong)
    maps.map(1, fd, 256 << 10)
    _, _, other = segment()
    with pytest.raises(SiraError, match="mapped already"):
        maps.map(1, other, 256 << 10)
    os.close(other)


def test_a_reader_can_write_to_none_of_it() -> None:
    maps, arena = mapped()
    with pytest.raises((BufferError, TypeError, ValueError)):
        np.frombuffer(maps.span(3, 0, 4, 1), np.uint8)[0] = 1
    ((_, fd, size),) = arena.segments()
    with pytest.raises(PermissionError):
        os.write(fd, b"x")
    with pytest.raises(PermissionError):
        mmap.mmap(fd, size, prot=mmap.PROT_WRITE)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    with pytest.raises(PermissionError):
        mmap.mmap(again, size, prot=mmap.PROT_WRITE)
    os.close(again)
