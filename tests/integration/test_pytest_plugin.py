"""What users of `sira.testing` write in their own tests works as written."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sira
import sira.testing

pytestmark = pytest.mark.integration


def test_the_fixture_gives_a_connected_bus(sira_bus: Any) -> None:
    with sira_bus.subscribe("lab.*") as messages:
        receipt = sira_bus.publish("lab.a", {"x": np.arange(3)})
        assert receipt.matched == 1
        np.testing.assert_array_equal(messages.next(timeout_s=60)["x"], [0, 1, 2])


def test_the_fixtures_share_one_node_that_async_code_reaches(sira_bus: Any, sira_node: Any) -> None:
    async def matched() -> int:
        async with sira.connect(sira_node.url) as bus:
            return (await bus.publish("lab.a")).matched

    with sira_bus.subscribe("lab.a"):
        assert sira_bus.url == sira_node.url
        assert asyncio.run(matched()) == 1


def test_a_node_takes_settings_and_leaves_nothing_behind() -> None:
    with sira.testing.node(stall_s=0.5, node_name="tested") as node:
        folder = node.data_dir
        with sira.connect_sync(node.url) as bus:
            assert bus.node.node == "tested"
            assert bus.node.limits["stall_ms"] == 500
        assert node.pid
    assert node.pid == 0
    assert not folder.exists()


def test_a_node_that_cannot_start_says_why() -> None:
    with sira.testing.node() as node:
        port = node.url.rsplit(":", 1)[1]
        second = sira.testing.Node()
        second.url = f"sira://127.0.0.1:{port}"
        with pytest.raises(sira.Unreachable, match="exit code"):
            second.start()
        Path(second.log_path).unlink(missing_ok=True)


def test_a_killed_node_starts_again_on_its_port() -> None:
    with sira.testing.node() as node:
        url = node.url
        node.kill()
        assert node.pid == 0
        node.start()
        assert node.url == url
        with sira.connect_sync(url) as bus:
            assert bus.publish("a").matched == 0
