"""Answers over many rows, and other work of a call: others have the loop in between."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import TypeVar, cast

from google.protobuf.message import Message

T = TypeVar("T")


class Parts:
    """One answer, encoded part by part: the parts of a message, one after the other, are the whole.

    A row costs up to 15 µs to make and encode, and nothing may hold the loop over 5 ms.
    """

    ROWS = 100

    def __init__(self) -> None:
        """Begin empty."""
        self._parts: list[bytes] = []
        self.bytes_now = 0

    async def add(self, part: Message) -> None:
        """Encode a part of at most `ROWS` rows, and let others have the loop."""
        data = part.SerializeToString()
        self._parts.append(data)
        self.bytes_now += len(data)
        await asyncio.sleep(0)

    def whole(self) -> bytes:
        """Return the encoded answer: what a client can take in one message is copied at once."""
        return b"".join(self._parts)


async def taking_turns(work: Generator[None, None, T]) -> T:
    """Do work in slices, between which others have the loop."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return cast("T", end.value)
        await asyncio.sleep(0)
