"""The tables of docs/operations.md that are made from the code: `python -m tests.docs_tables`.

Each stands between `<!-- table: NAME -->` and `<!-- end -->`; the text around is written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from sira.kernel.errors import error_classes
from sira.kernel.events import KINDS
from sira.kernel.logs import FIELDS
from sira.kernel.rpc import STATUS
from sira.kernel.settings import SCHEMA, Spec

DOC = Path(__file__).parents[1] / "docs" / "operations.md"
_UNLIMITED = float("inf")


def rows(*header: str, lines: Iterable[tuple[str, ...]]) -> str:
    """Write a table."""
    every = [header, tuple("---" for _ in header), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in every)


def number(value: float) -> str:
    """Write a number as TOML and the environment take it."""
    if value == int(value):
        return f"{int(value):_}"
    return f"{value:g}"


def limits(spec: Spec) -> str:
    """Say which values a setting takes."""
    if spec.kind is str:
        return ", ".join(spec.choices) or "text"
    if spec.maximum == _UNLIMITED:
        return f"{number(spec.minimum)} or more"
    return f"{number(spec.minimum)} to {number(spec.maximum)}"


def settings() -> str:
    """List every setting, in the order of kernel/settings/schema.py."""
    lines = []
    for spec in SCHEMA.values():
        shown = number(spec.default) if not isinstance(spec.default, str) else spec.default
        value = f"`{shown}`" if shown else "empty"
        lines.append(
            (f"`{spec.name}`", f"{value} {spec.unit}".strip(), limits(spec), f"{spec.reason}",
             spec.breaks)
        )  # fmt: skip
    return rows("setting", "default", "takes", "what it is", "if it is wrong", lines=lines)


def errors() -> str:
    """List every error code with its status, in the order of kernel/errors.py."""
    lines = []
    for each in error_classes():
        meaning = (each.__doc__ or "").strip().splitlines()[0].rstrip(".")
        again = "yes" if each.retryable else ""
        status = STATUS[each.code].name
        lines.append((f"`{each.code}`", status, again, f"{meaning}", each.help))
    return rows("code", "gRPC status", "retryable", "meaning", "what to do", lines=lines)


def events() -> str:
    """List every fact on `sira.>` with its fields."""
    return rows(
        "topic", "when", "fields",
        lines=[
            (f"`{kind.topic}`", kind.summary, ", ".join(f"`{name}`" for name in kind.fields))
            for kind in KINDS.values()
        ],
    )  # fmt: skip


def log_fields() -> str:
    """List the fields of every log line."""
    return ", ".join(f"`{name}`" for name in FIELDS)


TABLES: dict[str, Callable[[], str]] = {
    "settings": settings,
    "errors": errors,
    "events": events,
    "log fields": log_fields,
}


def written(text: str) -> str:
    """Return `text` with its tables made anew. Raises KeyError for one that nobody makes."""

    def fill(match: re.Match[str]) -> str:
        return f"<!-- table: {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- table: ([\w ]+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


if __name__ == "__main__":
    DOC.write_text(written(DOC.read_text()))
