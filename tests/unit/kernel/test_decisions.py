"""The pure parts: identity, authorize, events, ledger, logs."""

from __future__ import annotations

import io
import json

import pytest

from sira.kernel import ledger
from sira.kernel.authorize import Allow, authorize
from sira.kernel.errors import BadRequest
from sira.kernel.events import KINDS, Events
from sira.kernel.identity import Principal
from sira.kernel.logs import FIELDS, Logs
from sira.v1 import kernel_pb2

ALICE = Principal("c", "default", "user", "alice")
BOB = Principal("c", "default", "user", "bob")


def test_a_principal_is_its_uri() -> None:
    assert str(ALICE) == "sira://c/default/user/alice"
    assert Principal.parse(str(ALICE)) == ALICE


@pytest.mark.parametrize(
    "text",
    ["", "alice", "sira://c/default/user", "sira://c/default/king/alice", "sira://c//user/a",
     "sira://c/d/user/a b", "sira://c/d/user/" + "a" * 200, "sira://c/d/user/a/b"],
)  # fmt: skip
def test_what_is_no_principal_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        Principal.parse(text)


def test_allow_all_allows() -> None:
    assert authorize(ALICE, "publish", "a.b") == Allow()


class _Said:
    def __init__(self, *, listened: bool = True, per_s_max: float = 2, queue_max: int = 10) -> None:
        self.now_ns, self.out = 0, list[tuple[str, dict[str, object]]]()
        self.woken = 0
        self.events = Events(
            listened=lambda _: listened,
            publish=lambda topic, body: self.out.append((topic, json.loads(body))),
            clock_ns=lambda: self.now_ns,
            wake=self._wake,
            per_s_max=per_s_max,
            queue_max=queue_max,
        )

    def _wake(self) -> None:
        self.woken += 1

    def dropped(self, count: int) -> None:
        self.events.emit("sira.dropped", reason="EXPIRED", count=count)


def test_what_was_left_out_is_counted_in_the_next_of_its_kind() -> None:
    said = _Said()
    for count in range(5):
        said.dropped(count)
    assert said.woken == 1 and said.out == []
    said.events.flush()
    assert [body["count"] for _, body in said.out] == [0, 1]
    said.now_ns = 10**9
    said.dropped(9)
    said.events.flush()
    assert said.out[-1][1] == {
        "reason": "EXPIRED",
        "count": 9,
        "suppressed": 3,
        "tenant": "default",
    }


def test_facts_wait_in_a_bounded_queue() -> None:
    said = _Said(per_s_max=1_000, queue_max=3)
    for count in range(9):
        said.dropped(count)
    said.events.flush()
    assert len(said.out) == 3 and said.events.suppressed == 6


def test_a_fact_nobody_listens_to_is_not_made() -> None:
    said = _Said(listened=False)
    said.dropped(1)
    said.events.flush()
    assert (said.out, said.events.emitted, said.events.suppressed) == ([], 0, 0)


def test_the_log_gets_facts_that_nobody_listens_to() -> None:
    lines: list[tuple[str, str]] = []
    events = Events(
        listened=lambda _: False,
        publish=lambda topic, body: None,
        clock_ns=lambda: 0,
        log=lambda kind, fields: lines.append((kind.level, kind.topic)),
        per_s_max=2,
        queue_max=1,
    )
    for _ in range(5):
        events.emit("sira.limit", setting="topics_max", value=1, principal="p")
    assert lines == [("warning", "sira.limit")] * 2 and events.emitted == 0


def test_every_kind_of_fact_has_a_schema_under_its_topic() -> None:
    for topic, kind in KINDS.items():
        schema = json.loads(kind.json_schema())
        assert topic.startswith("sira.") and schema["title"] == topic
        assert set(schema["required"]) == {*kind.fields, "tenant"}


def test_a_row_balances_to_the_last_delivery() -> None:
    row = kernel_pb2.LedgerRow(
        owed=10, received=1, delivered=3, pending=1, retained=1, superseded=1, expired=1,
        dropped={"QUEUE_FULL": 2}, unknown={"NODE_LOST": 1}, dead_lettered=1,
    )  # fmt: skip
    assert ledger.difference(row) == 0
    row.pending += 1
    assert ledger.difference(row) == -1


def test_a_row_carries_every_count_of_the_data_plane() -> None:
    row = ledger.row(
        {"topic": "t", "owed": 3, "delivered": 1, "dropped": {"EXPIRED": 2, "STALLED": 0}}, node="n"
    )
    assert (row.topic, row.node, row.owed, dict(row.dropped)) == ("t", "n", 3, {"EXPIRED": 2})


@pytest.mark.parametrize(
    ("pattern", "names"),
    [("", ["a.b", "a.>", "sira.x"]), ("a.>", ["a.b", "a.>"]), ("a.b", ["a.b"]), ("b.>", [])],
)
def test_rows_are_selected_by_pattern(pattern: str, names: list[str]) -> None:
    rows = [{"topic": t} for t in ("a.b", "a.>", "sira.x")]
    assert [r["topic"] for r in ledger.select(rows, pattern)] == names


def test_log_lines_are_json_with_the_fixed_fields() -> None:
    out = io.StringIO()
    logs = Logs(node="n1", out=out)
    logs.debug("edge", "quiet")
    logs.info("edge", "refused", "no", principal="p", code="DENIED")
    logs.close()
    (line,) = [json.loads(text) for text in out.getvalue().splitlines()]
    assert set(FIELDS) <= set(line)
    assert (line["node"], line["level"], line["component"], line["event"], line["message"]) == (
        "n1", "info", "edge", "refused", "no",
    )  # fmt: skip
    assert line["principal"] == "p" and line["code"] == "DENIED" and line["time"].endswith("Z")


class _Stuck(io.StringIO):
    """A reader that takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        import threading

        self.go = threading.Event()
        self.entered = threading.Event()

    def write(self, text: str) -> int:
        self.entered.set()
        assert self.go.wait(30)
        return super().write(text)


def test_a_slow_reader_of_the_log_never_holds_the_node() -> None:
    out = _Stuck()
    logs = Logs(node="n", queue_max=4, out=out)
    logs.info("a", "first")
    assert out.entered.wait(30)
    for index in range(100):
        logs.info("a", "more", index=index)
    assert logs.dropped == 96
    out.go.set()
    logs.close()
    lines = [json.loads(text) for text in out.getvalue().splitlines()]
    assert len(lines) == 5 and sum(line.get("lines_lost", 0) for line in lines) == 96
