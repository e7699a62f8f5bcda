"""The examples of docs/sdk.md that need a real node, run against one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import sira
import sira.testing
from tests.docs_blocks import DOCS, blocks, compiled, names

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SDK = DOCS / "sdk.md"
EXAMPLES = list(blocks(SDK, "python sync"))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with sira.testing.node() as node:
        yield node.url


@pytest.mark.parametrize(("line", "text"), EXAMPLES, ids=[f"line{line}" for line, _ in EXAMPLES])
def test_synchronous_examples_run(url: str, line: int, text: str) -> None:
    with sira.connect_sync(url) as bus:
        assert eval(compiled(SDK, line, text), names(bus)) is None


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 2


def test_connecting_is_as_shown(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block that connects names hosts of nobody: the same calls with a node that is there."""
    import asyncio

    ((line, text),) = blocks(SDK, "python norun")
    assert text.count("sira.connect(") == 2
    monkeypatch.setenv("SIRA_URL", url)
    shown = text.replace("sira://a:7700,sira://b:7700", f"sira://127.0.0.1:9,{url}")

    async def run() -> None:
        scope = names(None)
        await eval(compiled(SDK, line, shown), scope)

    asyncio.run(run())
