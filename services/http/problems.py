"""Errors as HTTP says them: one table from code to status, and `application/problem+json`."""

from __future__ import annotations

import json
import math
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from sira.kernel.errors import BadRequest, SiraError

MEDIA_TYPE = "application/problem+json"
_DETAIL_CHARS_MAX = 1_000

STATUS: dict[str, int] = {
    "BAD_REQUEST": 400,
    "BAD_TOPIC": 400,
    "FRAME_CORRUPT": 400,
    "MESSAGE_TOO_LARGE": 413,
    "CONTRACT_MISMATCH": 422,
    "BAD_SETTING": 400,
    "UNSUPPORTED": 501,
    "NOT_FOUND": 404,
    "CONFLICT": 409,
    "DENIED": 403,
    "UNAUTHENTICATED": 401,
    "REVOKED": 403,
    "QUEUE_FULL": 503,
    "RATE_LIMITED": 429,
    "QUOTA_EXCEEDED": 429,
    "NODE_DRAINING": 503,
    "TIMEOUT": 504,
    "CANCELLED": 503,
    "EXPIRED": 504,
    "STALLED": 503,
    "NO_MATCH": 404,
    "HANDLER_FAILED": 502,
    "PEER_LOST": 502,
    "UNREACHABLE": 503,
    "OUTCOME_UNKNOWN": 502,
    "GRADE_UNAVAILABLE": 422,
    "GRADE_NOT_REACHED": 504,
    "STREAM_TRUNCATED": 502,
    "ABORTED": 409,
    "PROTOCOL_ERROR": 502,
    "CONNECTION_CLOSED": 503,
    "LINK_CORRUPT": 502,
    "INTERNAL": 500,
    "ADDRESS_IN_USE": 500,
    "DATA_DIR_IN_USE": 500,
    "DATA_DIR_UNUSABLE": 500,
    "STORAGE_FULL": 503,
    "JOURNAL_FAILED": 500,
    "JOURNAL_CORRUPT": 500,
    "UPGRADE_REQUIRED": 500,
}


class HttpError(BadRequest):
    """The request is none that this listener takes; HTTP has a status of its own for why."""

    def __init__(self, status: int, message: str, **more: Any) -> None:
        """Say what happened, with a status that is not the table's."""
        super().__init__(message, **more)
        self.status = status


def status_of(error: SiraError) -> int:
    """Return the HTTP status; a code that a newer node made up is 500."""
    return error.status if isinstance(error, HttpError) else STATUS.get(error.code, 500)


def document(error: SiraError) -> dict[str, Any]:
    """Return the problem as JSON says it (RFC 9457).

    What is known of a node that does not answer is its address in our data folder: not told.
    """
    status = status_of(error)
    text = "the node does not answer" if error.code == "UNREACHABLE" else str(error)
    return {
        "type": f"urn:sira:error:{error.code}",
        "title": _title(status),
        "status": status,
        "detail": text[:_DETAIL_CHARS_MAX],
        "code": error.code,
        "retryable": error.retryable,
        "retry_after_ms": error.retry_after_ms,
        "help": error.help,
    }


def problem(error: SiraError) -> Response:
    """Return the response that says the error."""
    status = status_of(error)
    headers = {"Cache-Control": "no-store"}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after_ms or (error.retryable and status in (429, 503)):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_ms / 1e3)))
    return Response(json.dumps(document(error)), status, headers, MEDIA_TYPE)


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
