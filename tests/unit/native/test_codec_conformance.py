"""The conformance run passes on the codec, and it would notice a single wrong bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sira.kernel.binding import DTYPES
from tests.conformance.__main__ import section
from tests.conformance.cases import LAYOUTS, cases
from tests.conformance.lanes import codec
from tests.conformance.libraries import NumPy


def test_every_dtype_and_layout_of_numpy_arrives_bit_for_bit() -> None:
    assert len(cases()) == len(DTYPES) * len(LAYOUTS)
    faults: list[str] = []
    with codec() as send:
        _, table = section(NumPy(), "codec", send, faults)
    assert faults == []
    assert table.count(" view |") == 2 * len(DTYPES)  # out and large out
    assert "refused" not in table


@pytest.mark.parametrize("dtype", ["f32", "bf16", "i4", "c128"])
def test_one_wrong_bit_is_a_fault(dtype: str) -> None:
    of_dtype = next(case.array.dtype for case in cases() if case.dtype == dtype)
    with codec() as send:

        def flipped(array: Any) -> Any:
            read = send(array)
            if read.dtype != of_dtype:
                return read
            void = np.dtype((np.void, read.dtype.itemsize))
            bits = bytearray(np.asarray(read).view(void).tobytes())
            if bits:
                bits[-1] ^= 1
            wrong = np.frombuffer(bytes(bits), void, read.size).view(read.dtype)
            return wrong.reshape(read.shape)

        faults: list[str] = []
        section(NumPy(), "codec", flipped, faults)
    assert {fault.split(": ")[1].split()[0] for fault in faults} == {dtype}
    assert len(faults) >= 7


def test_a_lost_dimension_is_a_fault() -> None:
    with codec() as send:
        faults: list[str] = []
        section(NumPy(), "codec", lambda array: send(array).reshape(-1), faults)
    assert len(faults) >= len(DTYPES)
