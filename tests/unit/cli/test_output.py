"""Envelopes, and the plain values in them."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from sira.cli.output import CliError, Output, bytes_text, duration_text, plain


def envelopes(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_envelopes_are_numbered_and_exactly_one_ends() -> None:
    stream = io.StringIO()
    out = Output("sub", as_json=True, stream=stream)
    out.start(pattern=">")
    out.item({"x": 1}, "for people")
    out.progress("half", done=0.5)
    out.warning("look")
    out.text("for people")
    out.result({"messages": 1})
    out.result({"messages": 2})
    out.error(CliError("LATE", "after the end"))
    out.item({"x": 2})
    found = envelopes(stream)
    assert [line["type"] for line in found] == ["start", "item", "progress", "warning", "result"]
    assert [line["seq"] for line in found] == [0, 1, 2, 3, 4]
    assert all(
        line["v"] == 1 and set(line) == {"v", "type", "seq", "time", "data"} for line in found
    )


def test_without_json_only_text_reaches_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    out = Output("sub", as_json=False, stream=stream)
    out.start()
    out.item({"x": 1}, "one line")
    out.progress("half", done=0.5)
    out.warning("look")
    out.result({"messages": 1})
    assert stream.getvalue() == "one line\n"
    assert "look" in capsys.readouterr().err


def test_an_error_says_what_why_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    Output("pub", as_json=False).error(
        CliError("NO_MATCH", "nobody listens", help="start an agent")
    )
    assert capsys.readouterr().err == "sira pub: nobody listens [NO_MATCH]; start an agent\n"


def test_plain_values_are_strict_json() -> None:
    value = {
        "nan": math.nan,
        "inf": -math.inf,
        "f32": np.float32(0.5),
        "bf16": ml_dtypes.bfloat16(1.5),
        "i64": np.int64(7),
        "bool": np.bool_(True),
        "list": (1, [2.5]),
        "path": Path("a/b"),
        "none": None,
    }
    text = json.dumps(plain(value), allow_nan=False)
    assert json.loads(text) == {
        "nan": "nan", "inf": "-inf", "f32": 0.5, "bf16": 1.5, "i64": 7, "bool": True,
        "list": [1, [2.5]], "path": "a/b", "none": None,
    }  # fmt: skip


def test_a_value_without_a_json_form_is_refused() -> None:
    with pytest.raises(TypeError, match="bytes has no JSON form"):
        plain({"x": b"abc"})


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 20, "1 MiB"),
                        (5 << 40, "5 TiB"), (5000 << 40, "5000 TiB")]
)  # fmt: skip
def test_bytes_for_people(count: int, text: str) -> None:
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("duration_ns", "text"),
    [(250_000, "250 us"), (1_200_000, "1.20 ms"), (3.5e9, "3.5 s"), (125 * 60e9, "2 h 05 min"),
     (90e9, "1 min")],
)  # fmt: skip
def test_durations_for_people(duration_ns: float, text: str) -> None:
    assert duration_text(duration_ns) == text
