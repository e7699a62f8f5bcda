"""The golden vectors of tests/vectors: read bit for bit, and reproducible from their script."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sira import _native
from sira.kernel import errors
from sira.kernel.binding import DTYPES
from sira.v1 import bus_pb2, message_pb2

VECTORS = Path(__file__).parents[2] / "vectors"
NAMES = sorted(path.stem for path in VECTORS.glob("*.bin"))
OF_DTYPES = [name for name in NAMES if name not in ("bytes", "utf8", "envelope")]


def load(name: str) -> tuple[_native.Message, dict[str, Any]]:
    [message] = _native.split_frame((VECTORS / f"{name}.bin").read_bytes())
    what: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text())
    assert message.topic == what["topic"]
    assert message.id_bytes.hex() == what["id"]
    return message, what


def raw(array: Any) -> str:
    array = np.asarray(array)
    return str(array.view(np.dtype((np.void, array.dtype.itemsize))).tobytes().hex())


def test_there_is_a_vector_for_every_dtype() -> None:
    assert len(OF_DTYPES) == len(DTYPES)
    assert {load(name)[1]["tensors"][0]["code"] for name in OF_DTYPES} == set(DTYPES)


@pytest.mark.parametrize("name", OF_DTYPES)
def test_a_vector_is_read_bit_for_bit(name: str) -> None:
    message, what = load(name)
    assert message.keys() == tuple(tensor["name"] for tensor in what["tensors"])
    for tensor in what["tensors"]:
        array = message[tensor["name"]]
        assert array.dtype == DTYPES[tensor["code"]]
        assert list(array.shape) == tensor["shape"]
        assert raw(array) == tensor["elements_hex"]
        assert message.specs()[tensor["name"]] == (tensor["dtype"], tuple(tensor["shape"]))


@pytest.mark.parametrize("name", OF_DTYPES)
@pytest.mark.parametrize("layout", ["as read", "fortran", "stepped"])
def test_what_was_read_is_written_again_bit_for_bit(name: str, layout: str) -> None:
    message, what = load(name)
    body: dict[str, Any] = {}
    for key, array in message.items():
        if layout == "fortran":
            array = np.asfortranarray(array)
        elif layout == "stepped" and array.ndim:
            array = np.repeat(array, 2, axis=-1)[..., ::2]
        body[key] = array
    written = message_pb2.Message.FromString(_native.encode_message(what["topic"], body))
    assert [tensor.data.hex() for tensor in written.tensors] == [
        tensor["data_hex"] for tensor in what["tensors"]
    ]


@pytest.mark.parametrize("name", ["bytes", "utf8"])
def test_bodies_that_are_not_arrays_are_read(name: str) -> None:
    message, what = load(name)
    assert bytes(message.bytes).hex() == what["body_hex"]
    if name == "utf8":
        assert message.text.encode().hex() == what["body_hex"]


def test_every_field_of_the_envelope_is_read() -> None:
    message, what = load("envelope")
    for field, value in what["fields"].items():
        assert getattr(message, field) == value
    for field, value in what["ids"].items():
        assert getattr(message, field).replace("-", "") == value
    assert message.error.hex() == what["error_hex"]


@pytest.mark.parametrize("name", NAMES)
def test_a_vector_cut_short_is_refused(name: str) -> None:
    frame = (VECTORS / f"{name}.bin").read_bytes()
    for cut in range(1, len(frame)):
        with pytest.raises(errors.FrameCorrupt):
            _native.split_frame(frame[:cut])


def test_the_committed_vectors_are_what_the_script_makes() -> None:
    done = subprocess.run(
        [sys.executable, str(VECTORS / "make.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_protobuf_reads_the_vectors_too() -> None:
    for name in NAMES:
        frame = bus_pb2.Frame.FromString((VECTORS / f"{name}.bin").read_bytes())
        assert frame.items[0].message.topic == f"vectors.{name}"
