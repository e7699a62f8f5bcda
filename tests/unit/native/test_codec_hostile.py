"""Bytes of strangers are read whole or refused with a typed error; sizes past 32 bits add up."""

from __future__ import annotations

import mmap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sira import _native
from sira.kernel import binding, errors
from sira.v1 import bus_pb2, message_pb2, tensor_pb2

assert binding.DTYPES  # errors are typed once this is imported

BODY = {"x": np.arange(5, dtype=np.float32), "flag": np.array(True), "none": np.zeros((0, 3))}
OPTIONS = _native.Options(id=bytes(16), reply_to="_r.1", headers={"k": "v"}, priority=3, ttl_ns=1)
FRAME = _native.join_frame([_native.encode_message("lab.echo", BODY, OPTIONS)])


def test_the_whole_frame_is_read() -> None:
    [message] = _native.split_frame(FRAME)
    assert message.keys() == tuple(BODY)
    assert bus_pb2.Frame.FromString(FRAME).items[0].message.topic == "lab.echo"


@pytest.mark.parametrize("cut", range(1, len(FRAME)))
def test_every_prefix_of_a_frame_is_refused_and_says_where(cut: int) -> None:
    with pytest.raises(errors.FrameCorrupt) as caught:
        _native.split_frame(FRAME[:cut])
    assert 0 <= int(caught.value.details["offset"]) <= cut


@settings(max_examples=500, deadline=None)
@given(st.integers(0, len(FRAME) - 1), st.integers(1, 255))
def test_a_changed_byte_gives_a_message_or_a_typed_error(at: int, flip: int) -> None:
    data = bytearray(FRAME)
    data[at] ^= flip
    try:
        for message in _native.split_frame(bytes(data)):
            for array in message.values():
                assert array.tobytes() is not None
            assert repr(message)
    except errors.SiraError as error:
        assert error.code in {"FRAME_CORRUPT", "MESSAGE_TOO_LARGE", "BAD_REQUEST", "BAD_TOPIC"}


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_give_a_message_or_a_typed_error(data: bytes) -> None:
    for read in (_native.Message.decode, _native.split_frame):
        try:
            read(data)
        except errors.SiraError as error:
            assert error.code in {"FRAME_CORRUPT", "MESSAGE_TOO_LARGE", "BAD_REQUEST", "BAD_TOPIC"}


@pytest.mark.parametrize(
    ("tensor", "code"),
    [
        (tensor_pb2.Tensor(name="x"), "FRAME_CORRUPT"),
        (tensor_pb2.Tensor(name="x", dtype=99), "FRAME_CORRUPT"),  # type: ignore[arg-type]
        (tensor_pb2.Tensor(name="x", dtype="DTYPE_F32", shape=[2], data=b"1234"), "FRAME_CORRUPT"),
        (tensor_pb2.Tensor(name="x", dtype="DTYPE_I4", shape=[3], data=b"1"), "FRAME_CORRUPT"),
        (tensor_pb2.Tensor(name="x", dtype="DTYPE_U8", shape=[1] * 65, data=b"1"), "FRAME_CORRUPT"),
        (
            tensor_pb2.Tensor(name="x", dtype="DTYPE_F64", shape=[2**32, 2**32], data=b""),
            "FRAME_CORRUPT",
        ),
        (tensor_pb2.Tensor(name="n" * 256, dtype="DTYPE_U8", data=b"1"), "MESSAGE_TOO_LARGE"),
    ],
)
def test_a_tensor_that_does_not_fit_together_is_refused(
    tensor: tensor_pb2.Tensor, code: str
) -> None:
    data = message_pb2.Message(topic="a", tensors=[tensor]).SerializeToString()
    with pytest.raises(errors.SiraError) as caught:
        _native.Message.decode(data)
    assert caught.value.code == code


def test_a_shape_that_numpy_cannot_hold_is_a_typed_error_not_a_crash() -> None:
    shape = [0, 2**63]
    tensor = tensor_pb2.Tensor(name="x", dtype="DTYPE_U8", shape=shape)
    data = message_pb2.Message(topic="a", tensors=[tensor]).SerializeToString()
    with pytest.raises(errors.FrameCorrupt):
        _native.Message.decode(data)["x"]


def test_a_message_over_the_callers_limit_is_refused() -> None:
    data = _native.encode_message("a", bytes(1000))
    assert len(_native.Message.decode(data, message_bytes_max=1000).bytes) == 1000
    with pytest.raises(errors.MessageTooLarge):
        _native.Message.decode(data, message_bytes_max=999)


def test_two_tensors_of_one_name_are_refused() -> None:
    tensor = tensor_pb2.Tensor(name="x", dtype="DTYPE_U8", shape=[1], data=b"1")
    data = message_pb2.Message(topic="a", tensors=[tensor, tensor]).SerializeToString()
    with pytest.raises(errors.BadRequest):
        _native.Message.decode(data)


def sparse(size_bytes: int) -> mmap.mmap:
    """Address space without memory: only pages that are touched exist."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    return mmap.mmap(-1, size_bytes, flags=flags)


def test_lengths_past_4_gib_are_written_and_read_exactly() -> None:
    """Two tensors of 5 GiB each, of which no byte is touched: the arithmetic is what is tested."""
    count = 5 << 30
    with sparse(2 * count + (1 << 20)) as memory:
        payload = np.frombuffer(memory, np.uint8, count)
        pieces = _native.encode_iovec("a.b", {"x": payload, "y": payload.reshape(5, -1)})
        head_x, data_x, head_y, data_y = pieces
        assert (len(data_x), len(data_y)) == (count, count)
        at_y = len(head_x) + count
        memory[: len(head_x)] = bytes(head_x)
        memory[at_y : at_y + len(head_y)] = bytes(head_y)
        total = at_y + len(head_y) + count
        del payload, pieces, data_x, data_y
        whole = memoryview(memory)[:total]
        message = _native.Message.decode(whole)
        assert message.payload_bytes == 2 * count
        assert message.specs() == {"x": ("u8", (count,)), "y": ("u8", (5, count // 5))}
        assert message["y"].shape == (5, 1 << 30)
        with pytest.raises(errors.MessageTooLarge):
            _native.Message.decode(whole, message_bytes_max=2 * count - 1)
        with pytest.raises(errors.FrameCorrupt):
            _native.Message.decode(whole[:-1])
        del message
        whole.release()
