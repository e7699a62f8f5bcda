"""docs/http.md is what happens: its commands are run, its table is the code's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sira.services.http.problems import STATUS
from tests.docs_blocks import DOCS, table
from tests.integration.ports import free_port
from tests.integration.shell import Shell, at, blocks, commands, pattern, shell_in

DOC = DOCS / "http.md"


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[tuple[Shell, dict[str, str]]]:
    ports = {"7700": str(free_port()), "8080": str(free_port())}
    with shell_in(tmp_path, **at(ports["7700"])) as found:
        yield found, ports


@pytest.mark.integration
@pytest.mark.slow
def test_the_commands_of_the_document_do_what_it_says(
    shell: tuple[Shell, dict[str, str]],
) -> None:
    bash, ports = shell
    done = 0
    for kind, lines in blocks(DOC.read_text()):
        if kind != "console":
            continue
        for command, expected in commands(lines):
            for port, ours in ports.items():
                command = command.replace(port, ours)
                expected = [line.replace(port, ours) for line in expected]
            wanted = pattern(expected)
            shown = bash.run(command, wanted)
            assert re.fullmatch(wanted, shown), f"$ {command}\ncame:\n{shown}\nwanted:\n{wanted}"
            done += 1
    assert done >= 10


def test_the_table_of_statuses_is_that_of_the_code() -> None:
    said = {
        code: int(status)
        for status, codes in table(DOC, "| status | codes |")
        for code in re.findall(r"`(\w+)`", codes)
    }
    assert said == STATUS
