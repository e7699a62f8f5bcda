"""Fenced blocks of a document, and how its examples are run."""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import sira
import sira.testing

DOCS = Path(__file__).parents[1] / "docs"
WATCHDOG_S = 60.0


def blocks(document: Path, kind: str) -> Iterator[tuple[int, str]]:
    """Yield (line number, text) of each fenced block whose info string is `kind`."""
    text = document.read_text()
    for match in re.finditer(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if match[1] == kind:
            yield text.count("\n", 0, match.start()) + 2, match[2]


def table(document: Path, heading: str) -> list[list[str]]:
    """Return the cells of the first table with this header row, without header and rule."""
    lines = iter(document.read_text().splitlines())
    for line in lines:
        if line == heading:
            next(lines)
            break
    else:
        raise AssertionError(f"{document.name} has no table {heading!r}")
    found = []
    for line in lines:
        if not line.startswith("|"):
            return found
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def compiled(document: Path, line: int, text: str) -> Any:
    """Compile an example so that its line numbers are those of the document."""
    source = "\n" * (line - 1) + text
    return compile(source, str(document), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def names(bus: Any) -> dict[str, Any]:
    """Return what an example may use without an import."""
    return {"asyncio": asyncio, "bus": bus, "np": np, "sira": sira}


async def run_async(document: Path, line: int, text: str) -> None:
    """Run an example with `await` on a node of its own, in this process."""
    async with asyncio.timeout(WATCHDOG_S), sira.testing.LocalBus() as bus:
        waiting = eval(compiled(document, line, text), names(bus))
        if waiting is not None:  # no `await` in it: it has run
            await waiting
