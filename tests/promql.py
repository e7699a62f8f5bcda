"""What a PromQL expression names: metrics, labels, and the label values it asks for.

A tokenizer, not a parser: enough to hold dashboards and alerts to the metrics of a node also where
`promtool`, which parses, is not installed. It refuses what is cut, unbalanced or of no token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

_TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<range>\[[^\]]*\])
    |(?P<number>(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)(?:ms|[smhdwy])?)
    |(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)
    |(?P<operator>=~|!~|!=|==|>=|<=|[-+*/%^<>=(){},@])""",
    re.VERBOSE,
)
_RANGE = re.compile(r"\[(?:\d+(?:ms|[smhdwy])|\$__(?:rate_interval|interval|range))+\]")
_GROUPING = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
_WORDS = frozenset({"and", "or", "unless", "bool", "offset"})


class Unreadable(ValueError):
    """It is no PromQL."""


@dataclass(slots=True)
class Names:
    """What an expression names. `matchers`: (metric, label, operator, value) inside braces."""

    metrics: set[str] = field(default_factory=set)
    labels: set[str] = field(default_factory=set)
    matchers: set[tuple[str, str, str, str]] = field(default_factory=set)


def tokens(expression: str) -> Iterator[tuple[str, str]]:
    """Yield (kind, text). Raises Unreadable."""
    at = 0
    while at < len(expression):
        match = _TOKEN.match(expression, at)
        if match is None:
            raise Unreadable(f"{expression[at : at + 20]!r} in {expression!r}")
        at = match.end()
        kind = str(match.lastgroup)
        if kind == "range" and not _RANGE.fullmatch(match[0]):
            raise Unreadable(f"{match[0]} is no range in {expression!r}")
        if kind != "space":
            yield kind, match[0]


def names(expression: str) -> Names:
    """Return what an expression names. Raises Unreadable."""
    found = Names()
    opened: list[str] = []  # "(", "{", and "by" for the bracket of a grouping
    metric = label = operator = ""
    grouping = False
    every = [*tokens(expression), ("end", "")]
    for (kind, text), (_, following) in pairwise(every):
        inside = opened[-1] if opened else ""
        if text in ("(", "{"):
            opened.append("by" if grouping else text)
            grouping = False
        elif text in (")", "}"):
            if not opened or (opened.pop() == "{") != (text == "}"):
                raise Unreadable(f"{text} closes nothing in {expression!r}")
        elif kind == "operator":
            operator = text
        elif kind == "string" and inside == "{":
            found.matchers.add((metric, label, operator, text[1:-1]))
        elif kind == "name" and inside in ("{", "by"):
            found.labels.add(text)
            label = text
        elif kind == "name" and text in _GROUPING:
            grouping = True
        elif kind == "name" and text not in _WORDS and following not in ("(", "by", "without"):
            metric = text
            found.metrics.add(text)
    if opened or grouping or not found.metrics:
        raise Unreadable(f"{expression!r} is cut, or names no metric")
    return found
