"""Which message led to this one: ids, conversation and trace, filled in by the SDK.

While a handler runs, `handling` holds the message it was given; all it sends names that message as
its cause and belongs to the same conversation. The W3C traceparent comes from OpenTelemetry's
current span when the process uses OpenTelemetry, else it is passed on from that message.
"""

from __future__ import annotations

import os
import sys
from contextvars import ContextVar
from typing import Any, TypedDict

from sira import _native
from sira.kernel.errors import Unreachable

TRACING = "opentelemetry.trace"
"""While it is loaded, what is sent may have a traceparent that no message has brought."""

handling: ContextVar[_native.Message | None] = ContextVar("sira_handling", default=None)


class Lineage(TypedDict, total=False):
    """Fields of an envelope that say where a message comes from."""

    correlation_id: bytes
    causation_id: bytes
    intent_id: bytes
    traceparent: str


def lineage(cause: _native.Message | None = None) -> Lineage:
    """Return what to write into the next message; empty outside handlers and traces."""
    if cause is None:  # not `or`: a message without tensors is empty, and so false
        cause = handling.get()
    traceparent = _span_traceparent() if TRACING in sys.modules else ""
    if cause is None:
        return {"traceparent": traceparent} if traceparent else {}
    found: Lineage = {
        "correlation_id": cause.correlation_id_bytes or cause.id_bytes,
        "causation_id": cause.id_bytes,
    }
    if intent_id := cause.intent_id:
        found["intent_id"] = id_bytes(intent_id)
    if traceparent := traceparent or cause.traceparent:
        found["traceparent"] = traceparent
    return found


def is_first() -> bool:
    """Whether `lineage` has nothing to say of what is sent now."""
    return handling.get() is None and TRACING not in sys.modules


def _span_traceparent() -> str:
    trace: Any = sys.modules[TRACING]
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return ""
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{int(span.trace_flags):02x}"


def id_text(raw: bytes) -> str:
    """Write 16 bytes as UUID text; "" for no bytes."""
    digits = raw.hex()
    if not digits:
        return ""
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def id_bytes(text: str) -> bytes:
    """Read UUID text; b"" for ""."""
    return bytes.fromhex(text.replace("-", ""))


class _Process:
    """How often this process is a fork of another one: what was connected before is not usable."""

    forks = 0


def _forked() -> None:
    _Process.forks += 1


os.register_at_fork(after_in_child=_forked)


def forks() -> int:
    """Return a number that changes in a forked child."""
    return _Process.forks


def check_fork(forks_then: int) -> None:
    """Refuse an object that was made before this process was forked off.

    Raises:
        Unreachable: it belongs to the parent, whose threads and sockets this process has not got.
    """
    if _Process.forks != forks_then:
        raise Unreachable(
            "this connection belongs to the parent process",
            retryable=False,
            help="a child connects by itself: start it by 'spawn' or 'forkserver', or fork before "
            "the first connection, and call sira.connect() or connect_sync() in it",
        )
