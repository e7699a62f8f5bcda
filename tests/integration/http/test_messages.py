"""Publish, request and subscribe over HTTP: what an SDK sees of it, and what comes back."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator

import numpy as np
import pytest

import sira
from sira.testing import Node

from .calls import Http, listening, until

pytestmark = [pytest.mark.integration, pytest.mark.slow]
X = np.arange(6, dtype=np.float32).reshape(2, 3)
TENSOR = {"dtype": "f32", "shape": [2, 3], "data": base64.b64encode(X.tobytes()).decode()}


@pytest.fixture(scope="module")
def node_and_http() -> Iterator[tuple[Node, Http]]:
    with listening(http_heartbeat_s=0.1) as both:
        yield both


@pytest.fixture
def http(node_and_http: tuple[Node, Http]) -> Http:
    return node_and_http[1]


@pytest.fixture
def bus(node_and_http: tuple[Node, Http]) -> Iterator[sira.SyncBus]:
    with sira.connect_sync(node_and_http[0].url) as found:
        yield found


def npy() -> bytes:
    out = io.BytesIO()
    np.save(out, X)
    return out.getvalue()


@pytest.mark.parametrize(("kind", "body"), [
    ("application/json", json.dumps({"image": TENSOR})), ("application/x-npy", npy()),
])  # fmt: skip
def test_a_tensor_that_is_posted_comes_to_an_sdk_as_it_is(
    http: Http, bus: sira.SyncBus, kind: str, body: str | bytes
) -> None:
    with bus.subscribe("lab.*") as messages:
        receipt = http.post("/v1/publish/lab.scan?name=image&priority=3&ttl_s=60", body, kind)
        assert receipt.status == 200 and receipt.json["matched"] == 1
        message = messages.next(timeout_s=60)
    np.testing.assert_array_equal(message["image"], X)
    assert message["image"].dtype == np.float32
    assert (message.id, message.priority) == (receipt.json["id"], 3)
    assert 0 < message.ttl_ns <= 60 * 10**9  # what is left of it
    assert message.principal == "sira://local/default/user/anonymous"


def test_text_headers_and_trace_travel_along(http: Http, bus: sira.SyncBus) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with bus.subscribe("lab.>") as messages:
        answer = http.post(
            "/v1/publish/lab.note?type=note&key=k", "grüß".encode(), "text/plain; charset=utf-8",
            traceparent=trace, Sira_Header_Room="B%C3%BCro",
        )  # fmt: skip
        assert answer.status == 200
        message = messages.next(timeout_s=60)
    assert (message.text, message.type, message.key) == ("grüß", "note", "k")
    assert (message.traceparent, message.headers) == (trace, {"room": "Büro"})
    assert message.content_type == "text/plain; charset=utf-8"


def test_a_request_is_answered_in_the_form_asked_for(
    http: Http, node_and_http: tuple[Node, Http]
) -> None:
    agent = sira.Agent("doubler", topic="lab.double", url=node_and_http[0].url)

    @agent.handler
    def double(x: np.ndarray) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
        return {"y": x * 2}

    thread = threading.Thread(target=agent.run, daemon=True)
    thread.start()
    body = json.dumps({"x": TENSOR})
    answer = until(
        lambda: (found := http.post("/v1/request/lab.double?timeout_s=20", body,
                                    "application/json")).status == 200 and found,
        "the agent answers",
    )  # fmt: skip
    y = answer.json["y"]
    assert (y["dtype"], y["shape"]) == ("f32", [2, 3])
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(y["data"]), "<f4"), X.ravel() * 2)
    answer = http.post("/v1/request/lab.double", npy(), "application/x-npy",
                       Accept="application/x-npy")  # fmt: skip
    assert answer.headers["content-type"] == "application/x-npy"
    np.testing.assert_array_equal(np.load(io.BytesIO(answer.data)), X * 2)
    http.post("/v1/request/lab.double", npy(), "application/x-npy",
              Accept="image/png").problem(406, "BAD_REQUEST")  # fmt: skip
    http.post("/v1/request/lab.double", "{}", "application/json").problem(400, "BAD_REQUEST")


def test_nobody_to_answer_is_404_and_a_late_answer_504(http: Http, bus: sira.SyncBus) -> None:
    http.post("/v1/request/lab.nobody", "x").problem(404, "NO_MATCH")
    with bus.subscribe("lab.silent"):
        http.post("/v1/request/lab.silent?timeout_s=0.1", "x").problem(504, "TIMEOUT")


def test_events_are_messages_with_heartbeats_between(http: Http, bus: sira.SyncBus) -> None:
    with http.events("lab.%3E") as events:
        receipt = bus.publish("lab.a", {"x": X})
        found = events.message()
        assert (found["topic"], found["id"]) == ("lab.a", receipt.id)
        assert found["tensors"] == {"x": TENSOR}
        while not events.comments:
            bus.publish("lab.b", "hi", content_type="text/plain")
            assert events.message()["text"] == "hi"
        bus.publish("lab.c", b"\xff")
        while (found := events.message())["topic"] == "lab.b":
            pass
        assert base64.b64decode(found["base64"]) == b"\xff"


def test_members_of_a_group_share_the_messages(http: Http, bus: sira.SyncBus) -> None:
    with http.events("share.x", "?group=g"), http.events("share.x", "?group=g"):
        assert bus.publish("share.x", b"x").matched == 1


@pytest.mark.parametrize(("path", "body", "kind", "status", "code"), [
    ("publish/lab.%2A", "x", "text/plain", 400, "BAD_TOPIC"),
    ("publish/lab.%3E", "x", "text/plain", 400, "BAD_TOPIC"),
    ("publish/lab..x", "x", "text/plain", 400, "BAD_TOPIC"),
    ("publish/proc.x", "x", "text/plain", 403, "DENIED"),
    ("publish/lab.x", "{", "application/json", 400, "BAD_REQUEST"),
    ("publish/lab.x", '{"a": NaN}', "application/json", 400, "BAD_REQUEST"),
    ("publish/lab.x", json.dumps({"x": TENSOR | {"data": "%%"}}), "application/json", 400,
     "BAD_REQUEST"),
    ("publish/lab.x", json.dumps({"x": TENSOR | {"shape": [7]}}), "application/json", 400,
     "BAD_REQUEST"),
    ("publish/lab.x", b"\x93NUMPY", "application/x-npy", 400, "BAD_REQUEST"),
    ("publish/lab.x", "x", "text/html", 415, "BAD_REQUEST"),
    ("publish/lab.x?priority=8", "x", "text/plain", 400, "BAD_REQUEST"),
    ("publish/lab.x?ttl_s=nan", "x", "text/plain", 400, "BAD_REQUEST"),
    ("publish/lab.x?ttl_s=-1", "x", "text/plain", 400, "BAD_REQUEST"),
    ("publish/lab.x?tll_s=1", "x", "text/plain", 400, "BAD_REQUEST"),
    ("publish/lab.x?key=a&key=b", "x", "text/plain", 400, "BAD_REQUEST"),
    ("publish/lab.x?plain=2", "x", "text/plain", 400, "BAD_REQUEST"),
    ("publish/lab.x?grade=best", "x", "text/plain", 400, "BAD_REQUEST"),
    ("request/lab.x?timeout_s=inf", "x", "text/plain", 400, "BAD_REQUEST"),
    ("nothing", "x", "text/plain", 404, "BAD_REQUEST"),
])  # fmt: skip
def test_what_is_wrong_is_a_problem_with_a_stable_code(
    http: Http, path: str, body: str | bytes, kind: str, status: int, code: str
) -> None:
    http.post(f"/v1/{path}", body, kind).problem(status, code)


@pytest.mark.parametrize("query", ["?overflow=wait", "?window=1"])
def test_a_subscription_that_is_wrong_is_refused_before_it_streams(http: Http, query: str) -> None:
    http.get(f"/v1/subscribe/lab.x{query}").problem(400, "BAD_REQUEST")
    http.get("/v1/subscribe/lab.%3E.x").problem(400, "BAD_TOPIC")


def test_metrics_are_those_of_the_node(http: Http) -> None:
    answer = http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b"# TYPE sira_frames_in_total counter" in answer.data


def test_other_methods_say_which_are_taken(http: Http) -> None:
    answer = http.get("/v1/publish/lab.x")
    answer.problem(405, "BAD_REQUEST")
    assert "POST" in answer.headers["allow"]
