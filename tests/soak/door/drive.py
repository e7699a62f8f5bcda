"""Carries plans out, and looks at each byte that comes back."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tests.soak import http2

from .plans import METHODS, Call, Http, Plan, Wire
from .stage import Stage

CALLS_A_CONNECTION = 40
# After so long without a byte an attacker at a raw socket goes on; the first one may take longer.
_QUIET_S, _FIRST_S = 0.15, 0.5
_LATE_S = 5.0  # an answer that takes longer than the call's own time by so much is one that hangs
_ANSWERS_MAX = 2_000
_BYTES_MAX = 1 << 22
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
# What a call may end with that says no code of ours: a peer's own cancel and clock, and what gRPC
# itself refuses before there is a handler.
_BARE = {"CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED", "INTERNAL"}


@dataclass
class Seen:
    """What came of the plans: how many of each outcome, and what must not be."""

    plans: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    bytes_back: int = 0
    problems: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, kind: str, outcome: str, size: int) -> None:
        """Count one plan."""
        with self.lock:
            self.plans[kind] += 1
            self.outcomes[f"{kind} {outcome}"] += 1
            self.bytes_back += size

    def wrong(self, seed: int, what: str) -> None:
        """Note what must not be, with the seed that shows it again."""
        with self.lock:
            if len(self.problems) < 50:
                self.problems.append(f"plan {seed}: {what}"[:1_000])


class Attacker:
    """One at a time; for one thread."""

    def __init__(self, stage: Stage, seen: Seen) -> None:
        """Connect at the first plan."""
        self._stage, self._seen = stage, seen
        self._channel: grpc.Channel | None = None
        self._calls = 0
        self._http_context = stage.client_context()
        self._h2_context = http2.trusting(stage.ca) if stage.ca else None

    def close(self) -> None:
        """Hang up."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def carry_out(self, seed: int, plan: Plan) -> None:
        """Do it, and judge what comes back."""
        if isinstance(plan, Call):
            self._call(seed, plan)
        elif isinstance(plan, Wire):
            self._wire(seed, plan)
        else:
            self._http(seed, plan)

    def _judge(self, seed: int, data: bytes) -> None:
        if self._stage.leaks(data):
            self._seen.wrong(seed, "a secret came back")

    # ---- gRPC ------------------------------------------------------------------------------------

    def _connected(self) -> grpc.Channel:
        if self._channel is not None and self._calls >= CALLS_A_CONNECTION:
            self.close()
        if self._channel is None:
            self._channel, self._calls = self._stage.channel(), 0
        self._calls += 1
        return self._channel

    def _call(self, seed: int, plan: Call) -> None:
        method = METHODS.get(plan.method)
        answer_type = cast("Any", GetMessageClass(method.output_type)) if method else None
        size, answers = 0, 0
        try:
            call: Any = self._connected().stream_stream(plan.method)(
                iter(plan.messages), timeout=plan.timeout_s, metadata=plan.metadata
            )
        except ValueError:  # metadata that the client library itself refuses
            self._seen.note("call", "not sent", 0)
            return
        try:
            for data in call:
                size, answers = size + len(data), answers + 1
                self._judge(seed, data)
                if answer_type is not None:
                    answer_type.FromString(data)
                if answers == plan.cancel_after or answers >= _ANSWERS_MAX:
                    call.cancel()
            outcome = "OK"
        except DecodeError:
            call.cancel()
            outcome = "malformed"
            self._seen.wrong(seed, f"{plan.method} answered what is no {answer_type}")
        except grpc.RpcError:
            outcome = self._end(seed, plan, call)
        self._seen.note("call", outcome, size)

    def _end(self, seed: int, plan: Call, call: Any) -> str:
        """Judge how a call ended; return its code, ours where it has one."""
        said = [call.details() or "", *(str(pair) for pair in call.trailing_metadata() or ())]
        status = call.code().name
        reason = ""
        with contextlib.suppress(ValueError):
            found = rpc_status.from_call(call)
            if found is not None:
                said.append(str(found))
                info = error_details_pb2.ErrorInfo()
                reasons = [each for each in found.details if each.Unpack(info)]
                reason = info.reason if reasons else ""
        if status == "INTERNAL" and call.details() == "Invalid metadata":
            return "not sent"  # gRPC's core refuses it on our side
        self._judge(seed, "\n".join(said).encode())
        if reason == "INTERNAL" or (not reason and status not in _BARE):
            self._seen.wrong(seed, f"{plan.method[:80]} ended {status} {reason}: {call.details()}")
        return reason or status

    def _wire(self, seed: int, plan: Wire) -> None:
        back = bytearray()
        outcome = "nothing"
        try:
            with self._socket(self._stage.address, self._h2_context) as made:
                made.sendall(http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0) + plan.data)
                outcome = "kept open"
                for data in _until_quiet(made):
                    back += data
                    if not data:
                        outcome = "hung up"
        except OSError:
            outcome = "reset"
        self._judge(seed, bytes(back))
        self._seen.note("wire", outcome, len(back))

    # ---- HTTP ------------------------------------------------------------------------------------

    def _http(self, seed: int, plan: Http) -> None:
        back = bytearray()
        try:
            with self._socket(("127.0.0.1", self._stage.http_port), self._http_context) as made:
                for piece in plan.pieces:
                    made.sendall(piece)
                if plan.leave == "half" and self._http_context is None:
                    made.shutdown(socket.SHUT_WR)
                if plan.leave != "early":
                    for data in _until_quiet(made):
                        back += data
        except OSError:
            pass
        self._judge(seed, bytes(back))
        statuses = [each.decode() for each in _STATUS.findall(bytes(back))]
        if "500" in statuses:
            at = back.find(b" 500 ")
            self._seen.wrong(seed, f"HTTP 500: {bytes(back[at : at + 600])!r}")
        self._seen.note("http", ",".join(dict.fromkeys(statuses)) or "nothing", len(back))

    @contextlib.contextmanager
    def _socket(
        self, address: tuple[str, int], tls: ssl.SSLContext | None
    ) -> Iterator[socket.socket]:
        with socket.create_connection(address, timeout=_LATE_S) as raw:
            if tls is None:
                yield raw
                return
            with tls.wrap_socket(raw, server_hostname="localhost") as made:
                yield made


def _until_quiet(made: socket.socket) -> Iterator[bytes]:
    """Yield what comes until a while of silence, or b"" at the end of the connection."""
    made.settimeout(_FIRST_S)
    size = 0
    while size < _BYTES_MAX:
        try:
            data = made.recv(1 << 16)
        except TimeoutError:
            return
        made.settimeout(_QUIET_S)
        yield data
        size += len(data)
        if not data:
            return
