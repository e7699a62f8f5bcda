"""Bodies of HTTP calls: what is taken, what comes back the same, what is refused."""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sira.kernel.binding  # noqa: F401  (dtypes of the codec)
from sira import _native
from sira.kernel.errors import BadRequest, error_classes
from sira.services.http import bodies, problems, tensors


def message(body: Any, **fields: Any) -> _native.Message:
    return _native.Message.decode(
        _native.encode_message("lab.x", body, _native.Options(**fields) if fields else None)
    )


def npy(array: Any, **more: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array, **more)
    return out.getvalue()


def npy_of(header: str, data: bytes = b"", *, version: int = 1) -> bytes:
    layout = "<H" if version == 1 else "<I"
    text = header.encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack(layout, len(text)) + text + data


def one(**entry: Any) -> bytes:
    return json.dumps({"x": entry}).encode()


B64 = base64.b64encode(bytes(8)).decode()


@pytest.mark.parametrize("label", sorted(tensors.DTYPES))
def test_every_dtype_comes_back_as_it_went(label: str) -> None:
    dtype = tensors.DTYPES[label]
    array = np.arange(6).reshape(2, 3).astype(dtype)
    found = tensors.from_json("x", json.loads(json.dumps(tensors.to_json(array))))
    assert found.dtype == dtype and found.shape == (2, 3)
    np.testing.assert_array_equal(found.astype(np.complex128), array.astype(np.complex128))


@pytest.mark.parametrize("array", [
    np.arange(6, dtype=">f4").reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3)),
    np.array(1.5), np.zeros((0, 3)), np.array([True, False]),
])  # fmt: skip
def test_a_npy_file_is_the_array_that_numpy_saved(array: Any) -> None:
    found = tensors.from_npy(npy(array))
    np.testing.assert_array_equal(found, array)
    assert found.dtype.isnative
    again = tensors.to_npy(found)
    assert again is not None
    np.testing.assert_array_equal(np.load(io.BytesIO(again)), array)


def test_a_dtype_that_npy_cannot_name_is_not_written() -> None:
    assert tensors.to_npy(np.zeros(2, tensors.DTYPES["bf16"])) is None


@pytest.mark.parametrize("data", [
    b"{", b"\xff", b'{"a": NaN}', b'{"a": Infinity}', b'{"a": -Infinity}', b'{"a": 1e999}',
    b"[" * 100_000, b'"' + b"1" * 10, b"1" * 5_000,
])  # fmt: skip
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(BadRequest):
        bodies.read("application/json", data)


@pytest.mark.parametrize("data", [
    one(dtype="f32", shape=[2]),
    one(dtype="f32", shape=[2], data=B64, more=1),
    one(dtype="f33", shape=[2], data=B64),
    one(dtype=["f32"], shape=[2], data=B64),
    one(dtype="f32", shape=[3], data=B64),
    one(dtype="f32", shape=[1], data=B64),
    one(dtype="f32", shape=[-2], data=B64),
    one(dtype="f32", shape=[2.0], data=B64),
    one(dtype="f32", shape=[True, 2], data=B64),
    one(dtype="f32", shape="2", data=B64),
    one(dtype="f32", shape=[1] * 33, data=B64),
    one(dtype="f32", shape=[1 << 70], data=B64),
    one(dtype="f32", shape=[0, 1 << 61, 1 << 61], data=""),
    one(dtype="f32", shape=[2], data="!" * 12),
    one(dtype="f32", shape=[2], data=B64[:-2]),
    one(dtype="f32", shape=[2], data="ä" * 12),
    one(dtype="f32", shape=[2], data=[1, 2]),
    one(dtype="bool", shape=[1], data="Ag=="),
    json.dumps({"x": {"dtype": "f32", "shape": [2], "data": B64}, "y": 1}).encode(),
])  # fmt: skip
def test_a_tensor_that_does_not_fit_together_is_refused(data: bytes) -> None:
    with pytest.raises(BadRequest):
        bodies.read("application/json", data)


BOMBS = [
    npy(np.array([{"a": 1}], dtype=object), allow_pickle=True),
    npy(np.zeros(2, [("a", "<f4")])),
    npy(np.array(["text"])),
    npy(np.zeros(2, "M8[s]")),
    npy_of("(" * 1_000),
    npy_of("-" * 1_000 + "1"),
    npy_of("{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }" + " " * 2_000, bytes(16)),
    npy_of("{'descr': '<f4', 'fortran_order': False, 'shape': (1" + "0" * 60 + ",), }"),
    npy_of("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }"),
    npy_of("{'descr': '<f4', 'fortran_order': 0, 'shape': (1,), }", bytes(4)),
    npy_of("{'descr': '<f4', 'fortran_order': False, 'shape': 4, }", bytes(16)),
    npy_of("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", bytes(8)),
    npy_of("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", bytes(7)),
    npy_of("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", bytes(9)),
    npy_of("{'descr': '|b1', 'fortran_order': False, 'shape': (1,), }", b"\x02"),
    npy_of("[1]"), npy_of("\x00"), npy_of("__import__('os').getpid()"),
    b"\x93NUMPY\x02\x00\xff\xff\xff\xff", b"\x93NUMPY\x09\x00\x01\x00", b"", b"PK\x03\x04",
]  # fmt: skip


@pytest.mark.parametrize("data", BOMBS)
def test_a_npy_file_that_is_a_trap_is_refused(data: bytes) -> None:
    with pytest.raises(BadRequest):
        bodies.read("application/x-npy", data)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_tensor_or_refused(data: bytes) -> None:
    for made in (data, b"\x93NUMPY\x01\x00" + data):
        with contextlib.suppress(BadRequest):
            tensors.from_npy(made)


@given(st.text(max_size=80))
def test_any_header_of_npy_is_a_tensor_or_refused(text: str) -> None:
    try:
        tensors.from_npy(npy_of(text))
    except BadRequest:
        return
    assert ast.literal_eval(text)


def test_plain_json_is_passed_on_as_it_is() -> None:
    found = bodies.read("application/json; charset=utf-8", b' {"a": [1.5, null]}')
    assert (found.body, found.content_type) == (' {"a": [1.5, null]}', "application/json")
    entry = one(dtype="about tensors", what="not one")
    assert bodies.read("application/json", entry, plain=True).body == entry.decode()


@pytest.mark.parametrize(("kind", "status"), [
    ("text/html", 415), ("application/x-pickle", 415), ("text/plain; charset=utf-16", 415),
    ("multipart/form-data; boundary=x", 415),
])  # fmt: skip
def test_other_content_types_are_refused_by_name(kind: str, status: int) -> None:
    with pytest.raises(problems.HttpError) as caught:
        bodies.read(kind, b"x")
    assert problems.status_of(caught.value) == status


@pytest.mark.parametrize(("body", "fields", "accept", "media", "data"), [
    (b"\xff", {}, "", "application/octet-stream", b"\xff"),
    ("hi", {"content_type": "text/plain; charset=utf-8"}, "*/*", "text/plain; charset=utf-8",
     b"hi"),
    ("hi", {"content_type": "text/plain"}, "application/json", "application/json", b'"hi"'),
    ('{"a":1}', {"content_type": "application/json"}, "", "application/json", b'{"a":1}'),
    ("<script>", {"content_type": "text/html"}, "", "application/octet-stream", b"<script>"),
    ("hi", {}, "text/*;q=0.5", "text/plain; charset=utf-8", b"hi"),
])  # fmt: skip
def test_a_reply_is_said_in_the_type_that_is_accepted(
    body: Any, fields: dict[str, Any], accept: str, media: str, data: bytes
) -> None:
    assert bodies.write(message(body, **fields), accept) == (data, media)


def test_a_reply_of_tensors_is_json_or_npy() -> None:
    x = np.arange(3, dtype=np.float32)
    data, media = bodies.write(message({"x": x}), "")
    assert media == "application/json" and json.loads(data)["x"]["shape"] == [3]
    data, media = bodies.write(message({"x": x}), "application/x-npy")
    np.testing.assert_array_equal(np.load(io.BytesIO(data)), x)


@pytest.mark.parametrize(("body", "accept"), [
    ({"x": np.zeros(1), "y": np.zeros(1)}, "application/x-npy"),
    ({"x": np.zeros(1)}, "text/plain, application/json;q=0"),
    (b"\xff", "text/plain"), (b"\xff", "application/json"), ("x", "image/png"),
])  # fmt: skip
def test_a_reply_that_cannot_be_said_so_is_406(body: Any, accept: str) -> None:
    with pytest.raises(problems.HttpError) as caught:
        bodies.write(message(body), accept)
    assert problems.status_of(caught.value) == 406


def test_headers_of_messages_pass_both_ways_and_cannot_end_a_line() -> None:
    found = bodies.headers_in([("Sira-Header-Who", "J%C3%B6rg%0D%0A"), ("Accept", "x")])
    assert found == {"who": "Jörg\r\n"}
    out = bodies.headers_out({**found, "no token": "x", "": "y", "a\r\nb": "z"})
    assert out == {"Sira-Header-who": "J%C3%B6rg%0D%0A"}
    with pytest.raises(BadRequest):
        bodies.headers_in([("sira-header-a", "%ff")])
    with pytest.raises(BadRequest):
        bodies.headers_in([("sira-header-", "x")])


@given(st.text(max_size=200))
def test_an_event_is_one_line_whatever_a_message_says(text: str) -> None:
    data = bodies.event(message(text.encode(errors="replace"), headers={"a": "x\ny"}))
    assert "\n" not in data and "\r" not in data
    assert json.loads(data)["topic"] == "lab.x"


def test_every_code_has_an_http_status() -> None:
    assert {each.code for each in error_classes()} == set(problems.STATUS)


def test_a_refusal_that_will_pass_says_when_to_come_back() -> None:
    from sira.kernel.errors import RateLimited, Unauthenticated, Unreachable

    response = problems.problem(RateLimited("wait", retry_after_ms=1_200))
    assert (response.status_code, response.headers["retry-after"]) == (429, "2")
    assert json.loads(bytes(response.body))["retry_after_ms"] == 1_200
    assert problems.problem(Unauthenticated()).headers["www-authenticate"] == "Bearer"
    assert b"/secret" not in bytes(problems.problem(Unreachable("unix:/secret/x")).body)


@pytest.mark.parametrize("part", [b"[],", b"{},", b"1,", b'"",', b"[[[", b'{"a":[{"b":'])
def test_json_of_too_many_values_is_refused_before_it_is_parsed(
    part: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """15 MiB of `[],` held the listener for 1.7 s and took 450 MiB."""
    monkeypatch.setattr(bodies.json, "loads", lambda *_, **__: pytest.fail("it was parsed"))
    with pytest.raises(BadRequest, match="values"):
        bodies.read("application/json", b"[" + part * 260_000)


def test_json_of_many_values_is_taken() -> None:
    text = b"[" + b"1," * 200_000 + b"1]"
    assert bodies.read("application/json", text).body == text.decode()
