"""A message that is written where it is read: `bus.loan`.

Knows how its arrays lie in one piece of memory, and no more of sending than whom to call.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, Self

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


class Layout(NamedTuple):
    """All arrays of a loan, one behind the other, each at a multiple of 64 bytes."""

    slots: dict[str, Slot]
    size_bytes: int


@lru_cache(maxsize=_LAYOUTS_MAX)
def _layout(tensors: tuple[tuple[str, str], ...]) -> Layout:
    """Return how the arrays lie. Pure.

    Args:
        tensors: name and what it is, as "f32[2,3]", each.
    Raises:
        BadRequest: there is no such dtype or shape, or it is too much.
    """
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


class Wanted:
    """What a loan is to be: where it goes, its arrays, and what else it says."""

    __slots__ = ("fields", "is_request", "layout", "timeout_s", "topic")

    def __init__(
        self,
        topic: str,
        tensors: Mapping[str, str],
        fields: dict[str, Any],
        timeout_s: float | None,
        is_request: bool,
    ) -> None:
        """Check it.

        Args:
            fields: as `envelope` gives them.
            timeout_s: as the caller said.
        Raises:
            BadTopic, BadRequest: no such topic, dtype or shape, or a setting that does not fit.
        """
        _native.check_topic(topic)
        if is_request and ("grade" in fields or "ttl_ns" in fields):
            raise BadRequest("a request has no grade and no ttl_s: it expires with its timeout_s")
        self.topic, self.layout = topic, _layout(tuple(tensors.items()))
        self.fields, self.timeout_s, self.is_request = fields, timeout_s, is_request


@lru_cache(maxsize=_LAYOUTS_MAX)
def plain(
    topic: str, tensors: tuple[tuple[str, str], ...], timeout_s: float | None, is_request: bool
) -> Wanted:
    """Return what says nothing more than it has to: the same for the same.

    Raises:
        BadTopic, BadRequest: as `Wanted`.
    """
    return Wanted(topic, dict(tensors), {}, timeout_s, is_request)


class Way(Protocol):
    """How memory for loans is had, and how they are sent."""

    def check(self) -> None:
        """Refuse what has ended. Raises Unreachable."""

    def place(self, topic: str, size_bytes: int) -> Memory:
        """Give memory to write into; None: there is none that is shared. In any thread."""

    async def publish(self, wanted: Wanted, body: Body, memory: Memory) -> _native.Receipt:
        """Publish the arrays."""

    async def ask(self, wanted: Wanted, body: Body, memory: Memory) -> Message:
        """Send them as a request, and return the answer."""

    def post(
        self, wanted: Wanted, body: Body, memory: _native.ShmChunk
    ) -> asyncio.Future[Message] | None:
        """Ask past the node, on the loop and at once; None: that cannot be now."""

    def publish_here(
        self, wanted: Wanted, body: Body, memory: _native.ShmChunk
    ) -> _native.Receipt | None:
        """Publish past the node, in the calling thread; None: that cannot be now."""

    def ask_here(self, wanted: Wanted, body: Body, memory: _native.ShmChunk) -> Asked | None:
        """Ask past the node, in the calling thread; None: that cannot be now."""


class _Arrays(Mapping[str, NDArray[Any]]):
    """Arrays by name, in one piece of memory."""

    __slots__ = ()

    _arrays: dict[str, NDArray[Any]]

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return an array. KeyError: there is none of that name."""
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        """Return the names."""
        return iter(self._arrays)

    def __len__(self) -> int:
        """Return how many arrays there are."""
        return len(self._arrays)


def _laid(slots: dict[str, Slot], memory: Any) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for name, (dtype, shape, offset_bytes) in slots.items():
        arrays[name] = np.ndarray(shape, dtype, memory, offset_bytes)
    return arrays


def _seal(arrays: dict[str, NDArray[Any]]) -> None:
    """From now on others read the same memory."""
    for array in arrays.values():
        array.flags.writeable = False


class Loan(_Arrays):
    """Arrays to write into, by name. What they hold at first is undefined.

    They are sent at the end of the `async with`, and are read-only from then on: others read the
    same memory. An exception inside sends nothing.

    Attributes:
        receipt: of what was published; None: not yet, or it was a request.
    """

    def __init__(self, way: Way, wanted: Wanted) -> None:
        """Prepare; see `Bus.loan`."""
        self.receipt: _native.Receipt | None = None
        self._way, self._wanted = way, wanted
        self._arrays = {}
        self._reply: asyncio.Future[Message] | None = None
        self._memory: Memory = None

    async def __aenter__(self) -> Self:
        """Take memory for the arrays."""
        topic, wanted = self._wanted.topic, self._wanted.layout
        size_bytes = wanted.size_bytes
        self._memory = memory = self._way.place(topic, size_bytes) if size_bytes else None
        self._arrays = _laid(
            wanted.slots, np.empty(max(1, size_bytes), np.uint8) if memory is None else memory
        )
        return self

    def take_over(self, arrays: dict[str, NDArray[Any]], memory: Memory) -> Self:
        """Have what was written in another thread."""
        self._arrays, self._memory = arrays, memory
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        """Send what was written; after an exception nothing. Raises as `publish`."""
        memory, self._memory = self._memory, None
        if kind is not None:
            self._arrays.clear()
            return
        _seal(self._arrays)
        body = dict(self._arrays)
        if not self._wanted.is_request:
            self.receipt = await self._way.publish(self._wanted, body, memory)
            return
        if memory is not None:
            self._reply = self._way.post(self._wanted, body, memory)
        if self._reply is None:
            self._reply = asyncio.ensure_future(self._way.ask(self._wanted, body, memory))
            await asyncio.sleep(0)  # on its way before anything else is said
        self._reply.add_done_callback(_seen)

    async def reply(self, *, timeout_s: float | None = None) -> Message:
        """Return the answer to a loan that was a request.

        Args:
            timeout_s: how long to wait here, in s; None: as long as the request may take.
        Raises:
            BadRequest: it is none, or was not sent. Timeout: none came. SiraError: as `request`.
        """
        if self._reply is None:
            raise _no_reply()
        if timeout_s is None:
            return await asyncio.shield(self._reply)
        done, _ = await asyncio.wait([self._reply], timeout=timeout_s)
        if not done:
            raise Timeout(f"no reply in {timeout_s:g} s")
        return self._reply.result()


class SyncLoan(_Arrays):
    """As `Loan`, without `await`.

    Where there is memory and the message can go past the node all is done in the calling thread;
    else by a `Loan`, on the background loop.

    Attributes:
        receipt: of what was published; None: not yet, or it was a request.
    """

    __slots__ = ("_arrays", "_asked", "_loan", "_memory", "_runner", "_wanted", "_way", "receipt")

    def __init__(self, runner: Runner, way: Way, wanted: Wanted) -> None:
        self.receipt: _native.Receipt | None = None
        self._runner, self._way, self._wanted = runner, way, wanted
        self._arrays = {}
        self._memory: Memory = None
        self._asked: Asked | None = None
        self._loan: Loan | None = None

    def __enter__(self) -> Self:
        """Take memory for the arrays."""
        topic, wanted = self._wanted.topic, self._wanted.layout
        if wanted.size_bytes:
            self._memory = self._way.place(topic, wanted.size_bytes)
        if self._memory is None:
            self._way.check()
            self._loan = Loan(self._way, self._wanted)
            self._runner.run(self._loan.__aenter__())
            self._arrays = self._loan._arrays
        else:
            self._arrays = _laid(wanted.slots, self._memory)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Send what was written; see `Loan`."""
        memory, self._memory = self._memory, None
        if kind is not None and self._loan is None:
            self._arrays.clear()
            return
        if kind is None and memory is not None:
            _seal(self._arrays)
            if self._wanted.is_request:
                self._asked = self._way.ask_here(self._wanted, self._arrays, memory)
                if self._asked is not None:
                    return
            else:
                self.receipt = self._way.publish_here(self._wanted, self._arrays, memory)
                if self.receipt is not None:
                    return
        if self._loan is None:
            self._loan = Loan(self._way, self._wanted).take_over(self._arrays, memory)
        self._runner.run(self._loan.__aexit__(kind, *error))
        self.receipt = self._loan.receipt

    def reply(self, *, timeout_s: float | None = None) -> Any:
        """Return the answer; see `Loan.reply`."""
        if self._asked is not None:
            return self._asked.reply(timeout_s=timeout_s)
        if self._loan is None:
            raise _no_reply()
        return self._runner.run(self._loan.reply(timeout_s=timeout_s))


def _no_reply() -> BadRequest:
    return BadRequest(
        "there is no reply to wait for",
        help="bus.loan(..., request=True), and ask after the end of its `with`",
    )


def _seen(done: asyncio.Future[Message]) -> None:
    """Retrieve an exception that nobody may wait for."""
    if not done.cancelled():
        done.exception()
