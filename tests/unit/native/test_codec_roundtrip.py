"""The C codec and the generated protobuf classes read and write the same bytes, both ways."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sira import _native
from sira.kernel.binding import DTYPES
from sira.v1 import message_pb2, tensor_pb2

PACKED = {tensor_pb2.DTYPE_I4, tensor_pb2.DTYPE_U4}
LAYOUTS = ("c", "fortran", "stepped", "reversed", "broadcast", "unaligned", "big-endian")


def raw_view(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same elements as opaque bytes: moving them cannot touch a NaN."""
    return array.view(np.dtype((np.void, array.dtype.itemsize)))


def element_bytes(array: np.ndarray[Any, Any]) -> bytes:
    return raw_view(np.asarray(array)).tobytes()


def pack_nibbles(elements: bytes) -> bytes:
    """The rule of tensor.proto, written apart from the C code."""
    low = [value & 15 for value in elements] + [0]
    return bytes(low[i] | low[i + 1] << 4 for i in range(0, len(elements), 2))


def laid_out(array: np.ndarray[Any, Any], layout: str) -> np.ndarray[Any, Any]:
    """The same elements in the same places, in other memory."""
    raw = raw_view(array)
    if layout == "fortran":
        raw = np.asfortranarray(raw)
    elif layout == "stepped" and raw.ndim:
        wide = np.zeros((*raw.shape[:-1], raw.shape[-1] * 2), raw.dtype)
        wide[..., ::2] = raw
        raw = wide[..., ::2]
    elif layout == "reversed" and raw.ndim:
        raw = np.ascontiguousarray(raw[::-1])[::-1]
    elif layout == "broadcast" and raw.ndim:
        raw = np.broadcast_to(raw[:1], raw.shape)
    elif layout == "unaligned":
        memory = np.zeros(raw.nbytes + 1, np.uint8)
        shifted = memory[1:].view(raw.dtype).reshape(raw.shape)
        shifted[...] = raw
        raw = shifted
    moved = raw.view(array.dtype)
    if layout == "big-endian" and array.dtype.itemsize > 1 and array.dtype.kind in "iufc":
        moved = moved.byteswap().view(array.dtype.newbyteorder(">"))
        assert moved.dtype.byteorder == (">" if sys.byteorder == "little" else "=")
    return np.asarray(moved)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[int, np.ndarray[Any, Any]]:
    """Any dtype, shape and bit pattern (NaN payloads and -0.0 are bit patterns), in any layout."""
    code = draw(st.sampled_from(sorted(DTYPES)))
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=4)))
    dtype = DTYPES[code]
    count = int(np.prod(shape, dtype=int))
    raw = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
    if code == tensor_pb2.DTYPE_BOOL:
        raw = bytes(byte & 1 for byte in raw)
    elif code == tensor_pb2.DTYPE_I4:  # in memory: sign-extended
        raw = bytes((byte & 15) | (0xF0 if byte & 8 else 0) for byte in raw)
    elif code == tensor_pb2.DTYPE_U4:
        raw = bytes(byte & 15 for byte in raw)
    array = np.frombuffer(raw, np.dtype((np.void, dtype.itemsize)), count).view(dtype)
    return code, laid_out(array.reshape(shape), draw(st.sampled_from(LAYOUTS)))


def native_elements(array: np.ndarray[Any, Any]) -> bytes:
    """Element bytes in C order and little-endian, by NumPy alone."""
    if array.dtype.byteorder == ">":
        return element_bytes(np.ascontiguousarray(array).byteswap())
    return element_bytes(array)


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(st.text("abcxyz_é", min_size=1, max_size=5), tensors(), max_size=4))
def test_what_c_writes_protobuf_reads(body: dict[str, tuple[int, np.ndarray[Any, Any]]]) -> None:
    encoded = _native.encode_message("a.b", {name: array for name, (_, array) in body.items()})
    message = message_pb2.Message.FromString(encoded)
    assert [tensor.name for tensor in message.tensors] == list(body)
    for tensor, (code, array) in zip(message.tensors, body.values(), strict=True):
        elements = native_elements(array)
        assert tensor.dtype == code
        assert tuple(tensor.shape) == array.shape
        assert tensor.data == (pack_nibbles(elements) if code in PACKED else elements)


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(st.text("abcxyz_é", min_size=1, max_size=5), tensors(), max_size=4))
def test_what_protobuf_writes_c_reads(body: dict[str, tuple[int, np.ndarray[Any, Any]]]) -> None:
    source = message_pb2.Message(id=bytes(range(16)), topic="a.b")
    for name, (code, array) in body.items():
        elements = native_elements(array)
        source.tensors.add(
            name=name,
            dtype=code,
            shape=array.shape,
            data=pack_nibbles(elements) if code in PACKED else elements,
        )
    message = _native.Message.decode(source.SerializeToString())
    assert message.keys() == tuple(body)
    for name, (code, array) in body.items():
        read = message[name]
        assert read.dtype == DTYPES[code]
        assert read.shape == array.shape
        assert not read.flags.writeable
        assert element_bytes(read) == native_elements(array)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), tensors(), max_size=3))
def test_slices_joined_are_the_encoded_message(
    body: dict[str, tuple[int, np.ndarray[Any, Any]]],
) -> None:
    options = _native.Options(id=bytes(16), source="s")
    arrays = {name: array for name, (_, array) in body.items()}
    joined = b"".join(_native.encode_iovec("a.b", arrays, options))
    whole = _native.encode_message("a.b", arrays, options)
    first, second = (message_pb2.Message.FromString(data) for data in (joined, whole))
    first.time_ns = second.time_ns = 0
    assert first == second


def test_every_envelope_field_arrives_as_protobuf_sees_it() -> None:
    ids = {name: bytes([i]) * 16 for i, name in enumerate(["id", "co", "ca", "in", "st"])}
    options = _native.Options(
        id=ids["id"],
        reply_to="_r.1",
        type="t",
        content_type="application/json",
        schema="s",
        source="src",
        correlation_id=ids["co"],
        causation_id=ids["ca"],
        intent_id=ids["in"],
        traceparent="00-1-2-01",
        headers={"study": "7", "ü": ""},
        dedupe_key="d",
        key="k",
        priority=7,
        ttl_ns=2**63,
        stream_id=ids["st"],
        stream_seq=2**64 - 1,
        stream_end=True,
        reply_kind=2,
        error=b"\x0a\x01E",
        fence_lease="lease",
        fence_token=2**40,
    )
    encoded = _native.encode_message("a.b", "{}", options)
    proto = message_pb2.Message.FromString(encoded)
    assert proto.id == ids["id"]
    assert proto.topic == "a.b"
    assert (proto.fence.lease, proto.fence.token) == ("lease", 2**40)
    assert proto.error.code == "E"
    assert dict(proto.headers) == {"study": "7", "ü": ""}
    message = _native.Message.decode(encoded)
    for name in ("reply_to", "type", "content_type", "schema", "source", "traceparent"):
        assert getattr(message, name) == getattr(proto, name) != ""
    for name in ("dedupe_key", "key", "priority", "ttl_ns", "stream_seq", "stream_end", "time_ns"):
        assert getattr(message, name) == getattr(proto, name) != 0
    for name in ("id", "correlation_id", "causation_id", "intent_id", "stream_id"):
        assert getattr(message, name).replace("-", "") == getattr(proto, name).hex()
    assert message.id_bytes == ids["id"]
    assert message.reply_kind == proto.reply_kind == 2
    assert message.error == b"\x0a\x01E"
    assert message.headers == {"study": "7", "ü": ""}
    assert message.text == "{}"
    assert (message.offset, message.attempt, message.principal, message.tenant) == (None, 0, "", "")


def test_fields_that_only_a_node_sets_are_read() -> None:
    proto = message_pb2.Message(
        id=bytes(16), topic="a", principal="sira://c/t/agent/x", tenant="t", attempt=3, offset=0
    )
    message = _native.Message.decode(proto.SerializeToString())
    assert (message.principal, message.tenant) == (proto.principal, "t")
    assert (message.attempt, message.offset) == (3, 0)


def test_an_absent_field_reads_as_empty() -> None:
    message = _native.Message.decode(b"")
    for name in ("topic", "id", "type", "correlation_id", "causation_id", "source", "reply_to"):
        assert getattr(message, name) == ""
    assert (message.id_bytes, message.error, message.headers) == (b"", b"", {})
    assert (message.time_ns, message.ttl_ns, message.priority, message.stream_end) == (0, 0, 0, 0)
    assert (len(message), message.keys(), bytes(message.bytes), message.text) == (0, (), b"", "")


@pytest.mark.parametrize("code", sorted(DTYPES))
@pytest.mark.parametrize("ndim", [0, 1, 64])
def test_any_number_of_dimensions_travels(code: int, ndim: int) -> None:
    if ndim > 32 and np.lib.NumpyVersion(np.__version__) < "2.0.0":
        pytest.skip("NumPy 1.x has at most 32 dimensions")
    array = np.ones((1,) * ndim, DTYPES[code])
    message = _native.Message.decode(_native.encode_message("a", {"x": array}))
    assert message["x"].shape == array.shape
    assert element_bytes(message["x"]) == element_bytes(array)
