"""Agent Cards: what comes in goes out equal, and what is none is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sira.cli.a2a import CARD_KEY, KIND, card_of, read_card, registration_of
from sira.cli.output import UsageError
from sira.client.capability import Capability
from sira.client.matches import AgentInfo
from sira.registry.records import checked
from sira.v1 import registry_pb2

CARD: dict[str, Any] = {
    "protocolVersion": "0.3.0",
    "name": "GeoSpatial Route Planner Agent",
    "description": "Provides advanced route planning, traffic analysis, and custom maps.",
    "url": "https://georoute.example.com/a2a/v1",
    "preferredTransport": "JSONRPC",
    "additionalInterfaces": [
        {"url": "https://georoute.example.com/a2a/grpc", "transport": "GRPC"},
        {"url": "https://georoute.example.com/a2a/v1", "transport": "JSONRPC"},
    ],
    "provider": {"organization": "Example Geo Services Inc.", "url": "https://example.com"},
    "version": "1.2.0",
    "capabilities": {"streaming": True, "pushNotifications": True, "stateTransitionHistory": False},
    "securitySchemes": {"google": {"type": "openIdConnect", "openIdConnectUrl": "https://x/y"}},
    "security": [{"google": ["openid", "profile"]}],
    "defaultInputModes": ["application/json", "text/plain"],
    "defaultOutputModes": ["application/json", "image/png"],
    "skills": [
        {
            "id": "route-optimizer-traffic",
            "name": "Traffic-Aware Route Optimizer",
            "description": "Calculates the optimal driving route between two or more locations.",
            "tags": ["maps", "routing"],
            "examples": ["Plan a route from A to B, avoiding tolls."],
        },
        {"id": "custom-map", "name": "Personalized Map Generator", "tags": []},
    ],
    "signatures": [{"protected": "eyJhbGciOiJFUzI1NiJ9", "signature": "QFdkNLNszlGj3z3u0YQGt_"}],
}


def through(registration: registry_pb2.Registration) -> AgentInfo:
    """As the registry keeps it and gives it back."""
    kept = registry_pb2.Agent(registration=checked(registration))
    return AgentInfo.from_proto(registry_pb2.Agent.FromString(kept.SerializeToString()))


def test_a_card_comes_back_equal_signature_included() -> None:
    agent = through(registration_of(json.dumps(CARD)))
    assert card_of(agent, url="sira://a:1") == CARD
    assert json.dumps(card_of(agent, url="")) == json.dumps(CARD), "in its order, too"


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=12), _VALUES, max_size=6))
def test_whatever_else_a_card_has_comes_back(more: dict[str, Any]) -> None:
    card = {**more, "name": "a b", "description": "c", "skills": [{"id": "d", "name": "e"}]}
    assert card_of(through(registration_of(json.dumps(card))), url="") == card


def test_what_a_card_says_can_be_found() -> None:
    agent = through(registration_of(json.dumps(CARD)))
    assert (agent.name, agent.kind, agent.version) == (
        "geospatial-route-planner-agent", KIND, "1.2.0",
    )  # fmt: skip
    assert agent.endpoints == (
        "https://georoute.example.com/a2a/v1", "https://georoute.example.com/a2a/grpc",
    )  # fmt: skip
    first, second = agent.capabilities
    assert first.text == (
        "Traffic-Aware Route Optimizer: "
        "Calculates the optimal driving route between two or more locations."
    )
    assert list(first.examples) == ["Plan a route from A to B, avoiding tolls.", "maps, routing"]
    assert second.name == "custom-map"


def test_a_version_that_is_no_semver_stays_in_the_card() -> None:
    for version in ("1.0", "v2", 3, "01.2.3", None):
        card = {**CARD, "version": version}
        agent = through(registration_of(json.dumps(card)))
        assert agent.version == ""
        assert card_of(agent, url="") == card


def test_a_card_is_made_of_what_an_agent_says() -> None:
    registration = registry_pb2.Registration(
        name="seg-1", description="for radiology", labels={"ward": "3"},
        capabilities=[
            Capability("segment organs", examples=["where is the lung"],
                       takes={"image": "f32[H, W]"}).to_proto("seg-1", "segment")
        ],
    )  # fmt: skip
    agent = through(registration)
    assert CARD_KEY not in agent.extra
    card = card_of(agent, url="sira://a:7700")
    assert read_card(json.dumps(card)) == card
    assert (card["name"], card["url"], card["version"]) == ("seg-1", "sira://a:7700", "0.0.0")
    assert card["skills"] == [
        {
            "id": "segment", "name": "segment", "description": "segment organs", "tags": ["3"],
            "examples": ["where is the lung"],
        }
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{", "3", '{"name": "a"}', '{"name": "a", "description": "b", "skills": []}',
        '{"name": "a", "description": "b", "skills": [3]}',
        '{"name": 3, "description": "b", "skills": [{"id": "a"}]}',
        '{"name": "***", "description": "b", "skills": [{"id": "a", "name": "b"}]}',
    ],
)  # fmt: skip
def test_what_is_no_card_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        registration_of(text)
