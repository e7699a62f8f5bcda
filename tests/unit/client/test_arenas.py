"""What a client lends: one arena for each audience, and no memory written that somebody reads."""

from __future__ import annotations

import pytest

from sira import _native
from sira.client.local.arenas import (
    IDLE_NS,
    REST_NS,
    WARM_BYTES,
    Arenas,
    shm_bytes_max,
    shm_bytes_min,
)
from sira.kernel.errors import BadRequest

MIB = 1 << 20


def begun(all_bytes_max: int = 64 * MIB, **limits: int) -> Arenas:
    arenas = Arenas(all_bytes_max)
    arenas.begin(**limits)
    return arenas


def taken(arenas: Arenas, audience: str, size_bytes: int, now_ns: int = 0) -> _native.ShmChunk:
    found = arenas.take(audience, size_bytes, now_ns)
    assert found is not None
    return found[0]


def test_nothing_is_lent_before_there_is_a_node_that_takes_it() -> None:
    arenas = Arenas(64 * MIB)
    assert arenas.take("a", 100, 0) is None
    arenas.begin()
    assert len(taken(arenas, "a", 100)) == 100


def test_a_node_is_told_each_segment_once_and_before_its_first_message() -> None:
    arenas = begun()
    found = arenas.take("a.b", 100, 0)
    assert found is not None and not found[1]
    (shown,) = arenas.news().shown
    assert shown[2] >= 100 and shown[3] == "a.b"
    again = arenas.take("a.b", 100, 0)
    assert again is not None and again[1]
    assert arenas.news() == ([], [])


def test_audiences_share_no_segment() -> None:
    arenas = begun()
    chunks = [taken(arenas, name, 100) for name in ("a", "b", "a")]
    shown = arenas.news().shown
    assert {each[3] for each in shown} == {"a", "b"} and len(chunks) == 3
    assert len({each[0] for each in shown}) == 2


def test_before_new_memory_is_made_what_readers_are_done_with_is_taken_back() -> None:
    arenas, read = begun(), []
    arenas.collect = read.clear
    read.append(taken(arenas, "a", MIB))
    for _ in range(3):
        read.append(taken(arenas, "a", MIB))
    assert len(arenas.news().shown) == 1
    arenas.collect = lambda: None
    read.append(taken(arenas, "a", MIB))
    assert len(arenas.news().shown) == 1


def test_what_is_larger_than_all_may_be_is_copied() -> None:
    assert begun(MIB).take("a", 2 * MIB, 0) is None


def test_a_node_that_takes_less_is_lent_less() -> None:
    arenas = begun(64 * MIB, bytes_max=4 * MIB)
    assert arenas.take("a", 8 * MIB, 0) is None
    arenas.begin()
    assert len(taken(arenas, "a", 8 * MIB)) == 8 * MIB


def test_an_arena_that_is_full_lends_again_when_memory_has_come_back() -> None:
    arenas = begun(8 * MIB)
    chunks = [taken(arenas, "a", 4 * MIB) for _ in range(2)]
    assert arenas.take("a", 4 * MIB, 0) is None
    del chunks[0]
    assert len(taken(arenas, "a", 4 * MIB)) == 4 * MIB


def test_the_limit_holds_over_all_audiences_and_the_idle_make_way() -> None:
    arenas = begun(8 * MIB)
    first = taken(arenas, "a", 4 * MIB)
    second = taken(arenas, "b", 4 * MIB)
    arenas.news()
    assert arenas.take("c", 4 * MIB, 0) is None  # both are being read
    assert arenas.segment_bytes <= 8 * MIB
    del first
    third = taken(arenas, "c", 4 * MIB)
    news = arenas.news()
    assert [each[3] for each in news.shown] == ["c"] and len(news.gone) == 1
    assert len(second) == len(third) == arenas.lent_bytes // 2


def test_so_many_segments_are_lent_as_the_node_takes() -> None:
    arenas = begun(64 * MIB, segments_max=3)
    chunks = [arenas.take(name, 100, 0) for name in "abcd"]
    assert [each is None for each in chunks] == [False, False, False, True]
    del chunks[0]
    assert arenas.take("e", 100, 0) is not None


def test_after_a_stop_nothing_is_written_where_fewer_may_read() -> None:
    arenas = begun()
    before = taken(arenas, "a", 100)
    ((segment, _, _, _),) = arenas.news().shown
    late_ns = 5 * REST_NS
    arenas.stop([segment], late_ns)
    after = taken(arenas, "a", 100, late_ns)
    ((other, _, _, _),) = arenas.news().shown
    assert other != segment and len(before) == len(after)
    del before
    arenas.tend(late_ns)
    assert arenas.news().gone == [segment]


def test_a_stop_of_what_was_just_made_lets_no_segment_be_made_for_a_while() -> None:
    arenas = begun()
    before = taken(arenas, "before", 100)
    arenas.news()
    chunk = taken(arenas, "a", 100, 10 * REST_NS)
    ((segment, _, _, _),) = arenas.news().shown
    now_ns = 10 * REST_NS + 1
    arenas.stop([segment, 77], now_ns)
    assert arenas.take("a", 100, now_ns) is None
    assert arenas.take("b", 100, now_ns) is None
    assert arenas.take("before", 32 * MIB, now_ns) is None
    assert len(taken(arenas, "before", 100, now_ns)) == len(chunk) == len(before)
    assert arenas.take("a", 100, now_ns + REST_NS) is not None


def test_another_node_is_shown_what_is_still_to_be_sent_and_old_memory_takes_nothing_new() -> None:
    arenas = begun()
    unsent, sent = taken(arenas, "a", 100), taken(arenas, "b", 100)
    old = {each[0]: each[3] for each in arenas.news().shown}
    del sent
    arenas.end()
    assert arenas.take("a", 100, 0) is None
    arenas.begin()
    shown = arenas.news().shown
    assert [(each[3], old.get(each[0])) for each in shown] == [("a", "a")]
    fresh = taken(arenas, "a", 100)
    assert {each[0] for each in arenas.news().shown}.isdisjoint(old)
    assert len(unsent) == len(fresh)


def test_what_was_idle_for_long_goes_back_but_for_one_reserve() -> None:
    arenas = begun(256 * MIB)
    chunks = [taken(arenas, f"t{number}", 4 * MIB) for number in range(8)]
    arenas.news()
    assert arenas.tend(0)
    chunks.clear()
    assert arenas.tend(1)
    assert not arenas.tend(IDLE_NS + 1)
    assert 0 < arenas.segment_bytes <= WARM_BYTES
    assert len(arenas.news().gone) == 8 - arenas.segment_bytes // (4 * MIB)


def test_what_is_read_for_long_is_not_idle() -> None:
    arenas = begun(256 * MIB)
    chunk = taken(arenas, "a", 64 * MIB)
    for round_ in range(3):
        assert arenas.tend(round_ * IDLE_NS)
    assert arenas.lent_bytes == len(chunk)


def test_nothing_is_written_where_somebody_reads_however_often_it_is_taken() -> None:
    arenas = begun(8 * MIB)
    held = memoryview(taken(arenas, "a", MIB))
    held[:] = b"\x5a" * MIB
    wanted = bytes(held)
    for _ in range(100):  # more than ten times all that there is
        found = arenas.take("a", MIB, 0)
        assert found is not None
        memoryview(found[0])[:] = bytes(MIB)
    assert bytes(held) == wanted


@pytest.mark.parametrize(
    ("switch", "limit", "wanted"),
    [("", "", 1 << 30), ("on", "4096", 4096), ("off", "4096", 0), ("", "0", 0)],
)
def test_the_environment_says_how_much_is_lent(
    monkeypatch: pytest.MonkeyPatch, switch: str, limit: str, wanted: int
) -> None:
    monkeypatch.setenv("SIRA_SHM", switch)
    monkeypatch.setenv("SIRA_SHM_BYTES_MAX", limit)
    assert shm_bytes_max() == wanted


@pytest.mark.parametrize(
    ("variable", "value"),
    [("SIRA_SHM", "yes"), ("SIRA_SHM_BYTES_MAX", "1G"), ("SIRA_SHM_BYTES_MAX", "9" * 30)],
)
def test_what_the_environment_cannot_mean_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(BadRequest, match=variable):
        shm_bytes_max()


def test_from_so_many_bytes_on_a_body_is_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIRA_SHM_BYTES_MIN", raising=False)
    assert shm_bytes_min() == 64 << 10
    monkeypatch.setenv("SIRA_SHM_BYTES_MIN", "1")
    assert shm_bytes_min() == 1
