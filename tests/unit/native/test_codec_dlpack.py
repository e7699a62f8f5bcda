"""DLPack out of and into the codec, against NumPy's own and by reading the capsules' bytes."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import threading
import weakref
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from sira import _native
from sira.kernel import errors
from sira.kernel.binding import DTYPES, Tensor
from tests.garbage import collected

# Type codes of the DLPack specification, written apart from the C code.
DL_CODES = {
    "bool": 6, "uint8": 1, "uint16": 1, "uint32": 1, "uint64": 1, "int8": 0, "int16": 0, "int32": 0,
    "int64": 0, "float16": 2, "float32": 2, "float64": 2, "bfloat16": 4, "float8_e4m3fn": 10,
    "float8_e4m3fnuz": 11, "float8_e5m2": 12, "float8_e5m2fnuz": 13, "int4": 0, "uint4": 1,
    "complex64": 5, "complex128": 5,
}  # fmt: skip
READ_ONLY, IS_COPIED, PADDED = 1, 2, 4
OF_NUMPY = [dtype for dtype in DTYPES.values() if dtype.isbuiltin == 1]


class DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class Versioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.CFUNCTYPE(None, ctypes.c_void_p)),
        ("flags", ctypes.c_uint64),
        ("tensor", DLTensor),
    ]


class Plain(ctypes.Structure):
    _fields_ = [
        ("tensor", DLTensor),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.CFUNCTYPE(None, ctypes.c_void_p)),
    ]


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_rename = ctypes.pythonapi.PyCapsule_SetName
_rename.restype, _rename.argtypes = ctypes.c_int, [ctypes.py_object, ctypes.c_char_p]
USED = ctypes.c_char_p(b"used_dltensor_versioned")  # a capsule keeps the pointer, not the text


def versioned(capsule: Any) -> Versioned:
    return Versioned.from_address(_pointer(capsule, b"dltensor_versioned"))


def received(array: Any) -> Any:
    return _native.Message.decode(_native.encode_message("a", {"x": array}))["x"]


class Producer:
    """Has DLPack and nothing else, so that the codec must take it this way."""

    def __init__(self, array: Any, *, old: bool = False, device: tuple[int, int] = (1, 0)) -> None:
        self.array, self.old, self.device = array, old, device

    def __dlpack__(self, **options: Any) -> Any:
        if self.old and options:
            raise TypeError("a producer from before DLPack 1.0 takes no max_version")
        return _native.dlpack(self.array, **options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_a_capsule_describes_the_array_as_the_specification_says(dtype: np.dtype[Any]) -> None:
    array = received(np.ones((2, 3, 4), dtype))[:, ::2]
    capsule = _native.dlpack(array, max_version=(1, 1))
    managed = versioned(capsule)
    tensor = managed.tensor
    packed = dtype.name in ("int4", "uint4")
    assert (managed.major, managed.minor) == (1, 1)
    assert (tensor.device_type, tensor.device_id, tensor.ndim, tensor.lanes) == (1, 0, 3, 1)
    assert (tensor.code, tensor.bits) == (DL_CODES[dtype.name], 4 if packed else dtype.itemsize * 8)
    assert tensor.shape[:3] == [2, 2, 4]
    assert tensor.strides[:3] == [12, 8, 1]
    assert tensor.data + tensor.byte_offset == array.__array_interface__["data"][0]
    assert managed.flags == READ_ONLY | (PADDED if packed else 0)


@pytest.mark.parametrize("dtype", OF_NUMPY, ids=str)
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3)])
def test_numpy_takes_our_capsules_without_a_copy(
    dtype: np.dtype[Any], shape: tuple[int, ...]
) -> None:
    array = received(np.ones(shape, dtype))
    taken = np.from_dlpack(array)
    assert (taken.dtype, taken.shape) == (array.dtype, array.shape)
    assert taken.tobytes() == array.tobytes()
    if array.size:
        assert np.shares_memory(taken, array)
    if np.lib.NumpyVersion(np.__version__) >= "2.1.0":
        assert not taken.flags.writeable


def test_a_writeable_array_is_handed_out_writeable() -> None:
    array = np.zeros(3)
    assert versioned(_native.dlpack(array, max_version=(1, 0))).flags == 0


def test_an_old_consumer_gets_a_plain_capsule_of_read_only_memory() -> None:
    """NumPy's own producer refuses this: such a consumer must be told not to write."""
    array = received(np.arange(6, dtype=np.int16).reshape(2, 3))
    for max_version in (None, (0, 8)):
        capsule = _native.dlpack(array, max_version=max_version)
        tensor = Plain.from_address(_pointer(capsule, b"dltensor")).tensor
        assert tensor.shape[:2] == [2, 3]
        assert ctypes.string_at(tensor.data, array.nbytes) == array.tobytes()


def test_a_plain_capsule_cannot_say_how_four_bit_elements_lie() -> None:
    with pytest.raises(errors.BadRequest):
        received(Producer(np.ones(3, ml_dtypes.int4), old=True))


@pytest.mark.parametrize(
    ("dtype", "old"),
    [
        (dtype, old)
        for dtype in DTYPES.values()
        for old in (False, True)
        if not (old and dtype.name in ("int4", "uint4"))
    ],
    ids=str,
)
def test_capsules_of_both_kinds_come_in_bit_for_bit(dtype: np.dtype[Any], old: bool) -> None:
    source = (np.arange(12, dtype=np.uint8) % 8).reshape(3, 4).astype(dtype)
    for given in (source, source.T, source[::-1, ::2]):
        assert received(Producer(given, old=old)).tobytes() == given.tobytes()
        assert received(Producer(given, old=old)).dtype == dtype


def test_an_array_in_c_order_comes_in_without_a_copy_and_is_held() -> None:
    source = np.arange(1000.0)
    gone = weakref.ref(source)
    pieces = _native.encode_iovec("a", {"x": Producer(source)})
    assert np.shares_memory(np.frombuffer(pieces[1]), source)
    del source
    gc.collect()
    assert gone() is not None
    assert np.frombuffer(pieces[1])[999] == 999
    del pieces
    assert collected(gone)


def test_memory_of_another_device_is_refused_with_the_way_out() -> None:
    with pytest.raises(errors.BadRequest, match="CPU"):
        _native.encode_message("a", {"x": Producer(np.zeros(2), device=(2, 0))})


def test_a_producer_that_fails_is_the_cause_of_the_refusal() -> None:
    class Fails(Producer):
        def __dlpack__(self, **options: Any) -> Any:
            raise BufferError("requires grad")

    with pytest.raises(errors.BadRequest) as caught:
        _native.encode_message("a", {"x": Fails(np.zeros(2))})
    assert isinstance(caught.value.__cause__, BufferError)


def test_copy_true_gives_memory_of_its_own_that_may_be_written() -> None:
    array = received(np.arange(4.0))
    capsule = _native.dlpack(array, max_version=(1, 0), copy=True)
    managed = versioned(capsule)
    assert managed.flags == IS_COPIED
    assert managed.tensor.data != array.__array_interface__["data"][0]
    assert ctypes.string_at(managed.tensor.data, 32) == array.tobytes()


@pytest.mark.skipif(
    np.lib.NumpyVersion(np.__version__) < "2.1.0", reason="from_dlpack(copy=) came with NumPy 2.1"
)
def test_numpy_asks_for_a_device_and_a_copy_and_gets_both() -> None:
    array = received(np.arange(4.0))
    copied = np.from_dlpack(array, device="cpu", copy=True)
    assert not np.shares_memory(copied, array)
    assert copied.tolist() == [0, 1, 2, 3]
    copied[0] = 7
    assert np.shares_memory(np.from_dlpack(array, device="cpu", copy=False), array)


def test_what_dlpack_cannot_say_is_copied_or_refused() -> None:
    swapped = np.arange(4, dtype=">i4")
    copied = versioned(_native.dlpack(swapped, max_version=(1, 0)))
    assert copied.flags & IS_COPIED
    assert np.from_dlpack(swapped.view(Tensor)).tolist() == [0, 1, 2, 3]
    record = np.zeros(3, np.dtype([("a", "i4"), ("b", "i1")]))
    for unsayable in (swapped, record["a"]):
        with pytest.raises(BufferError):
            _native.dlpack(unsayable, max_version=(1, 0), copy=False)
    for refused in (np.array(["x"]), np.array([object()]), np.array(["2020"], "M8[s]")):
        with pytest.raises(BufferError):
            _native.dlpack(refused)
    with pytest.raises(BufferError):
        _native.dlpack(np.zeros(3, ml_dtypes.int4))


def test_devices_and_streams_that_are_not_the_cpus_are_refused() -> None:
    array = np.zeros(3)
    _native.dlpack(array, dl_device=(1, 0))
    with pytest.raises(BufferError):
        _native.dlpack(array, dl_device=(2, 0))
    with pytest.raises(BufferError):
        _native.dlpack(array, stream=1)


@pytest.mark.parametrize("max_version", [None, (1, 0)])
def test_a_capsule_keeps_the_frame_alive_whether_it_is_taken_or_dropped(max_version: Any) -> None:
    for take in (False, True):
        frame = np.frombuffer(_native.encode_message("a", {"x": np.ones(9)}), np.uint8).copy()
        gone = weakref.ref(frame)
        held = _native.dlpack(_native.Message.decode(frame.data)["x"], max_version=max_version)
        if take:
            held = _native.encode_iovec("a", {"x": Handed(held)})
        del frame
        gc.collect()
        assert gone() is not None
        del held
        assert collected(gone)


class Handed:
    def __init__(self, capsule: Any) -> None:
        self.capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


def test_the_deleter_may_be_called_from_a_thread_without_the_gil() -> None:
    array = np.arange(100.0).view(Tensor)
    gone = weakref.ref(array)
    capsule = _native.dlpack(array, max_version=(1, 0))
    address = _pointer(capsule, b"dltensor_versioned")
    _rename(capsule, USED)
    managed = Versioned.from_address(address)
    deleter = ctypes.cast(managed.deleter, ctypes.c_void_p).value
    assert deleter is not None
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(deleter)  # ctypes lets go of the GIL
    del array, capsule
    assert gone() is not None
    thread = threading.Thread(target=call, args=(address,))
    thread.start()
    thread.join()
    assert collected(gone)


def test_a_capsule_left_to_the_end_of_the_interpreter_does_not_crash() -> None:
    code = """
import ctypes, sys
import numpy as np
from sira import _native
from sira.kernel.binding import Tensor
x = _native.Message.decode(_native.encode_message('a', {'x': np.ones(3)}))['x']
sys.held = [x.dlpack(), _native.dlpack(x), _native.dlpack(x, max_version=(1, 0)), np.from_dlpack(x)]
capsule = _native.dlpack(x)
pointer = ctypes.pythonapi.PyCapsule_GetPointer
pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
address = pointer(capsule, b'dltensor')
used = ctypes.c_char_p(b'used_dltensor')
ctypes.pythonapi.PyCapsule_SetName(ctypes.py_object(capsule), used)
sys.used = used
# A consumer in C that gives the memory back after Python has gone.
libc = ctypes.CDLL(None)
deleter = ctypes.c_void_p.from_address(address + 56).value
assert libc.__cxa_atexit(ctypes.c_void_p(deleter), ctypes.c_void_p(address), None) == 0
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
