"""Headers, small on the wire and large on the node: what one such call took is given back."""

from __future__ import annotations

import pytest

from tests.integration.command import wait_until
from tests.soak import http2
from tests.soak.beside import Peak
from tests.soak.http2 import frame
from tests.soak.sides import ours

pytestmark = pytest.mark.integration
# What gRPC lets through to us of a peer that never confirmed our limit: in Python once more.
CALL_BYTES = 16 << 20
FIELD_BYTES = 4_000


def test_bombs_one_after_another_take_the_memory_of_few() -> None:
    """grpcio leaves the headers to Python's collector, which counts objects and not bytes."""
    field = http2.fields((b"x-bomb", b"y" * FIELD_BYTES), indexed=True)
    named = b"\xbe" * (CALL_BYTES // FIELD_BYTES - 200)  # index 62, the newest of the table
    with ours(None, {"reset_hold_s": 0}) as side:

        def bomb() -> None:
            with side.target.wire() as wire:
                ends = http2.END_HEADERS | http2.END_STREAM
                wire.send(frame(http2.HEADERS, ends, 1, side.target.block + field + named))
                wait_until("the connection is closed", lambda: wire.ended)

        bomb()  # the heap has room for one from now on
        peak = Peak(side.pid)
        for _ in range(12):
            bomb()
        assert peak.more_bytes() < 3 * CALL_BYTES
        assert side.acts["echo"]() == 0
