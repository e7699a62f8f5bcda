"""docs/services.md is what happens: its files are written, its commands run in one shell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs_blocks import DOCS

from .ports import free_port
from .shell import PORT_OF_THE_DOC, Shell, at, blocks, commands, pattern, shell_in

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[tuple[Shell, str]]:
    port = str(free_port())
    with shell_in(tmp_path, **at(port), COLUMNS="80") as found:
        yield found, port


def test_the_page_is_what_happens(shell: tuple[Shell, str], tmp_path: Path) -> None:
    bash, port = shell
    done = 0
    for kind, lines in blocks((DOCS / "services.md").read_text()):
        named = re.fullmatch(r"(?:#|//) (\w+\.\w+)", lines[0])
        if kind in ("python", "proto") and named:
            (tmp_path / named[1]).write_text("\n".join(lines) + "\n")
        elif kind == "console":
            for command, expected in commands(lines):
                wanted = pattern([line.replace(PORT_OF_THE_DOC, port) for line in expected])
                shown = bash.run(command, wanted)
                assert re.fullmatch(wanted, shown), (
                    f"$ {command}\ncame:\n{shown}\nwanted:\n{wanted}"
                )
                done += 1
    assert done >= 10
