"""What is asked of the registry, and what a capability is on the wire."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sira
from sira import _native
from sira.client.capability import Capability, names, vector
from sira.client.matches import Match, Matches
from sira.client.querying import key_of, request_of, specs, takes_of
from sira.kernel.binding import DTYPES
from sira.v1 import registry_pb2


def test_one_way_of_asking_and_no_two() -> None:
    assert request_of("find").text == "find"
    assert request_of("", capability="segment").capability == "segment"
    assert request_of("", vector_given=[1.0, 0.5]).vector.dims == 2
    for bad in (
        {"text": ""}, {"text": "a", "capability": "b"}, {"text": "a", "vector_given": [1]},
    ):  # fmt: skip
        with pytest.raises(sira.BadRequest):
            request_of(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
@pytest.mark.parametrize("shape", [(), (3,), (2, 5)])
def test_what_a_body_is_can_be_said_as_a_contract_that_it_alone_meets(
    dtype: np.dtype, shape: tuple[int, ...]
) -> None:
    body = {"x": np.zeros(shape, dtype)}
    takes = takes_of(specs(body))
    contract = _native.Contract(takes)
    message = _native.Message.decode(_native.encode_message("a", body))
    assert contract.check(message) is None
    other = _native.Message.decode(_native.encode_message("a", {"x": np.zeros((7, 7, 7), dtype)}))
    assert contract.check(other) is not None


def test_of_what_is_no_array_nothing_is_said() -> None:
    for body in ("text", b"bytes", None, {"x": 3}, {"x": np.zeros(2), "y": [1]}):
        assert takes_of(specs(body)) == {}


def test_a_small_float_has_its_name() -> None:
    assert takes_of(specs({"x": np.zeros((2, 3), ml_dtypes.bfloat16)})) == {"x": "bf16[2, 3]"}


_LABELS = st.none() | st.dictionaries(st.sampled_from("abc"), st.sampled_from("12"))


@given(
    st.tuples(st.sampled_from(["", "t"]), st.sampled_from(["", "1.x"]), _LABELS, _LABELS),
    st.tuples(st.sampled_from(["", "t"]), st.sampled_from(["", "1.x"]), _LABELS, _LABELS),
)
def test_two_queries_have_one_key_where_they_ask_the_same(one: tuple, two: tuple) -> None:
    def key(query: tuple) -> object:
        text, version, labels, takes = query
        return key_of(text, "", None, version, "", labels, takes, None)

    def plain(query: tuple) -> tuple:
        return (*query[:2], query[2] or {}, query[3] or {})

    assert (key(one) == key(two)) == (plain(one) == plain(two))


def test_a_capability_says_what_cannot_be() -> None:
    for bad in (
        {"text": "  "},
        {"text": "a", "effects": "twice"},
        {"text": "a", "takes": {"x": "float[3]"}},
        {"text": "a", "examples": "one text"},
        {"text": "a", "topic": "a..b"},
    ):
        with pytest.raises(sira.SiraError):
            Capability(**bad)  # type: ignore[arg-type]


def test_names_are_made_of_texts_and_are_unique() -> None:
    made = names([Capability("Find the lungs!"), Capability("b", name="B"), Capability("中文")])
    assert made == ["find-the-lungs", "B", "capability-3"]
    with pytest.raises(sira.BadRequest, match="find-the-lungs"):
        names([Capability("find the lungs"), Capability("Find: the lungs")])


def test_a_capability_comes_back_from_the_wire() -> None:
    said = Capability(
        "segment organs", examples=["outline the liver"], takes={"image": "f32[H, W]"},
        gives={"mask": "u8[H, W]"}, params={"image": "the scan"}, effects="pure",
        schema_in={"type": "object"}, vectors=[("e 1", [0.5, -1.0])],
    )  # fmt: skip
    told = said.to_proto("seg-1", "segment")
    assert (told.name, told.topic) == ("segment", "agents.seg-1.segment")
    back = Capability.from_proto(told)
    assert (back.text, list(back.examples), dict(back.takes or {})) == (
        "segment organs", ["outline the liver"], {"image": "f32[H, W]"},
    )  # fmt: skip
    assert back.to_proto("seg-1", "segment") == told


def test_a_vector_is_one_row_of_finite_numbers() -> None:
    assert vector(("e 1", [1.0, 2.0])) == registry_pb2.CapabilityVector(
        embedder="e 1", dims=2, values=np.array([1, 2], "<f2").tobytes()
    )
    for bad in ([], [[1.0]], [float("nan")], [1e9]):
        with pytest.raises(sira.BadRequest):
            vector(bad)


def test_matches_are_a_list_and_more() -> None:
    told = registry_pb2.DiscoverResponse(
        matches=[
            registry_pb2.Match(
                agent="a", capability="c", topic="agents.a.c", score=1.5, confidence=0.75,
                state=registry_pb2.AgentState(status=registry_pb2.AGENT_STATUS_SUSPECT),
                reasons=[registry_pb2.Reason(part="dense", value=0.5, text="close")],
            ),
            registry_pb2.Match(agent="b"),
        ],
        is_shortlist=True, revision=7,
    )  # fmt: skip
    matches = Matches.from_proto(told)
    assert [each.agent for each in matches] == ["a", "b"]
    assert isinstance(matches[0], Match)
    assert (matches[0].status, matches[1].status) == ("suspect", "unknown")
    assert (len(matches), matches.is_shortlist, matches.no_match, matches.revision) == (
        2, True, False, 7,
    )  # fmt: skip
    assert str(matches[0].reasons[0]) == "dense +0.5: close"
    assert not Matches.from_proto(registry_pb2.DiscoverResponse(no_match=True))
