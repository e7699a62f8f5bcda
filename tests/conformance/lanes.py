"""Ways for a tensor to get from one program to another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sira import _native

# Sends one array, returns the tensor as the receiver reads it.
Send = Callable[[Any], Any]
TIMEOUT_S = 30.0


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


LANES = {"codec": codec, "grpc": grpc}
