"""Every way in which Sira says no: one class a code, the numbers, and the way out.

A code is on the wire, in dashboards and in other people's programs: it keeps its meaning once
released. `kernel/rpc.py` turns codes into gRPC statuses. Errors carry what they know in `details`
(text to text), so that an error read from the wire is the same object as the one that was raised.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sira.v1 import error_pb2

_RETRY_AFTER_MS_MAX = 0xFFFF_FFFF  # uint32 on the wire: seven weeks
# An error quotes what was sent; a peer must not choose how long its refusal is.
_TEXT_CHARS_MAX = 1_000


class SiraError(Exception):
    """Something was refused or failed; `code` says what, `help` says what to do.

    Attributes:
        code: stable name, upper case.
        retryable: the same request, unchanged, may succeed later.
        retry_after_ms: when to try again, in ms; 0: no advice.
        details: what is known, as text: names, limits with their units, offsets.
        help: what to do, one sentence; "" when there is nothing to add.
    """

    code = "INTERNAL"
    retryable = False
    help = "this is a fault of the node or the SDK: report it, with the log around it"

    def __init__(
        self,
        message: str = "",
        *,
        details: Mapping[str, str] | None = None,
        retry_after_ms: int = 0,
        retryable: bool | None = None,
        help: str | None = None,  # noqa: A002  the attribute's own name
        code: str | None = None,
    ) -> None:
        """Say what happened.

        Args:
            message: for people; "" takes the first line of the class's docstring.
            details: names and numbers behind the message.
            retry_after_ms: when to try again, in ms; 0: no advice.
            retryable, help, code: only where they differ from the class's, as for an error that
                came over the wire from a newer node.
        """
        super().__init__(message or _first_line(type(self)))
        self.details: dict[str, str] = dict(details or {})
        self.retry_after_ms = min(retry_after_ms, _RETRY_AFTER_MS_MAX)
        if retryable is not None:
            self.retryable = retryable
        if help is not None:
            self.help = help
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        """Return the message alone, also where a base class would add an errno."""
        return str(self.args[0]) if self.args else self.code

    def __repr__(self) -> str:
        """Return all that a log or a debugger wants."""
        return f"{type(self).__name__}({str(self)!r}, code={self.code!r}, details={self.details!r})"

    def to_proto(self) -> error_pb2.Error:
        """Return the error as the wire carries it."""
        return error_pb2.Error(
            code=self.code,
            message=_text(str(self)),
            details={_text(key): _text(value) for key, value in self.details.items()},
            retryable=self.retryable,
            retry_after_ms=self.retry_after_ms,
            help=self.help,
        )

    def encode(self) -> bytes:
        """Return the encoded `sira.v1.Error`."""
        return self.to_proto().SerializeToString()


# ---- what was sent is wrong ----------------------------------------------------------------------


class BadRequest(SiraError):
    """A field of the request has a value that no node would take."""

    code = "BAD_REQUEST"
    help = "correct the field that the message names"


class BadTopic(SiraError):
    """A topic or a pattern is not well formed."""

    code = "BAD_TOPIC"
    help = "names are tokens joined by dots; only patterns have `*` (one token) and a last `>`"


class FrameCorrupt(SiraError):
    """Bytes do not have the wire format: cut, overlong, or inconsistent."""

    code = "FRAME_CORRUPT"
    help = "the sender's encoder does not follow proto/sira/v1; nothing of this frame was used"


class MessageTooLarge(SiraError):
    """A message, a frame or a count inside it is over its named limit."""

    code = "MESSAGE_TOO_LARGE"
    help = "send less at once, or raise the limit that the details name on the node"


class ContractMismatch(SiraError):
    """The tensors are not those that the topic or the peer declared."""

    code = "CONTRACT_MISMATCH"
    help = "compare the two lines of the message: what is wanted, what came"


class BadSetting(SiraError):
    """A setting has an unknown name or a value outside its schema."""

    code = "BAD_SETTING"
    help = "`sira config show` lists every setting with its unit and its limits"


class Unsupported(SiraError):
    """This node or this SDK does not have what was asked for; the details name it."""

    code = "UNSUPPORTED"
    help = "`Negotiate` lists the features of a node; do without, or upgrade"


class NotFound(SiraError):
    """What the request names does not exist."""

    code = "NOT_FOUND"
    help = "check the name; `sira topics` lists topics"


class Conflict(SiraError):
    """The request contradicts what exists under the same name or key."""

    code = "CONFLICT"
    help = "read what exists, then decide: delete it, or ask for the same"


# ---- who asks ------------------------------------------------------------------------------------


class Denied(SiraError, PermissionError):
    """The principal may not do this."""

    code = "DENIED"
    help = "`sira explain TOPIC` shows which rule decided"


class Unauthenticated(SiraError, PermissionError):
    """The connection has not proved who it speaks for."""

    code = "UNAUTHENTICATED"
    help = "connect with a certificate or a token of this cluster"


class Revoked(SiraError, PermissionError):
    """A right that was in use has been withdrawn."""

    code = "REVOKED"
    help = "ask whoever grants rights on this topic"


# ---- no room now ---------------------------------------------------------------------------------


class QueueFull(SiraError):
    """A subscriber's queue is at its limit and no room came in time; nobody got the message."""

    code = "QUEUE_FULL"
    retryable = True
    help = "back off and send again; or subscribe with overflow `drop` or `latest`"


class RateLimited(SiraError):
    """A limit on messages or bytes a second is used up for the moment."""

    code = "RATE_LIMITED"
    retryable = True
    help = "wait as long as `retry_after_ms` says"


class QuotaExceeded(SiraError):
    """A limit on how many may exist at once is reached; the details name the setting."""

    code = "QUOTA_EXCEEDED"
    help = "close what is no longer used, or raise the setting that the details name"


class NodeDraining(SiraError):
    """The node is going down in order and takes nothing new."""

    code = "NODE_DRAINING"
    retryable = True
    help = "connect to another node, or again when this one is back"


# ---- what became of it ---------------------------------------------------------------------------


class Timeout(SiraError, TimeoutError):
    """The caller's time was up before the answer came."""

    code = "TIMEOUT"
    retryable = True
    help = "give it longer, or look with `sira top` at who is slow"


class Cancelled(SiraError):
    """The caller gave up before the answer came."""

    code = "CANCELLED"
    help = ""


class Expired(SiraError):
    """The message was older than its `ttl_s` and was dropped."""

    code = "EXPIRED"
    help = "give it a longer `ttl_s`, or make its subscribers faster"


class Stalled(SiraError):
    """A subscriber takes nothing and is dropped to until it takes again."""

    code = "STALLED"
    help = "`sira top` names the subscriber"


class NoMatch(SiraError):
    """Nobody is there to answer."""

    code = "NO_MATCH"
    help = "`sira explain TOPIC` shows who listens; start an agent, or correct the topic"


class HandlerFailed(SiraError):
    """The handler that took the request raised an exception; its traceback is in its own log."""

    code = "HANDLER_FAILED"
    help = "read the log of the agent that the details name"


class PeerLost(SiraError):
    """Whoever held the message is gone."""

    code = "PEER_LOST"
    retryable = True
    help = "send again when doing it twice does no harm"


class Unreachable(SiraError, ConnectionError):
    """No node answers at the address."""

    code = "UNREACHABLE"
    retryable = True
    help = "is a node running there? `sira up` starts one, `sira doctor` looks for the reason"


class OutcomeUnknown(SiraError):
    """The message was sent and the node cannot say any more what became of it."""

    code = "OUTCOME_UNKNOWN"
    help = "ask the receiver; send again when doing it twice does no harm"


class GradeUnavailable(SiraError):
    """The topic cannot give the grade that was asked for; nothing was published."""

    code = "GRADE_UNAVAILABLE"
    help = "grades above `accepted` need a durable topic"


class GradeNotReached(SiraError):
    """The message was taken, but the grade asked for was not reached in time."""

    code = "GRADE_NOT_REACHED"
    retryable = True
    help = "the receipt says which grade holds; asking again with the same id is safe"


class Aborted(SiraError):
    """The sender gave the message up before it was complete."""

    code = "ABORTED"
    help = ""


class ProtocolError(SiraError):
    """The peer broke a rule of the stream; only this stream ends."""

    code = "PROTOCOL_ERROR"
    help = "the client does not follow proto/sira/v1: correct it"


class ConnectionClosed(SiraError, ConnectionError):
    """The stream or connection that was used has ended."""

    code = "CONNECTION_CLOSED"
    retryable = True
    help = "connect again"


class LinkCorrupt(SiraError):
    """Words in shared memory that no honest peer writes; only the link to that peer ends."""

    code = "LINK_CORRUPT"
    help = "the other process is no client of ours, or a broken one; nothing else is touched"


class StreamTruncated(SiraError):
    """A stream ended before its end mark: what came is a part."""

    code = "STREAM_TRUNCATED"
    help = "the details say what was kept and what is missing"


# ---- the node itself -----------------------------------------------------------------------------


class Internal(SiraError):
    """Something happened that cannot happen: a fault of ours."""

    code = "INTERNAL"


class AddressInUse(SiraError):
    """Another process listens on the address."""

    code = "ADDRESS_IN_USE"
    help = "stop the other node, or choose another address with --listen"


class DataDirInUse(SiraError):
    """Another node holds the data folder."""

    code = "DATA_DIR_IN_USE"
    help = "stop the other node, or choose another folder with --data-dir"


class DataDirUnusable(SiraError):
    """The data folder cannot be made or written: rights, a full disk, a read-only one."""

    code = "DATA_DIR_UNUSABLE"
    help = "free space or give rights there, or choose another folder with --data-dir"


class StorageFull(SiraError):
    """The disk has no room for what was to be written; nothing of it was."""

    code = "STORAGE_FULL"
    retryable = True
    help = "free space on the disk of the node's data folder; nothing needs a restart"


class JournalFailed(SiraError):
    """The disk failed under the journal: the tables can be read and not changed."""

    code = "JOURNAL_FAILED"
    help = "look at the disk of the node's data folder, then restart the node: it recovers"


class JournalCorrupt(SiraError):
    """A file of the tables holds what was never written so; nothing of it is skipped."""

    code = "JOURNAL_CORRUPT"
    help = "restore the folder `tables` from a backup (docs/operations.md); keep the broken one"


class UpgradeRequired(SiraError):
    """A newer Sira has written what this one does not understand, and may not skip."""

    code = "UPGRADE_REQUIRED"
    help = "run the version that wrote it, or a newer one"


def error_classes() -> Iterator[type[SiraError]]:
    """Yield every class with a code of its own, one a code."""
    waiting = list(SiraError.__subclasses__())
    while waiting:
        found = waiting.pop(0)
        waiting.extend(found.__subclasses__())
        if "code" in vars(found):
            yield found


_BY_CODE: dict[str, type[SiraError]] = {}


def from_code(
    code: str,
    message: str = "",
    details: Mapping[str, str] | None = None,
    *,
    retryable: bool | None = None,
    retry_after_ms: int = 0,
    help: str | None = None,  # noqa: A002  the attribute's own name
) -> SiraError:
    """Build the error of a code; an unknown code gives a plain `SiraError` that keeps it.

    The first three arguments are what the C core passes (`_native.bind(error=from_code)`).
    """
    if not _BY_CODE:
        _BY_CODE.update((cls.code, cls) for cls in error_classes())
    known = _BY_CODE.get(code)
    if known is not None:
        return known(
            message,
            details=details,
            retryable=retryable,
            retry_after_ms=retry_after_ms,
            help=help,
        )
    return SiraError(
        message or code,
        details=details,
        retryable=retryable,
        retry_after_ms=retry_after_ms,
        help=help or "",
        code=code,
    )


def from_proto(error: error_pb2.Error) -> SiraError:
    """Build the error that the wire carried."""
    return from_code(
        error.code or "INTERNAL",
        error.message,
        dict(error.details),
        retryable=error.retryable,
        retry_after_ms=error.retry_after_ms,
        help=error.help,
    )


def decode(data: bytes) -> SiraError:
    """Build the error from an encoded `sira.v1.Error`; bytes that are none give `FRAME_CORRUPT`."""
    try:
        return from_proto(error_pb2.Error.FromString(data))
    except Exception as broken:  # google.protobuf.message.DecodeError, or a version's own kind
        return FrameCorrupt(f"an error came that cannot be read: {broken}")


def encode(error: BaseException) -> bytes:
    """Encode any exception for the wire; one that is no `SiraError` becomes `INTERNAL`.

    The text of a foreign exception may hold what is no business of the peer, so only its type is
    told; the caller logs the rest.
    """
    if isinstance(error, SiraError):
        return error.encode()
    return Internal(f"{type(error).__name__} inside the node").encode()


def _text(text: str) -> str:
    """Make text fit for the wire: bounded, and UTF-8 whatever a peer had put into it."""
    if len(text) > _TEXT_CHARS_MAX:
        text = text[:_TEXT_CHARS_MAX] + "…"
    return text.encode(errors="replace").decode()


def _first_line(cls: type[SiraError]) -> str:
    """Return the class's own description, for an error raised without a message."""
    return (cls.__doc__ or cls.code).strip().splitlines()[0].rstrip(".")
