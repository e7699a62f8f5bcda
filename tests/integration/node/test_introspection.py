"""What a node says of itself: verbs, settings, classes of topics, while they come and go."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import sira
import sira.testing
from sira.cli.verbs import VERBS
from sira.kernel.methods import TopicClass, Verb
from sira.kernel.settings import SCHEMA
from sira.v1 import kernel_pb2

from .plain import Node, Plain, session

pytestmark = pytest.mark.integration


def test_a_node_of_the_command_lists_every_verb_and_setting_with_its_schema() -> None:
    with sira.testing.node() as node, sira.connect_sync(node.url) as bus:
        got = bus.introspect()
    assert {verb.name: verb.summary for verb in got.verbs} == {v.name: v.summary for v in VERBS}
    assert [setting.name for setting in got.settings] == list(SCHEMA)
    for setting in got.settings:
        assert json.loads(setting.schema)["type"] in ("string", "integer", "number", "boolean")
        assert setting.reason and setting.source


def test_what_a_service_brings_is_listed_until_it_goes() -> None:
    async def work(node: Node, plain: Plain) -> None:
        async def listed() -> tuple[set[str], set[str], set[str]]:
            got = await plain.kernel.Introspect(kernel_pb2.IntrospectRequest())
            return (
                {verb.name for verb in got.verbs},
                {setting.name for setting in got.settings},
                {each.pattern for each in got.topic_classes},
            )

        before = await listed()
        changes: list[None] = []
        node.catalog.changed.append(lambda: changes.append(None))
        node.catalog.add_verb(Verb("later", "a verb of a later service"))
        node.catalog.add_setting(replace(SCHEMA["stall_s"], name="later_s"))
        node.catalog.add_topic_class(TopicClass("later.>", "reserved", "of a later service"))
        verbs, settings, classes = await listed()
        assert verbs - before[0] == {"later"}
        assert settings - before[1] == {"later_s"}
        assert classes - before[2] == {"later.>"}
        node.catalog.remove_verb("later")
        node.catalog.remove_setting("later_s")
        node.catalog.remove_topic_class("later.>")
        assert await listed() == before
        assert len(changes) == 6

    session(work)
