"""docs/quickstart.md is what happens: its commands are run in one shell, its outputs compared.

A `python` block opens with a comment that names its file. Blocks of other kinds are only read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .ports import free_port
from .shell import PORT_OF_THE_DOC, Shell, at, blocks, commands, pattern, shell_in

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

DOC = Path(__file__).parents[2] / "docs" / "quickstart.md"


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[tuple[Shell, str]]:
    port = str(free_port())
    with shell_in(tmp_path, **at(port)) as found:
        yield found, port


def test_the_quickstart_is_what_happens(shell: tuple[Shell, str], tmp_path: Path) -> None:
    bash, port = shell
    done = 0
    for kind, lines in blocks(DOC.read_text()):
        if kind == "python":
            assert lines[0].startswith("# "), lines[0]
            (tmp_path / lines[0][2:]).write_text("\n".join(lines) + "\n")
        elif kind == "console":
            for command, expected in commands(lines):
                wanted = pattern([line.replace(PORT_OF_THE_DOC, port) for line in expected])
                shown = bash.run(command, wanted)
                assert re.fullmatch(wanted, shown), (
                    f"$ {command}\ncame:\n{shown}\nwanted:\n" + "\n".join(expected)
                )
                done += 1
    assert done >= 15


def test_the_comparison_notices_a_difference() -> None:
    assert re.fullmatch(pattern(["a ... c", "...", "z"]), "a b c\nx\ny\nz\n")
    assert re.fullmatch(pattern(["a", "..."]), "a\n")
    assert not re.fullmatch(pattern(["a ... c"]), "a b d\n")
    assert not re.fullmatch(pattern(["a"]), "a\nb\n")
    assert not re.fullmatch(pattern(["a", "b"]), "a\n")
    assert not re.fullmatch(pattern(["a.c"]), "abc\n")
