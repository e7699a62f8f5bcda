"""Arrays read from a message: no copy, read-only, and they keep the frame alive; nothing leaks."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from sira import _native
from sira.kernel import errors
from sira.kernel.binding import DTYPES, Tensor
from tests.garbage import collected

PAGE_BYTES = 4096


def address(array: Any) -> int:
    return int(np.asarray(array).__array_interface__["data"][0])


def test_a_view_lies_inside_the_frame() -> None:
    data = _native.encode_message("a", {"x": np.arange(100, dtype=np.uint8)})
    start = address(np.frombuffer(data, np.uint8))
    message = _native.Message.decode(data)
    assert start < address(message["x"]) < start + len(data)
    assert address(message["x"]) == address(message["x"])


@pytest.mark.parametrize("code", sorted(DTYPES))
def test_a_view_is_a_read_only_tensor(code: int) -> None:
    message = _native.Message.decode(
        _native.encode_message("a", {"x": np.ones((2, 3), DTYPES[code])})
    )
    array = message["x"]
    assert type(array) is Tensor
    assert array.dtype == DTYPES[code]
    assert not array.flags.writeable
    assert array.flags.c_contiguous
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 0
    if code not in (18, 19):  # unpacked: a copy of its own
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True


@pytest.mark.parametrize("shift", range(8))
def test_the_alignment_flag_tells_the_truth(shift: int) -> None:
    data = _native.encode_message("a", {"x" * (1 + shift): np.arange(4, dtype=np.float64)})
    array = _native.Message.decode(data)["x" * (1 + shift)]
    assert array.flags.aligned == (address(array) % 8 == 0)
    assert array.tolist() == [0, 1, 2, 3]


def test_views_outlive_the_message_and_every_other_name_of_the_frame() -> None:
    """bytes cannot be watched, an array can: the frame is exported by one."""
    frame = np.frombuffer(_native.encode_message("a", {"x": np.arange(1000.0)}), np.uint8).copy()
    gone = weakref.ref(frame)
    array = _native.Message.decode(frame.data)["x"]
    part = array[10:20]
    del frame, array
    gc.collect()
    assert gone() is not None
    assert part.tolist() == list(range(10, 20))
    del part
    assert collected(gone)


def test_the_message_keeps_the_frame_and_lets_go_of_it() -> None:
    frame = np.frombuffer(_native.encode_message("a", b"body"), np.uint8).copy()
    gone = weakref.ref(frame)
    message = _native.Message.decode(frame.data)
    body = message.bytes
    del frame, message
    gc.collect()
    assert bytes(body) == b"body"
    assert body.readonly
    del body
    assert collected(gone)


def test_a_cycle_through_the_context_is_collected() -> None:
    class Owner:
        message: Any = None

    owner = Owner()
    owner.message = _native.Message.decode(_native.encode_message("a", None), context=owner)
    assert owner.message.context is owner
    gone, message_gone = weakref.ref(owner), weakref.ref(owner.message)
    del owner
    assert collected(gone, message_gone)


def test_a_subclass_with_methods_only_is_what_decode_gives() -> None:
    class Mine(_native.Message):
        __slots__ = ()

        def double(self) -> Any:
            return self["x"] * 2

    message = Mine.decode(_native.encode_message("a", {"x": [1, 2]}))
    assert type(message) is Mine
    assert message.double().tolist() == [2, 4]
    with pytest.raises(TypeError):
        Mine()
    with pytest.raises(TypeError):
        _native.Message()


def test_a_message_is_a_mapping_of_its_tensors() -> None:
    message = _native.Message.decode(
        _native.encode_message("a", {"x": [1.0], "y": np.zeros((2, 0), np.int8), "z": 3})
    )
    assert list(message) == list(message.keys()) == ["x", "y", "z"]
    assert len(message) == 3
    assert "x" in message
    assert "w" not in message
    assert 7 not in message
    with pytest.raises(KeyError, match="w"):
        message["w"]
    assert [name for name, _ in message.items()] == ["x", "y", "z"]
    assert [array.shape for array in message.values()] == [(1,), (2, 0), ()]
    assert message.specs() == {"x": ("f64", (1,)), "y": ("i8", (2, 0)), "z": ("i64", ())}
    assert message.payload_bytes == 16


@pytest.mark.parametrize("body", [None, {}, b"", "", b"bytes have no tensors"])
def test_a_message_is_true_also_when_it_has_no_tensors(body: object) -> None:
    message = _native.Message.decode(_native.encode_message("a", body))
    assert len(message) == 0
    assert list(message) == []
    assert bool(message) is True


@pytest.mark.parametrize("dtype", [ml_dtypes.int4, ml_dtypes.uint4])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 8])
def test_four_bit_elements_travel_two_a_byte_and_read_as_values(dtype: Any, count: int) -> None:
    low = -8 if dtype is ml_dtypes.int4 else 0
    values = [low + (i * 5) % 16 for i in range(count)]
    message = _native.Message.decode(_native.encode_message("a", {"x": np.array(values, dtype)}))
    assert message["x"].astype(int).tolist() == values
    packed = message.packed("x")
    assert packed.dtype == np.uint8
    assert packed.nbytes == (count + 1) // 2 == message.payload_bytes
    assert not packed.flags.writeable
    for i, value in enumerate(values):
        assert int(packed[i // 2]) >> 4 * (i % 2) & 15 == value & 15


def test_only_four_bit_tensors_have_a_packed_view() -> None:
    message = _native.Message.decode(_native.encode_message("a", {"x": [1]}))
    with pytest.raises(errors.BadRequest, match="not i4 or u4"):
        message.packed("x")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


ARRAY = np.arange(64, dtype=np.float32)
STRIDED = np.arange(128, dtype=np.float32)[::2]
OPTIONS = _native.Options(headers={"a": "b"}, source="s")
MANY = {f"t{i}": np.ones((1, 2, 1, 2)) for i in range(6)}
ENCODED = _native.encode_message("a", MANY, OPTIONS)


def encode_decode() -> None:
    message = _native.Message.decode(_native.encode_message("a", {"x": ARRAY}, OPTIONS))
    message["x"]
    _ = "x" in message, message.id, message.headers, message.topic, message.encoded


def gathered() -> None:
    _native.encode_iovec("a", {"x": STRIDED, "y": [1, 2], "z": memoryview(b"123")})


def many_tensors() -> None:
    message = _native.Message.decode(ENCODED)
    message.items()
    message.specs()
    _native.encode_message("b", message)


def refused() -> None:
    for data in (b"\x0a", b"\x72\x01"):
        try:
            _native.Message.decode(data)
        except errors.SiraError:
            continue
        raise AssertionError(data)
    try:
        _native.encode_message("a", {"x": ARRAY, "y": object()})
    except errors.BadRequest:
        return
    raise AssertionError


def exported() -> None:
    array = ARRAY.view(Tensor)
    _native.dlpack(array)
    _native.dlpack(array, max_version=(1, 0), copy=True)
    np.from_dlpack(array)
    _native.encode_message("a", {"x": Exporter(array)})


class Exporter:
    """Has DLPack and nothing else."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return _native.dlpack(self.array, **options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


def receipts() -> None:
    repr(_native.Receipt(id=bytes(16), lanes=["grpc"], offset=3))
    _native.Contract({"x": "f32[N]"}).check(_native.Message.decode(ENCODED))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    "work", [encode_decode, gathered, many_tensors, refused, exported, receipts]
)
def test_a_hundred_thousand_rounds_leave_no_object_no_reference_and_no_memory(
    work: Callable[[], None],
) -> None:
    rounds = 100_000
    for _ in range(rounds // 10):  # caches and free lists fill
        work()
    gc.collect()
    watched = (ARRAY, STRIDED, OPTIONS, ENCODED, Tensor, *DTYPES.values())
    references = [sys.getrefcount(thing) for thing in watched]
    blocks, resident = sys.getallocatedblocks(), resident_bytes()
    for _ in range(rounds):
        work()
    gc.collect()
    assert [sys.getrefcount(thing) for thing in watched] == references
    assert abs(sys.getallocatedblocks() - blocks) < rounds // 100
    assert resident_bytes() - resident < rounds * 16  # a leak of one small block a round is more
