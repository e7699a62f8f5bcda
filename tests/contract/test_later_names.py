"""Names that later features bring are refused by name, never ignored."""

from __future__ import annotations

from typing import Any

import pytest

import sira

CALLS = {
    "place": lambda bus: bus.place({"cpu": 2}, horizon_s=300),
    "fetch": lambda bus: bus.fetch("a", start=0),
    "intent": lambda bus: bus.intent("segment", timeout_s=30),
    "session": lambda bus: bus.session("study-7"),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_method_of_a_later_feature_is_unsupported(world: Any, name: str) -> None:
    async with world.bus() as bus:
        with pytest.raises(sira.Unsupported) as caught:
            CALLS[name](bus)
        assert (caught.value.code, caught.value.details["name"]) == ("UNSUPPORTED", name)


@pytest.mark.parametrize("grade", ["disk", "replicated", "consumed"])
async def test_a_grade_above_accepted_is_refused(world: Any, topic: str, grade: str) -> None:
    async with world.bus() as bus, bus.subscribe(topic) as messages:
        with pytest.raises(sira.SiraError) as caught:
            await bus.publish(topic, b"x", grade=grade)
        assert caught.value.code in ("UNSUPPORTED", "GRADE_UNAVAILABLE")
        assert (await bus.publish(topic, b"y", grade="accepted")).grade == "accepted"
        assert (await messages.next(timeout_s=60)).bytes == b"y"


async def test_a_dedupe_key_is_refused_without_a_log(world: Any, topic: str) -> None:
    async with world.bus() as bus:
        with pytest.raises(sira.Unsupported):
            await bus.publish(topic, b"x", dedupe_key="order-17")


@pytest.mark.parametrize(
    "option",
    [{"start": "first"}, {"ack_wait_s": 30}, {"max_deliver": 5}],
    ids=lambda o: next(iter(o)),
)
async def test_durable_options_of_a_subscription_are_refused(
    world: Any, topic: str, option: dict[str, Any]
) -> None:
    async with world.bus() as bus:
        with pytest.raises(sira.Unsupported):
            async with bus.subscribe(topic, **option):
                pass


@pytest.mark.parametrize("option", [{"kind": "durable"}, {"keep_s": 60}, {"keep_bytes": 1 << 20}])
async def test_durable_topics_are_refused(world: Any, topic: str, option: dict[str, Any]) -> None:
    async with world.bus() as bus:
        with pytest.raises(sira.Unsupported):
            await bus.topics.create(topic, **option)


def test_model_driven_agents_are_refused() -> None:
    for call in (
        lambda: sira.Agent.quick("a"),
        lambda: sira.Agent.builder("a"),
    ):
        with pytest.raises(sira.Unsupported):
            call()
