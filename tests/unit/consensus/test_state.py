"""Transactions: all or nothing, revisions, requests that come twice; snapshots go on alike."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sira.consensus import snapshot
from sira.consensus.answers import Answers
from sira.consensus.state import State
from sira.kernel.errors import UpgradeRequired
from sira.v1 import tables_pb2

_KEYS = st.sampled_from(["a", "a/b", "b", "é"])
_TABLES = st.sampled_from(["t", "u"])
_TRANSACTIONS = st.lists(
    st.tuples(
        st.lists(st.tuples(_TABLES, _KEYS, st.integers(0, 6)), max_size=2),
        st.dictionaries(st.tuples(_TABLES, _KEYS), st.none() | st.binary(max_size=3), max_size=4),
    ),
    max_size=20,
)


def _transaction(
    compares: list[tuple[str, str, int]], writes: dict[tuple[str, str], bytes | None]
) -> tables_pb2.TableTransaction:
    made = tables_pb2.TableTransaction()
    for table, key, revision in compares:
        made.compares.add(table=table, key=key, revision=revision)
    for (table, key), value in writes.items():
        if value is None:
            made.deletes.add(table=table, key=key)
        else:
            made.puts.add(table=table, key=key, value=value)
    return made


def _entry(**command: Any) -> tables_pb2.TableEntry:
    return tables_pb2.TableEntry(version=1, command=tables_pb2.TableCommand(**command))


def _rows(state: State) -> dict[tuple[str, str], Any]:
    return {(r.table, r.key): r for t in state.rows.tables() for r in state.rows.scan(t)}


@given(_TRANSACTIONS)
def test_a_transaction_does_what_a_dictionary_of_revisions_would(steps: Any) -> None:
    state = State()
    model: dict[tuple[str, str], tuple[bytes, int, int]] = {}
    revision = 0
    for compares, writes in steps:
        applied = state.apply(_entry(transaction=_transaction(compares, writes)))
        holds = all(model.get((t, k), (b"", 0, 0))[2] == r for t, k, r in compares)
        assert applied.result.error.code == ("" if holds else "CONFLICT")
        changes = 0
        if holds:
            for at, value in writes.items():
                if value is not None:
                    created = model[at][1] if at in model else revision + 1
                    model[at], changes = (value, created, revision + 1), changes + 1
                elif model.pop(at, None) is not None:
                    changes += 1
        revision += bool(changes)
        assert (len(applied.changes), state.revision) == (changes, revision)
        assert applied.result.revision == revision
        found = {at: (r.value, r.created, r.changed) for at, r in _rows(state).items()}
        assert found == model


@given(_TRANSACTIONS, st.integers(0, 20))
def test_a_snapshot_taken_anywhere_goes_on_like_the_state_that_it_is_of(
    steps: Any, at: int
) -> None:
    one, other = State(), State()
    for number, (compares, writes) in enumerate(steps):
        if number == at:
            other = snapshot.restore(_reread(snapshot.sections(snapshot.picture(other))))
        command = {
            "transaction": _transaction(compares, writes),
            "request": tables_pb2.TableRequest(client="c", sequence=number // 2),
        }
        assert one.apply(_entry(**command)) == other.apply(_entry(**command))
    assert _rows(one) == _rows(other)
    assert snapshot.picture(one).head == snapshot.picture(other).head
    assert snapshot.picture(one).answers == snapshot.picture(other).answers


def _reread(sections: Any) -> Any:
    """Through bytes, as a file would."""
    return [tables_pb2.TableSnapshot.FromString(each.SerializeToString()) for each in sections]


def test_a_compare_that_does_not_hold_tells_the_revision_that_does(bench: Any) -> None:
    bench.transact(puts=[("t", "a", b"1")])
    result = bench.transact(compares=[("t", "a", 0), ("t", "b", 0), ("t", "c", 7)],
                            puts=[("t", "b", b"2")])  # fmt: skip
    assert result.error.code == "CONFLICT" and not result.error.retryable
    assert [(c.key, c.revision) for c in result.conflicts] == [("a", 1), ("c", 0)]
    assert bench.state.rows.get("t", "b") is None


def test_a_request_that_comes_twice_is_applied_once_and_has_one_result(bench: Any) -> None:
    request = tables_pb2.TableRequest(client="c", sequence=9)
    first = bench.transact(compares=[("t", "a", 0)], puts=[("t", "a", b"1")], request=request)
    again = bench.transact(compares=[("t", "a", 0)], puts=[("t", "a", b"1")], request=request)
    other = bench.transact(compares=[("t", "a", 0)], puts=[("t", "a", b"1")])
    assert first == again and not again.HasField("error")
    assert other.error.code == "CONFLICT"


def test_a_refusal_is_remembered_too(bench: Any) -> None:
    request = tables_pb2.TableRequest(client="c", sequence=1)
    first = bench.transact(compares=[("t", "a", 5)], request=request)
    bench.transact(puts=[("t", "a", b"")])
    assert bench.transact(compares=[("t", "a", 5)], request=request) == first


def test_time_passes_also_with_a_request_that_was_answered(bench: Any) -> None:
    request = tables_pb2.TableRequest(client="c", sequence=1)
    bench.transact(request=request)
    bench.acquire(ttl_ms=100)
    applied = bench.apply(200, request=request, transaction=tables_pb2.TableTransaction())
    assert [each.reason for each in applied.changes] == ["expired"]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"puts": [("leases", "a", b"")]}, "BAD_REQUEST"),
        ({"deletes": [("config", "a")]}, "BAD_REQUEST"),
        ({"puts": [("config.history", "a", b"")]}, "BAD_REQUEST"),
        ({"puts": [("t", "", b"")]}, "BAD_REQUEST"),
        ({"puts": [("", "a", b"")]}, "BAD_REQUEST"),
        ({"puts": [("t", "a", b""), ("t", "a", b"")]}, "BAD_REQUEST"),
        ({"puts": [("t", "a", b"")], "deletes": [("t", "a")]}, "BAD_REQUEST"),
        ({"puts": [("t", "a", bytes((64 << 10) + 1))]}, "MESSAGE_TOO_LARGE"),
        ({"puts": [("t", "é" * 513, b"")]}, "MESSAGE_TOO_LARGE"),
        ({"puts": [("t" * 65, "a", b"")]}, "MESSAGE_TOO_LARGE"),
        ({"deletes": [("t", str(n)) for n in range(1_025)]}, "MESSAGE_TOO_LARGE"),
        ({"puts": [("t", str(n), bytes(60_000)) for n in range(71)]}, "MESSAGE_TOO_LARGE"),
    ],
)
def test_what_no_state_takes_changes_nothing(bench: Any, fields: Any, code: str) -> None:
    assert bench.transact(**fields).error.code == code
    assert (bench.state.revision, len(bench.state.rows)) == (0, 0)


@pytest.mark.parametrize(
    "fields",
    [
        {"puts": [("t", "é" * 512, bytes(64 << 10))]},
        {"puts": [("t" * 64, "a", b"")]},
        {"deletes": [("t", str(n)) for n in range(1_024)]},
        {"compares": [("leases", "a", 0), ("t", "a", 0)], "puts": [("t", "a", b"")]},
    ],
)
def test_what_is_just_within_the_limits_is_taken(bench: Any, fields: Any) -> None:
    assert not bench.transact(**fields).HasField("error")


@pytest.mark.parametrize(
    "entry",
    [
        tables_pb2.TableEntry(version=2, tick=tables_pb2.TableTick()),
        tables_pb2.TableEntry(version=1),
        tables_pb2.TableEntry(version=1, command=tables_pb2.TableCommand()),
        # a kind of tomorrow: field 99
        tables_pb2.TableEntry.FromString(b"\x08\x01\x9a\x06\x00"),
    ],
)
def test_an_entry_that_is_not_understood_stops_and_changes_nothing(entry: Any) -> None:
    state = State()
    with pytest.raises(UpgradeRequired):
        state.apply(entry)
    assert (state.index, state.now_ms) == (0, 0)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=60))
def test_answers_keep_the_last_of_each_client_and_of_all(asked: list[tuple[str, int]]) -> None:
    answers = Answers(per_client_max=3, all_max=5)
    model: list[tuple[str, int]] = []
    for index, (client, sequence) in enumerate(asked):
        request = tables_pb2.TableRequest(client=client, sequence=sequence)
        known = answers.get(request)
        assert (known is not None) == ((client, sequence) in model)
        if known is None:
            answers.keep(client, sequence, tables_pb2.TableResult(index=index))
            model.append((client, sequence))
            of_client = [each for each in model if each[0] == client]
            if len(of_client) > 3:
                model.remove(of_client[0])
            del model[:-5]
        assert [each[:2] for each in answers.items()] == model
        assert len(answers) == len(model)


@given(st.lists(st.text(max_size=3), unique=True, max_size=20), st.text(max_size=2),
       st.text(max_size=2), st.none() | st.integers(1, 4))  # fmt: skip
def test_a_scan_has_all_keys_of_a_prefix_after_a_key_in_order(
    keys: list[str], prefix: str, after: str, count_max: int | None
) -> None:
    state = State()
    rows = [(("t", key), b"") for key in keys if key]
    state.apply(_entry(transaction=_transaction([], dict(rows))))
    found = [row.key for row in state.rows.scan("t", prefix, after=after, count_max=count_max)]
    wanted = sorted(key for key in keys if key and key.startswith(prefix) and key > after)
    assert found == wanted[:count_max]
