"""The arguments of a publish, as the envelope that the C core writes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from sira.kernel.errors import BadRequest
from sira.v1 import bus_pb2

_WAIT_MS_MAX = (1 << 32) - 1
WAIT_PART = 0.9
"""Of a caller's time, what the node may wait for room: its own answer is to be heard in time."""
_GRADES = {
    "accepted": bus_pb2.GRADE_ACCEPTED,
    "disk": bus_pb2.GRADE_DISK,
    "replicated": bus_pb2.GRADE_REPLICATED,
    "consumed": bus_pb2.GRADE_CONSUMED,
}


class Envelope(TypedDict, total=False):
    """Further fields that a publisher may set; each is carried to the subscriber as it is."""

    type: str  # what happened, as in CloudEvents
    content_type: str  # of a body of bytes or text: "application/json"
    schema: str  # where the body's schema is
    reply_to: str  # topic for answers


def envelope(
    *,
    grade: str | None = None,
    dedupe_key: str = "",
    key: str = "",
    priority: int = 0,
    wait_s: float | None = None,
    ttl_s: float | None = None,
    headers: Mapping[str, str] | None = None,
    further: Envelope | None = None,
) -> dict[str, Any]:
    """Return the arguments of `_native.Options`; {} when nothing was said.

    Args:
        wait_s: how long the node may wait for room; None: its `publish_block_s`.
    Raises:
        BadRequest: a value that no message can have.
    """
    fields: dict[str, Any] = dict(further or {})
    if grade is not None:
        if grade not in _GRADES:
            raise BadRequest(f"grade is {grade!r}", help=f"one of {', '.join(_GRADES)}")
        fields["grade"] = _GRADES[grade]
    if dedupe_key:
        fields["dedupe_key"] = dedupe_key
    if key:
        fields["key"] = key
    if priority:
        if not 0 <= priority <= 7:
            raise BadRequest(f"priority is {priority}", help="0 to 7, higher first")
        fields["priority"] = priority
    if wait_s is not None:
        fields["wait_ms"] = min(max(0, round(wait_s * 1e3)), _WAIT_MS_MAX)
    if ttl_s is not None:
        if not ttl_s > 0:
            raise BadRequest(f"ttl_s is {ttl_s}", help="seconds, more than 0; None: no limit")
        fields["ttl_ns"] = max(1, round(ttl_s * 1e9))
    if headers:
        fields["headers"] = dict(headers)
    return fields
