"""Sira's errors as gRPC statuses, and back: the one table from code to status.

Every refusal carries `google.rpc.Status` details: `ErrorInfo` (our code, domain, details),
`RetryInfo` where waiting helps, `BadRequest` where a field is wrong, and our own `sira.v1.Error`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn, Protocol

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from sira.kernel import errors
from sira.kernel.errors import SiraError
from sira.v1 import error_pb2

DOMAIN = "sira.v1"
DETAILS_KEY = "grpc-status-details-bin"

STATUS: dict[str, grpc.StatusCode] = {
    "BAD_REQUEST": grpc.StatusCode.INVALID_ARGUMENT,
    "BAD_TOPIC": grpc.StatusCode.INVALID_ARGUMENT,
    "FRAME_CORRUPT": grpc.StatusCode.INVALID_ARGUMENT,
    "MESSAGE_TOO_LARGE": grpc.StatusCode.INVALID_ARGUMENT,
    "CONTRACT_MISMATCH": grpc.StatusCode.FAILED_PRECONDITION,
    "BAD_SETTING": grpc.StatusCode.INVALID_ARGUMENT,
    "UNSUPPORTED": grpc.StatusCode.UNIMPLEMENTED,
    "NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "CONFLICT": grpc.StatusCode.ALREADY_EXISTS,
    "DENIED": grpc.StatusCode.PERMISSION_DENIED,
    "UNAUTHENTICATED": grpc.StatusCode.UNAUTHENTICATED,
    "REVOKED": grpc.StatusCode.PERMISSION_DENIED,
    "QUEUE_FULL": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "RATE_LIMITED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "QUOTA_EXCEEDED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "NODE_DRAINING": grpc.StatusCode.UNAVAILABLE,
    "TIMEOUT": grpc.StatusCode.DEADLINE_EXCEEDED,
    "CANCELLED": grpc.StatusCode.CANCELLED,
    "EXPIRED": grpc.StatusCode.DEADLINE_EXCEEDED,
    "STALLED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "NO_MATCH": grpc.StatusCode.NOT_FOUND,
    "HANDLER_FAILED": grpc.StatusCode.ABORTED,
    "PEER_LOST": grpc.StatusCode.UNAVAILABLE,
    "UNREACHABLE": grpc.StatusCode.UNAVAILABLE,
    "OUTCOME_UNKNOWN": grpc.StatusCode.UNKNOWN,
    "GRADE_UNAVAILABLE": grpc.StatusCode.FAILED_PRECONDITION,
    "GRADE_NOT_REACHED": grpc.StatusCode.DEADLINE_EXCEEDED,
    "STREAM_TRUNCATED": grpc.StatusCode.DATA_LOSS,
    "ABORTED": grpc.StatusCode.ABORTED,
    "PROTOCOL_ERROR": grpc.StatusCode.INVALID_ARGUMENT,
    "CONNECTION_CLOSED": grpc.StatusCode.UNAVAILABLE,
    "LINK_CORRUPT": grpc.StatusCode.DATA_LOSS,
    "INTERNAL": grpc.StatusCode.INTERNAL,
    "ADDRESS_IN_USE": grpc.StatusCode.FAILED_PRECONDITION,
    "DATA_DIR_IN_USE": grpc.StatusCode.FAILED_PRECONDITION,
    "DATA_DIR_UNUSABLE": grpc.StatusCode.FAILED_PRECONDITION,
    "STORAGE_FULL": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "JOURNAL_FAILED": grpc.StatusCode.UNAVAILABLE,
    "JOURNAL_CORRUPT": grpc.StatusCode.DATA_LOSS,
    "UPGRADE_REQUIRED": grpc.StatusCode.FAILED_PRECONDITION,
}

# What a status means when nobody of ours put details into it: gRPC itself spoke.
_CODE_OF_STATUS: dict[grpc.StatusCode, str] = {
    grpc.StatusCode.UNAVAILABLE: "UNREACHABLE",
    grpc.StatusCode.DEADLINE_EXCEEDED: "TIMEOUT",
    grpc.StatusCode.CANCELLED: "CANCELLED",
    grpc.StatusCode.UNAUTHENTICATED: "UNAUTHENTICATED",
    grpc.StatusCode.PERMISSION_DENIED: "DENIED",
    grpc.StatusCode.UNIMPLEMENTED: "UNSUPPORTED",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "MESSAGE_TOO_LARGE",
    grpc.StatusCode.INVALID_ARGUMENT: "BAD_REQUEST",
    grpc.StatusCode.NOT_FOUND: "NOT_FOUND",
}

Metadata = Iterable[tuple[str, str | bytes]]

# A status travels in headers, and gRPC throws away a status whose headers are over 8 KiB.
_PROTO_BYTES_MAX = 1_600
_MESSAGE_BYTES_MAX, _DETAIL_BYTES_MAX = 400, 200


class Aborting(Protocol):
    """The part of a gRPC servicer context that ends a call."""

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: tuple[()] = ()
    ) -> NoReturn:
        """End the call."""
        ...


def status_code(code: str) -> grpc.StatusCode:
    """Return the gRPC status of a stable code; one that a newer node made up is UNKNOWN."""
    return STATUS.get(code, grpc.StatusCode.UNKNOWN)


def rich_status(error: SiraError) -> status_pb2.Status:
    """Return the error as `google.rpc.Status`, with all the details that apply."""
    proto = _fitting(error.to_proto())
    status = status_pb2.Status(code=status_code(error.code).value[0], message=proto.message)
    info = error_details_pb2.ErrorInfo(reason=proto.code, domain=DOMAIN, metadata=proto.details)
    status.details.add().Pack(info)
    if error.retryable:
        delay = Duration()
        delay.FromMilliseconds(error.retry_after_ms)
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    if status_code(error.code) is grpc.StatusCode.INVALID_ARGUMENT:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=proto.details.get("field", ""), description=proto.message
        )
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    status.details.add().Pack(proto)
    return status


def _fitting(proto: error_pb2.Error) -> error_pb2.Error:
    """Return an error that fits into headers: what is too long is cut, and then details left out.

    Only errors that quote a peer at length, or come from one, are so long.
    """
    if proto.ByteSize() <= _PROTO_BYTES_MAX:
        return proto
    small = error_pb2.Error(
        code=_cut(proto.code, _DETAIL_BYTES_MAX),
        message=_cut(proto.message, _MESSAGE_BYTES_MAX),
        retryable=proto.retryable,
        retry_after_ms=proto.retry_after_ms,
        help=_cut(proto.help, _DETAIL_BYTES_MAX),
    )
    for key, value in proto.details.items():
        short = {_cut(key, _DETAIL_BYTES_MAX): _cut(value, _DETAIL_BYTES_MAX)}
        if small.ByteSize() + error_pb2.Error(details=short).ByteSize() > _PROTO_BYTES_MAX:
            break
        small.details.update(short)
    return small


def _cut(text: str, bytes_max: int) -> str:
    """Return the beginning of a text, at most so long, and an ellipsis."""
    data = text.encode()
    return text if len(data) <= bytes_max else data[:bytes_max].decode(errors="ignore") + "…"


async def abort(context: Aborting, error: SiraError) -> NoReturn:
    """End the call with the error and its details. Raises what gRPC raises to leave the handler."""
    status = rpc_status.to_status(rich_status(error))
    await context.abort(status.code, status.details, status.trailing_metadata)
    raise AssertionError("abort returned")


def from_status(
    status: grpc.StatusCode, message: str, trailing_metadata: Metadata | None
) -> SiraError:
    """Build the error that ended a call, from what any gRPC client sees of it."""
    for key, value in trailing_metadata or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            found = _from_details(value)
            if found is not None:
                return found
    code = _CODE_OF_STATUS.get(status, "INTERNAL")
    return errors.from_code(code, message or status.name, {"grpc_status": status.name})


def from_grpc(error: grpc.RpcError) -> SiraError:
    """Build the error from what a grpcio call raised, sync or asyncio."""
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return errors.Internal(f"gRPC failed without a status: {type(error).__name__}")
    return from_status(error.code(), error.details() or "", error.trailing_metadata())


def _from_details(data: bytes) -> SiraError | None:
    """Return the error inside encoded `google.rpc.Status` details; None: there is none of ours."""
    try:
        status = status_pb2.Status.FromString(data)
        for detail in status.details:
            if detail.Is(error_pb2.Error.DESCRIPTOR):
                return errors.decode(detail.value)
    except Exception:  # a peer's bytes: whatever protobuf raises, there is no error in them
        return None
    return None
