"""Ways for a tensor to get from one program to another."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from sira import _native
from sira.kernel.binding import DTYPES
from sira.v1 import tensor_pb2

from .libraries import NotThere

# Sends one array, returns the tensor as the receiver reads it.
Send = Callable[[Any], Any]
TIMEOUT_S = 30.0
# A topic is asked a route for again after a moment, at most 5 s.
TRIES, AGAIN_S = 2_000, 0.005
NAMES = {
    dtype: tensor_pb2.DType.Name(code).removeprefix("DTYPE_").lower()
    for code, dtype in DTYPES.items()
}
PACKED = ("i4", "u4")  # two a byte: no loan has them


@contextmanager
def codec() -> Iterator[Send]:
    """Encode and decode, in this process."""
    yield lambda array: _native.Message.decode(_native.encode_message("conformance", {"x": array}))[
        "x"
    ]


@contextmanager
def grpc() -> Iterator[Send]:
    """Through a real node: published by one client, read by a subscriber of another."""
    import sira
    from sira.testing import node

    with (
        node() as running,
        sira.connect_sync(running.url) as sender,
        sira.connect_sync(running.url) as receiver,
        receiver.subscribe("conformance") as messages,
    ):

        def send(array: Any) -> Any:
            sender.publish("conformance", {"x": array}, timeout_s=TIMEOUT_S)
            return messages.next(timeout_s=TIMEOUT_S)["x"]

        yield send


@contextmanager
def _past_node(publish: Callable[[Any, Any], Any]) -> Iterator[Send]:
    """Past the node, by memory that the reader has mapped: each message, by the node's account.

    Args:
        publish: of a bus and an array; what it returns is not looked at.
    """
    import sira
    from sira.testing import node

    with (
        node() as running,
        sira.connect_sync(running.socket_url) as sender,
        sira.connect_sync(running.socket_url) as receiver,
        receiver.subscribe("conformance") as messages,
    ):

        def went_past() -> float:
            return sender.stats().values["messages_direct"]

        def send(array: Any) -> Any:
            for _ in range(
                TRIES
            ):  # the first ones, and those that need more memory, go by the node
                before = went_past()
                publish(sender, array)
                read = messages.next(timeout_s=TIMEOUT_S)["x"]
                if went_past() > before:
                    return read
                time.sleep(AGAIN_S)
            raise AssertionError("every message went by the node")

        yield send


@contextmanager
def direct() -> Iterator[Send]:
    """Past the node: the publisher copies into shared memory, the reader looks at it there."""

    def publish(bus: Any, array: Any) -> None:
        bus.publish("conformance", {"x": array}, timeout_s=TIMEOUT_S)

    with _past_node(publish) as send:
        yield send


@contextmanager
def loan() -> Iterator[Send]:
    """Past the node, from memory that the publisher wrote in place: no copy on either side."""

    def publish(bus: Any, array: Any) -> None:
        decoded = _native.Message.decode(_native.encode_message("conformance", {"x": array}))["x"]
        name = NAMES[decoded.dtype]
        if name in PACKED:
            raise NotThere
        shape = ",".join(map(str, decoded.shape))
        with bus.loan("conformance", {"x": f"{name}[{shape}]" if shape else name}) as out:
            bits = np.dtype((np.void, decoded.dtype.itemsize))  # assignment would quiet some NaNs
            out["x"].view(bits)[...] = decoded.view(bits)

    with _past_node(publish) as send:
        yield send


LANES = {"codec": codec, "grpc": grpc, "direct": direct, "loan": loan}
