"""Sets of topic names as patterns describe them: what two have in common, and a tree of many.

All follow `_native.topic_match`: `*` is one token, a last `>` one or more, and a wildcard in the
first place leaves out `sira` and what begins with `_`. What two patterns both match is a pattern
again, so the questions of a policy ("what of this may be read?") have exact answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from sira.kernel.topics import NODE_PREFIX

V = TypeVar("V")


def guarded(token: str) -> bool:
    """Whether a wildcard in the first place leaves this first token out."""
    return token == NODE_PREFIX or token.startswith("_")


def meet(one: str, other: str) -> str | None:
    """Return the pattern of the names that both match; None: there are none."""
    a, b = one.split("."), other.split(".")
    if guarded(a[0]) != guarded(b[0]):
        return None  # a literal of these meets only itself
    tokens: list[str] = []
    for index in range(max(len(a), len(b))):
        if index >= len(a) or index >= len(b):
            return None
        x, y = a[index], b[index]
        if x == ">":
            return ".".join([*tokens, *b[index:]])
        if y == ">":
            return ".".join([*tokens, *a[index:]])
        if x == y or y == "*":
            tokens.append(x)
        elif x == "*":
            tokens.append(y)
        else:
            return None
    return ".".join(tokens)


def covers(wide: str, narrow: str) -> bool:
    """Whether `wide` matches every name that `narrow` does."""
    return meet(wide, narrow) == narrow


_NO_CHILDREN: dict[str, Any] = {}  # of every leaf: an empty dict each would be a third of the tree


class _Branch(Generic[V]):
    """Patterns that share their first tokens. `here`: one ends at this token; `rest`: at a `>`."""

    __slots__ = ("children", "here", "rest")

    def __init__(self) -> None:
        self.children: dict[str, _Branch[V]] = _NO_CHILDREN
        self.here: V | None = None
        self.rest: V | None = None


class PatternTree(Generic[V]):
    """One value under each of many patterns. Never None.

    Every walk visits a branch once at most, whatever the wildcards: 2 ** tokens branches for a name
    when patterns have a `*` at every place, and never more than there are.
    """

    def __init__(self) -> None:
        self._root: _Branch[V] = _Branch()

    def put(self, pattern: str, change: Callable[[V | None], V]) -> None:
        """Set the value under a checked pattern to what `change` makes of the old one."""
        branch, tokens = self._root, pattern.split(".")
        rest = tokens[-1] == ">"
        for token in tokens[: -1 if rest else None]:
            child = branch.children.get(token)
            if child is None:
                child = _Branch()
                if branch.children is _NO_CHILDREN:
                    branch.children = {token: child}
                else:
                    branch.children[token] = child
            branch = child
        if rest:
            branch.rest = change(branch.rest)
        else:
            branch.here = change(branch.here)

    def match(self, name: str) -> list[V]:
        """Return the values of all patterns that match a checked name."""
        tokens = name.split(".")
        found: list[V] = []
        level, wild = [self._root], not guarded(tokens[0])
        for token in tokens:
            below: list[_Branch[V]] = []
            for branch in level:
                child = branch.children.get(token)
                if child is not None:
                    below.append(child)
                if wild:
                    if branch.rest is not None:
                        found.append(branch.rest)
                    child = branch.children.get("*")
                    if child is not None:
                        below.append(child)
            level, wild = below, True
        found.extend(branch.here for branch in level if branch.here is not None)
        return found

    def meeting(self, pattern: str) -> Iterator[tuple[str, V]]:
        """Yield what each pattern has in common with this one, where that is something."""
        yield from _meeting(self._root, pattern.split("."), 0, [])

    def covering(self, pattern: str) -> Iterator[tuple[str, V]]:
        """Yield the patterns that match every name that this one does, itself too."""
        yield from _covering(self._root, pattern.split("."), 0, [])


def _meeting(
    branch: _Branch[V], tokens: list[str], at: int, path: list[str]
) -> Iterator[tuple[str, V]]:
    if at == len(tokens):
        if branch.here is not None:
            yield ".".join(path), branch.here
        return
    token = tokens[at]
    if token == ">":
        yield from _below(branch, path)
        return
    wild = at > 0 or not guarded(token)
    if wild and branch.rest is not None:
        yield ".".join([*path, *tokens[at:]]), branch.rest
    if token == "*":
        for key, child in branch.children.items():
            if at > 0 or not guarded(key):
                yield from _meeting(child, tokens, at + 1, [*path, key])
        return
    for key in (token, "*") if wild else (token,):
        below = branch.children.get(key)
        if below is not None:
            yield from _meeting(below, tokens, at + 1, [*path, token])


def _below(branch: _Branch[V], path: list[str]) -> Iterator[tuple[str, V]]:
    """Yield all that stands at least one token below `path`."""
    if branch.rest is not None:
        yield ".".join([*path, ">"]), branch.rest
    for key, child in branch.children.items():
        if not path and guarded(key):
            continue
        longer = [*path, key]
        if child.here is not None:
            yield ".".join(longer), child.here
        yield from _below(child, longer)


def _covering(
    branch: _Branch[V], tokens: list[str], at: int, path: list[str]
) -> Iterator[tuple[str, V]]:
    if at == len(tokens):
        if branch.here is not None:
            yield ".".join(path), branch.here
        return
    token = tokens[at]
    wild = at > 0 or not guarded(token)
    if wild and branch.rest is not None:
        yield ".".join([*path, ">"]), branch.rest
    if token == ">":
        return
    for key in {token, "*"} if wild else {token}:
        below = branch.children.get(key)
        if below is not None:
            yield from _covering(below, tokens, at + 1, [*path, key])


def subtract(allowed: Iterable[str], cut: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Reduce both to what says something: (allowed, cut), in the order in which they came.

    Left out are patterns inside others of their kind, allowed ones inside a cut one, and cut ones
    that nothing allowed meets. The names that are in `allowed` and in no `cut` stay the same.
    """
    holes = _widest(cut)
    denied = _tree(holes)
    left = [p for p in _widest(allowed) if next(denied.covering(p), None) is None]
    granted = _tree(left)
    return tuple(left), tuple(p for p in holes if next(granted.meeting(p), None) is not None)


def _widest(patterns: Iterable[str]) -> list[str]:
    """Return the patterns that lie in no other one."""
    once = dict.fromkeys(patterns)
    tree = _tree(once)
    return [p for p in once if all(wider == p for wider, _ in tree.covering(p))]


def _tree(patterns: Iterable[str]) -> PatternTree[bool]:
    tree: PatternTree[bool] = PatternTree()
    for pattern in patterns:
        tree.put(pattern, lambda _: True)
    return tree
