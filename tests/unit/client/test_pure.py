"""The parts of the SDK that need no node: addresses, waits, envelopes, bindings, lineage."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import sira
from sira import _native
from sira.client.address import addresses
from sira.client.binding import Handler
from sira.client.envelope import envelope
from sira.client.lineage import handling, id_bytes, id_text, lineage

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("sira://host:1", ["host:1"]),
        ("host:1", ["host:1"]),
        ("host", ["host:7700"]),
        ("sira://a:1,sira://b:2", ["a:1", "b:2"]),
        ("a:1, b:2,", ["a:1", "b:2"]),
        ("sira://[::1]:5", ["[::1]:5"]),
        ("sira://10.0.0.1:5/", ["10.0.0.1:5"]),
        ("sira://fd:3", ["fd:3"]),
        ("unix:/run/sira.sock", ["unix:/run/sira.sock"]),
        ("unix:///run/a b", ["unix:/run/a b"]),
        ("unix:/run/sira.sock,sira://a:1", ["unix:/run/sira.sock", "a:1"]),
    ],
)
def test_addresses_are_read(url: str, found: list[str]) -> None:
    assert addresses(url) == (found, False)


def test_tls_is_said_by_the_scheme() -> None:
    assert addresses("siras://a:1,siras://b") == (["a:1", "b:7700"], True)


@pytest.mark.parametrize(
    "url",
    [
        "http://host:1",
        "sira://",
        "sira://host:99999",
        "a:1/b",
        ",",
        "sira://h:x",
        "sira://a,siras://b",
        "siras://a,unix:/b",
        "unix:b",
        "unix:",
        "unix:/a\0b",
        "fd:/3",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(sira.BadRequest):
        addresses(url)


def test_no_url_is_the_environment_then_the_local_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIRA_URL", "sira://there:9")
    assert addresses(None) == (["there:9"], False)
    monkeypatch.delenv("SIRA_URL")
    for name in ("SIRA_DATA_DIR", "SIRA_HOME", "SIRA_FD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert addresses(None) == (["unix:/data/sira/sira.sock", "127.0.0.1:7700"], False)
    monkeypatch.setenv("SIRA_HOME", "/home/node")
    assert addresses(None)[0][0] == "unix:/home/node/sira.sock"
    monkeypatch.setenv("SIRA_DATA_DIR", "/node")
    assert addresses(None)[0][0] == "unix:/node/sira.sock"
    monkeypatch.setenv("SIRA_FD", "7")
    assert addresses(None) == (["fd:/7"], False), "no other way is tried: it may be all we have"


def test_waits_double_up_to_their_limit_and_are_never_in_step() -> None:
    retry = sira.Retry(delay_min_s=0.1, delay_max_s=1.0)
    waits = list(itertools.islice(retry.delays_s(random.Random(1)), 10))
    for wait, ceiling in zip(waits, [0.1, 0.2, 0.4, 0.8, *[1.0] * 6], strict=True):
        assert ceiling / 2 <= wait <= ceiling
    others = list(itertools.islice(retry.delays_s(random.Random(2)), 10))
    assert waits != others


@pytest.mark.parametrize("limits", [(0, 1), (2, 1), (-1, 1)])
def test_waits_that_are_no_range_are_refused(limits: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="delay_min_s"):
        sira.Retry(delay_min_s=limits[0], delay_max_s=limits[1])


def test_an_envelope_holds_what_was_said_and_nothing_else() -> None:
    assert envelope() == {}
    assert envelope(priority=3, key="k", ttl_s=0.5, wait_s=0.25, grade="disk") == {
        "priority": 3, "key": "k", "ttl_ns": 500_000_000, "wait_ms": 250, "grade": 2,
    }  # fmt: skip
    assert envelope(headers={"a": "b"}, further={"content_type": "text/plain"}) == {
        "headers": {"a": "b"}, "content_type": "text/plain",
    }  # fmt: skip
    assert envelope(wait_s=1e9)["wait_ms"] == (1 << 32) - 1


@pytest.mark.parametrize("wrong", [{"priority": 8}, {"priority": -1}, {"ttl_s": 0}, {"grade": "x"}])
def test_an_envelope_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(sira.BadRequest):
        envelope(**wrong)


def test_ids_are_read_and_written() -> None:
    raw = _native.new_id()
    assert id_bytes(id_text(raw)) == raw
    assert (id_text(b""), id_bytes("")) == ("", b"")


def _message(body: Any, **options: Any) -> _native.Message:
    return _native.Message.decode(_native.encode_message("t", body, _native.Options(**options)))


def test_lineage_names_the_cause_and_keeps_the_conversation() -> None:
    assert lineage() == {}
    first = _message(None, traceparent="00-1-2-01")
    assert lineage(first) == {
        "correlation_id": first.id_bytes,
        "causation_id": first.id_bytes,
        "traceparent": "00-1-2-01",
    }
    conversation, intent = _native.new_id(), _native.new_id()
    second = _message(None, correlation_id=conversation, intent_id=intent)
    token = handling.set(second)
    try:
        assert lineage() == {
            "correlation_id": conversation,
            "causation_id": second.id_bytes,
            "intent_id": intent,
        }
    finally:
        handling.reset(token)


def test_names_are_bound_and_what_does_not_fit_is_named() -> None:
    def handler(x: Any, y: Any = 2, **rest: Any) -> None: ...

    def strict(x: Any) -> None: ...

    assert set(Handler(handler).bind(_message({"x": 1, "z": 3}))) == {"x", "z"}
    with pytest.raises(sira.BadRequest) as caught:
        Handler(strict).bind(_message({"z": 3}))
    assert caught.value.details == {"missing": "x", "extra": "z"}
    with pytest.raises(sira.BadRequest):
        Handler(strict).bind(_message({}))


def test_the_message_is_bound_by_its_annotation_also_when_that_is_text() -> None:
    def typed(m: sira.Message) -> None: ...

    def unresolvable(m: "sira.Message", x: "Iterator[int]") -> None: ...  # noqa: UP037

    message = _message({"x": 1})
    assert Handler(typed).bind(message) == {"m": message}
    assert set(Handler(unresolvable).bind(message)) == {"m", "x"}


def test_bodies_that_are_no_tensors_go_to_the_one_parameter() -> None:
    def one(body: Any) -> None: ...

    def two(a: Any, b: Any) -> None: ...

    assert Handler(one).bind(_message("text")) == {"body": "text"}
    assert bytes(Handler(one).bind(_message(b"\xff"))["body"]) == b"\xff"
    as_json = _message('{"a": 1, "b": 2}', content_type="application/json; charset=utf-8")
    assert Handler(two).bind(as_json) == {"a": 1, "b": 2}
    with pytest.raises(sira.BadRequest):
        Handler(two).bind(_message("text"))


def test_a_signature_without_names_is_refused() -> None:
    for wrong in (lambda *args: None, lambda x, /: None):
        with pytest.raises(TypeError):
            Handler(wrong)


def test_kinds_of_handlers_are_told_apart() -> None:
    def plain() -> None: ...

    async def coroutine() -> None: ...

    def generator() -> Any:
        yield 1

    async def stream() -> Any:
        yield 1

    class Thing:
        async def __call__(self, x: np.ndarray) -> None: ...

    calls = (plain, coroutine, generator, stream, Thing())
    kinds = ["plain", "async", "generator", "async_generator", "async"]
    assert [Handler(call).kind for call in calls] == kinds


def test_every_public_name_is_there_and_import_alone_loads_none() -> None:
    import subprocess
    import sys

    for name in sira.__all__:
        assert getattr(sira, name) is not None
    code = "import sys, sira; print(sorted({'grpc', 'numpy', 'sira._native'} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
