"""`sira find`, `call` and `agents`: one agent, found, asked, listed, and shown to others."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sira as sdk
from tests.integration.command import finish_started, node, sira, started, wait_until
from tests.unit.registry.agents_of_a_house import EXAMPLES

pytestmark = pytest.mark.integration

CARD = {
    "protocolVersion": "0.3.0",
    "name": "Route Planner",
    "description": "plans routes",
    "url": "https://example.com/a2a/v1",
    "version": "1.2.0",
    "capabilities": {"streaming": True},
    "defaultInputModes": ["text/plain"],
    "defaultOutputModes": ["text/plain"],
    "skills": [
        {"id": "plan", "name": "Plan routes", "description": "by car, with traffic", "tags": []}
    ],
    "signatures": [{"protected": "eyJhbGciOiJFUzI1NiJ9", "signature": "QFdkNLNszlGj3z3u0YQGt_"}],
}


@pytest.fixture
def agent(sira_bus: Any) -> Iterator[sdk.Agent]:
    capability = sdk.Capability(
        "reverse the letters of a text", name="reverse", effects="pure",
        examples=["write this backwards"],
    )  # fmt: skip
    with sdk.Agent(
        "mirror-1", capabilities=[capability], url=sira_bus.url, version="2.1.0",
        labels={"ward": "3"}, handler=lambda text: text[::-1],
    ) as running:  # fmt: skip
        yield running


def test_it_is_found_with_reasons(agent: sdk.Agent, sira_bus: Any) -> None:
    found = sira("find", "reverse the letters of a text", "--json", url=sira_bus.url)
    assert found.code == 0
    first = found.items()[0]
    assert (first["agent"], first["capability"], first["fits"]) == ("mirror-1", "reverse", True)
    assert first["reasons"]
    assert found.data["no_match"] is False
    shown = sira("find", "--capability", "reverse", "--labels", "ward=3", "--explain",
                 url=sira_bus.url)  # fmt: skip
    assert "mirror-1" in shown.out
    nobody = sira("find", "--capability", "reverse", "--version", "<2", "--json", url=sira_bus.url)
    assert (nobody.code, nobody.data["no_match"]) == (1, True)
    assert nobody.data["reason"]
    assert sira("find", url=sira_bus.url).code == 2


def test_it_is_called_and_who_answered_is_told(agent: sdk.Agent, sira_bus: Any) -> None:
    called = sira("call", "reverse the letters of a text", "abc", "--json", url=sira_bus.url)
    assert called.code == 0, called.err
    assert called.items()[0]["text"] == "cba"
    assert (called.data["agent"], called.data["tries"]) == ("mirror-1", 1)
    by_name = sira("call", "--capability", "reverse", "xyz", url=sira_bus.url)
    assert by_name.code == 0
    assert "zyx" in by_name.out and "by mirror-1" in by_name.out
    nobody = sira("call", "--capability", "sing", "la", "--json", url=sira_bus.url)
    assert (nobody.code, nobody.data["code"]) == (3, "NO_MATCH")


def test_it_is_listed_and_made_a_card_of(agent: sdk.Agent, sira_bus: Any, tmp_path: Path) -> None:
    listed = sira("agents", "--json", url=sira_bus.url)
    (row,) = listed.items()
    assert (row["name"], row["status"], row["version"]) == ("mirror-1", "up", "2.1.0")
    assert listed.data == {"count": 1}
    out = tmp_path / "card.json"
    exported = sira("agents", "export", "--a2a", "mirror-1", "--out", str(out), "--json",
                    url=sira_bus.url)  # fmt: skip
    assert exported.code == 0
    assert json.loads(out.read_text()) == exported.data["card"]
    assert [each["id"] for each in exported.data["card"]["skills"]] == ["reverse"]
    unknown = sira("agents", "export", "--a2a", "nobody", "--json", url=sira_bus.url)
    assert (unknown.code, unknown.data["code"]) == (3, "NOT_FOUND")


def test_what_a_node_has_learned_is_said_and_shown(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "sira.toml").write_text("learn_interval_s = 0.1\nlearn_examples_min = 10\n")
    agents = [
        (name, sdk.Capability(text, examples=asked)) for name, (text, asked) in EXAMPLES.items()
    ]
    with node(folder) as url, sdk.connect_sync(url) as bus:
        nothing = sira("agents", "learned", url=url)
        assert nothing.code == 0 and "nothing is learned" in nothing.out
        with bus.subscribe("sira.registry.trained") as facts, contextlib.ExitStack() as inside:
            for name, can in agents:
                inside.enter_context(
                    sdk.Agent(name, capabilities=[can], url=url, handler=lambda text: text)
                )
            (learned,) = wait_until("it has learned", bus.learned)
            said = [json.loads(facts.next(timeout_s=60).text)]
            while said[-1]["version"] != learned.version:
                said.append(json.loads(facts.next(timeout_s=60).text))
            assert said[-1]["kind"] == "agent" and said[-1]["examples"] == learned.examples
        shown = sira("agents", "learned", "--json", url=url)
        assert shown.data == {"count": 1}
        (row,) = shown.items()
        assert row["kind"] == "agent" and row["capabilities"] and 0 <= row["right"] <= 1
        assert row["version"][:8] in sira("agents", "learned", url=url).out


def test_a_card_that_came_in_goes_out_equal(sira_bus: Any, tmp_path: Path) -> None:
    file = tmp_path / "card.json"
    file.write_text(json.dumps(CARD))
    importing, begun = started("agents", "import", "--a2a", str(file), url=sira_bus.url)
    try:
        wait_until("registered", lambda: sira_bus.agents(name="route-planner"))
        (info,) = sira_bus.agents(name="route-planner")
        assert (info.kind, info.status) == ("a2a", "up")
        found = sira("find", "plan routes by car", "--kind", "a2a", "--json", url=sira_bus.url)
        assert found.items()[0]["agent"] == "route-planner"
        exported = sira("agents", "export", "--a2a", "route-planner", "--json", url=sira_bus.url)
        assert exported.data["card"] == CARD
        importing.send_signal(signal.SIGINT)
        assert finish_started(importing, "agents import", begun).code == 0
    finally:
        importing.kill()
        importing.communicate()
    assert sira_bus.agents(name="route-planner") == []
    bad = tmp_path / "bad.json"
    bad.write_text("[]")
    assert sira("agents", "import", "--a2a", str(bad), url=sira_bus.url).code == 2
