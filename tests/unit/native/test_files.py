"""What of this process's descriptors is another file than before (`_native.Files`)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from sira import _native
from sira.kernel.edge.open_sockets import open_count

Found = tuple[int, int, int]
ALL = 1 << 30


@pytest.fixture
def pipes() -> Iterator[list[int]]:
    """Forty descriptors; a test takes those out that it closes."""
    made = [end for _ in range(20) for end in os.pipe()]
    yield made
    for each in made:
        os.close(each)


def told(descriptor: int) -> Found:
    now = os.fstat(descriptor)
    return descriptor, now.st_ino, now.st_mode


def walked(files: _native.Files, *, span: int = ALL, most: int = ALL) -> list[Found]:
    """Look at all that is open, a part at a time."""
    at, left, found = 0, open_count(), list[Found]()
    while left > 0:
        at, left, some = files.look(at, left, span, most)
        assert len(some) <= most
        found += some
    assert files.end(at) == []
    return found


@pytest.mark.parametrize(("span", "most"), [(ALL, ALL), (7, ALL), (ALL, 3), (5, 1)])
def test_all_that_is_open_is_told_once_whatever_the_parts(
    pipes: list[int], span: int, most: int
) -> None:
    files = _native.Files()
    found = walked(files, span=span, most=most)
    assert set(map(told, pipes)) <= set(found)
    assert len({number for number, _, _ in found}) == len(found)
    assert walked(files, span=span, most=most) == []


def test_a_number_that_stands_for_another_file_is_told_and_one_that_is_closed(
    pipes: list[int],
) -> None:
    files = _native.Files()
    walked(files)
    other, closed = pipes[7], pipes.pop(4)
    replaced = told(other)
    os.dup2(pipes[0], other)
    os.close(closed)
    assert replaced != told(other)
    assert walked(files) == sorted([told(other), (closed, 0, 0)])
    assert walked(files) == []


def test_what_lies_behind_the_last_that_is_open_is_taken_for_closed_and_told_anew_when_it_is_not(
    pipes: list[int],
) -> None:
    files = _native.Files()
    walked(files)
    behind = [each for each in pipes if each >= pipes[10]]
    assert set(behind) <= set(files.end(pipes[10]))
    assert files.end(pipes[10]) == []
    found = walked(files)
    assert set(map(told, behind)) <= set(found)
    assert not {each for each, _, _ in found} & set(pipes[:10])


def test_it_stops_where_as_many_are_open_as_was_said() -> None:
    files = _native.Files()
    at, left, found = files.look(0, 2, ALL, ALL)
    assert (left, len(found)) == (0, 2)
    assert at == found[-1][0] + 1
    assert files.look(at, 0, ALL, ALL) == (at, 0, [])


def test_numbers_that_no_descriptor_has_are_closed() -> None:
    files = _native.Files()
    assert files.look((1 << 31) - 2, 1, 10, ALL) == ((1 << 31) + 8, 1, [])
    for arguments in ((-1, 1, 1, 1), (0, 1, -1, 1)):
        with pytest.raises(ValueError, match="descriptors from"):
            files.look(*arguments)
    with pytest.raises(OverflowError):
        files.end(-1)
