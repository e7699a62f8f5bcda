"""A message that is written where it is read: `bus.loan`.

Knows how its arrays lie in one piece of memory, and no more of sending than whom to call.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from sira import _native
from sira.client.asked import Asked
from sira.client.message import Body, Message
from sira.client.runner import Runner
from sira.kernel.binding import DTYPES
from sira.kernel.errors import BadRequest, Timeout
from sira.v1 import tensor_pb2

_ALIGN_BYTES = 64
_BYTES_MAX = 16 << 30
_NDIM_MAX = 32
_SPEC = re.compile(r"([a-z0-9]+)(?:\[([0-9, ]*)\])?")
_PACKED = ("i4", "u4")
_LAYOUTS_MAX = 256  # remembered: who lends lends the like again
_NAMES = {
    tensor_pb2.DType.Name(code).removeprefix("DTYPE_").lower(): dtype
    for code, dtype in DTYPES.items()
}
Memory = _native.ShmChunk | None


class Slot(NamedTuple):
    """One array of a loan: what it is, and where it lies."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset_bytes: int


class Here(NamedTuple):
    """What sends a loan past the node in the calling thread; None: that cannot be now."""

    publish: Callable[[Body, _native.ShmChunk], _native.Receipt | None]
    ask: Callable[[Body, _native.ShmChunk], Asked | None]


class Layout(NamedTuple):
    """All arrays of a loan, one behind the other, each at a multiple of 64 bytes."""

    slots: dict[str, Slot]
    size_bytes: int


def layout(tensors: Mapping[str, str]) -> Layout:
    """Return how the arrays lie. Pure.

    Args:
        tensors: name -> dtype and shape, as "f32[2,3]".
    Raises:
        BadRequest: there is no such dtype or shape, or it is too much.
    """
    return _layout(tuple(tensors.items()))


@lru_cache(maxsize=_LAYOUTS_MAX)
def _layout(tensors: tuple[tuple[str, str], ...]) -> Layout:
    slots: dict[str, Slot] = {}
    end = 0
    for name, text in tensors:
        dtype, shape = _parsed(name, text)
        size = dtype.itemsize
        for length in shape:
            size *= length
        at = -(-end // _ALIGN_BYTES) * _ALIGN_BYTES
        slots[name] = Slot(dtype, shape, at if size else 0)
        end = at + size if size else end
    if end > _BYTES_MAX:
        raise BadRequest(f"a loan of {end} bytes; a message has at most {_BYTES_MAX}")
    return Layout(slots, end)


def _parsed(name: str, text: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    found = _SPEC.fullmatch(text)
    dtype = _NAMES.get(found[1]) if found else None
    bad = f"{name!r} is to be {text[:80]!r}"
    if found is None or dtype is None:
        raise BadRequest(bad, help='a dtype and a shape of numbers, as "f32[1024]" or "u8[4, 4]"')
    if found[1] in _PACKED:
        raise BadRequest(bad, help="i4 and u4 travel two a byte: publish such an array")
    lengths = found[2] or ""
    try:
        shape = tuple(int(each) for each in lengths.split(",")) if lengths.strip() else ()
    except ValueError:
        raise BadRequest(bad, help='a shape is numbers and commas, as "[2, 3]"') from None
    if len(shape) > _NDIM_MAX:
        raise BadRequest(bad, help=f"at most {_NDIM_MAX} dimensions")
    return dtype, shape


class Loan(Mapping[str, NDArray[Any]]):
    """Arrays to write into, by name. What they hold at first is undefined.

    They are sent at the end of the `async with`, and are read-only from then on: others read the
    same memory. An exception inside sends nothing.

    Attributes:
        receipt: of what was published; None: not yet, or it was a request.
    """

    def __init__(
        self,
        wanted: Layout,
        *,
        place: Callable[[int], Memory],
        publish: Callable[[Body, Memory], Awaitable[_native.Receipt]],
        ask: Callable[[Body, Memory], Awaitable[Message]] | None,
        here: Here,
    ) -> None:
        """Prepare; see `Bus.loan`.

        Args:
            place: gives memory to write into; None: there is none that is shared.
            publish, ask: sends the arrays; with `ask` they are a request.
            here: the same for other threads than the loop's.
        """
        self.receipt: _native.Receipt | None = None
        self._wanted = wanted
        self._place, self._publish, self._ask, self._here = place, publish, ask, here
        self._arrays: dict[str, NDArray[Any]] = {}
        self.asked: Asked | None = None  # sent as a request by `send_here`
        self._reply: asyncio.Future[Message] | None = None
        self._memory: Memory = None

    async def __aenter__(self) -> Self:
        """Take memory for the arrays."""
        size_bytes = self._wanted.size_bytes
        self._memory = self._place(size_bytes) if size_bytes else None
        memory = self._memory
        self._lay(np.empty(max(1, size_bytes), np.uint8) if memory is None else memory)
        return self

    def _lay(self, memory: Any) -> None:
        for name, slot in self._wanted.slots.items():
            self._arrays[name] = np.ndarray(
                slot.shape, slot.dtype, buffer=memory, offset=slot.offset_bytes
            )

    def _sealed(self) -> Body:
        for array in self._arrays.values():
            array.flags.writeable = False
        return dict(self._arrays)

    def take_here(self) -> bool:
        """Take memory in a thread that is not the loop's; False: it is for the loop to do."""
        size_bytes = self._wanted.size_bytes
        self._memory = self._place(size_bytes) if size_bytes else None
        if self._memory is None:
            return False
        self._lay(self._memory)
        return True

    def send_here(self) -> bool:
        """Send what was written past the node, in this thread; False: it is for the loop to do."""
        memory = self._memory
        if memory is None:
            return False
        body = self._sealed()
        if self._ask is None:
            self.receipt = self._here.publish(body, memory)
        else:
            self.asked = self._here.ask(body, memory)
        if self.receipt is None and self.asked is None:
            return False
        self._memory = None
        return True

    async def __aexit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        """Send what was written; after an exception nothing. Raises as `publish`."""
        memory, self._memory = self._memory, None
        if kind is not None:
            self._arrays.clear()
            return
        body = self._sealed()
        if self._ask is None:
            self.receipt = await self._publish(body, memory)
            return
        self._reply = asyncio.ensure_future(self._ask(body, memory))
        self._reply.add_done_callback(_seen)
        await asyncio.sleep(0)  # on its way before anything else is said

    async def reply(self, *, timeout_s: float | None = None) -> Message:
        """Return the answer to a loan that was a request.

        Args:
            timeout_s: how long to wait here, in s; None: as long as the request may take.
        Raises:
            BadRequest: it is none, or was not sent. Timeout: none came. SiraError: as `request`.
        """
        if self._reply is None:
            raise BadRequest(
                "there is no reply to wait for",
                help="bus.loan(..., request=True), and ask after the end of its `with`",
            )
        done, _ = await asyncio.wait([self._reply], timeout=timeout_s)
        if not done:
            raise Timeout(f"no reply in {timeout_s:g} s")
        return self._reply.result()

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return an array. KeyError: there is none of that name."""
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        """Return the names."""
        return iter(self._arrays)

    def __len__(self) -> int:
        """Return how many arrays there are."""
        return len(self._arrays)


class SyncLoan(Mapping[str, NDArray[Any]]):
    """As `Loan`, without `await`."""

    def __init__(self, runner: Runner, loan: Loan) -> None:
        self._runner, self._loan = runner, loan

    def __enter__(self) -> Self:
        """Take memory for the arrays."""
        if not self._loan.take_here():
            self._runner.run(self._loan.__aenter__())
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Send what was written; see `Loan`."""
        if kind is not None or not self._loan.send_here():
            self._runner.run(self._loan.__aexit__(kind, *error))

    @property
    def receipt(self) -> _native.Receipt | None:
        """Of what was published."""
        return self._loan.receipt

    def reply(self, *, timeout_s: float | None = None) -> Any:
        """Return the answer; see `Loan.reply`."""
        if self._loan.asked is not None:
            return self._loan.asked.reply(timeout_s=timeout_s)
        return self._runner.run(self._loan.reply(timeout_s=timeout_s))

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return an array. KeyError: there is none of that name."""
        return self._loan[name]

    def __iter__(self) -> Iterator[str]:
        """Return the names."""
        return iter(self._loan)

    def __len__(self) -> int:
        """Return how many arrays there are."""
        return len(self._loan)


def _seen(done: asyncio.Future[Message]) -> None:
    """Retrieve an exception that nobody may wait for."""
    if not done.cancelled():
        done.exception()
