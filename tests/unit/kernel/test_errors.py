"""Errors: one class a code, the same object after the wire, a gRPC status for each."""

from __future__ import annotations

import pickle

import grpc
import pytest
from google.rpc import error_details_pb2

from sira.kernel import errors, rpc
from sira.kernel.errors import SiraError

CLASSES = list(errors.error_classes())


def test_every_code_belongs_to_one_class() -> None:
    codes = [each.code for each in CLASSES]
    assert len(codes) == len(set(codes)) and len(codes) > 25


def test_every_code_has_a_grpc_status_and_no_status_has_no_code() -> None:
    assert {each.code for each in CLASSES} == set(rpc.STATUS)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.code)
def test_an_error_is_the_same_after_the_wire(cls: type[SiraError]) -> None:
    error = cls("what happened", details={"limit_bytes": "7"}, retry_after_ms=250)
    back = errors.decode(error.encode())
    assert type(back) is cls
    assert (str(back), back.details, back.retry_after_ms) == (
        "what happened",
        {"limit_bytes": "7"},
        250,
    )
    assert (back.retryable, back.help, back.code) == (cls.retryable, cls.help, cls.code)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.code)
def test_an_error_survives_a_trip_between_processes(cls: type[SiraError]) -> None:
    back = pickle.loads(pickle.dumps(cls("x", details={"a": "b"}, retry_after_ms=3)))
    assert (type(back), str(back), back.details, back.retry_after_ms) == (cls, "x", {"a": "b"}, 3)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.code)
def test_the_rich_status_says_all_that_the_error_says(cls: type[SiraError]) -> None:
    error = cls("why", details={"field": "topic"}, retry_after_ms=1_500)
    status = rpc.rich_status(error)
    details = {each.TypeName(): each for each in status.details}
    info = error_details_pb2.ErrorInfo()
    assert details["google.rpc.ErrorInfo"].Unpack(info)
    assert (info.reason, info.domain, info.metadata["field"]) == (cls.code, "sira.v1", "topic")
    assert ("google.rpc.RetryInfo" in details) == cls.retryable
    if cls.retryable:
        retry = error_details_pb2.RetryInfo()
        assert details["google.rpc.RetryInfo"].Unpack(retry)
        assert retry.retry_delay.ToMilliseconds() == 1_500
    wrong_field = status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert ("google.rpc.BadRequest" in details) == wrong_field
    back = rpc.from_status(
        rpc.status_code(cls.code), "", [(rpc.DETAILS_KEY, status.SerializeToString())]
    )
    assert type(back) is cls and str(back) == "why"


def test_a_code_of_a_newer_node_is_kept() -> None:
    error = errors.from_code("FROM_THE_FUTURE", "hm", retryable=True)
    assert (error.code, error.retryable, type(error)) == ("FROM_THE_FUTURE", True, SiraError)
    assert errors.decode(error.encode()).code == "FROM_THE_FUTURE"


def test_bytes_that_are_no_error_are_a_typed_error() -> None:
    assert errors.decode(b"\xff\xff\xff").code == "FRAME_CORRUPT"


def test_a_foreign_exception_tells_its_type_and_nothing_of_its_text() -> None:
    back = errors.decode(errors.encode(ValueError("secret")))
    assert back.code == "INTERNAL" and "ValueError" in str(back) and "secret" not in str(back)


def test_a_refusal_is_bounded_and_utf8_whatever_was_sent() -> None:
    back = errors.decode(SiraError("\ud800" + "x" * 100_000, details={"k": "y" * 100_000}).encode())
    assert len(str(back)) < 2_000 and len(back.details["k"]) < 2_000


def test_builtin_families_catch_their_members() -> None:
    assert issubclass(errors.Timeout, TimeoutError)
    assert issubclass(errors.Denied, PermissionError)
    assert issubclass(errors.Unreachable, ConnectionError)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (grpc.StatusCode.UNAVAILABLE, "UNREACHABLE"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "TIMEOUT"),
        (grpc.StatusCode.UNIMPLEMENTED, "UNSUPPORTED"),
        (grpc.StatusCode.DATA_LOSS, "INTERNAL"),
    ],
)
def test_a_status_without_our_details_gets_the_nearest_code(
    status: grpc.StatusCode, code: str
) -> None:
    assert rpc.from_status(status, "", None).code == code
    broken = [(rpc.DETAILS_KEY, b"\xff\xff")]
    assert rpc.from_status(status, "", broken).code == code
