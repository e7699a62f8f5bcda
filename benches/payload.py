"""What the messages carry, and the checks that prove each one arrived, once and in order.

A small message opens with its sequence number and, on the last of a phase, the count so far. A
large one is a float32 tensor filled with a number made from its sequence number and summed when it
arrives.
"""

from __future__ import annotations

import struct
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEAD = struct.Struct("<QQ")
"""Sequence number, and 0 or the number of messages up to and with this one: the phase is over."""

FILL_PERIOD = 13
"""Tensors are filled with 1..13 in turn, so that a stale or repeated one has another sum."""


class Lost(Exception):
    """A message was lost, repeated, reordered or changed on the way."""


def tail(message_bytes: int) -> bytes:
    """Filling after the head, for a message of `message_bytes` in all."""
    return bytes(i % 251 for i in range(message_bytes - HEAD.size))


class Sequence:
    """Checks messages of one flow: each number once, in order, none missing."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def take(self, message: Any) -> bool:
        """Count `message` (bytes or a buffer); true when it ends a phase.

        Raises:
            Lost: its number is not the next one.
        """
        index, total = HEAD.unpack_from(message)
        if index != self.count:
            raise Lost(f"message {index} came where {self.count} was due")
        self.count += 1
        if total and total != self.count:
            raise Lost(f"the producer counted {total} messages, {self.count} came")
        return bool(total)


class Tensors:
    """Fills and checks float32 tensors of one flow."""

    __slots__ = ("count", "period")

    def __init__(self, period: int = FILL_PERIOD) -> None:
        self.count, self.period = 0, period

    @staticmethod
    def fill(tensor: NDArray[np.float32], index: int) -> None:
        """Write every element of tensor number `index`, as its producer would."""
        tensor.fill(1 + index % FILL_PERIOD)

    def take(self, tensor: NDArray[np.float32]) -> None:
        """Read every element (a sum) and check it against the tensor that is due.

        Raises:
            Lost: another tensor, or a changed one.
        """
        due = 1 + self.count % self.period
        total = float(tensor.sum())
        wanted = float(due) * tensor.size
        if tensor[0] != due or tensor[-1] != due or abs(total - wanted) > 1e-3 * wanted:
            raise Lost(f"tensor {self.count}: sum {total}, wanted {wanted}")
        self.count += 1


def now_ns() -> int:
    """CLOCK_MONOTONIC, which all processes of one machine share."""
    return time.monotonic_ns()
