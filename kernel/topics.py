"""Names and patterns: who listens where, what was declared, who owns what. Pure: no clock, no I/O.

`Trie` answers which values stand under patterns that match a name, in time of the name's tokens and
the matches, not of all patterns. `Declarations` knows declared topics and classes (declared
patterns) and which of them a name belongs to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from sira import _native
from sira.kernel.errors import BadRequest
from sira.kernel.slices import Arrivals

T = TypeVar("T")

NODE_PREFIX = "sira"  # only the node publishes here
REPLY_PREFIX = "_reply"  # private to the client that subscribes
RESERVED = ("proc", "dev", "job", "tool", "mcp")  # of later layers
EVENTS_CLASS, REPLY_CLASS, OTHER_CLASS = "sira.>", "_reply.>", ">"
_REPLY_TOKEN_CHARS_MAX = 64


def is_pattern(text: str) -> bool:
    """Whether a checked name or pattern has a wildcard."""
    return "*" in text or ">" in text


def first_token(text: str) -> str:
    """Return what stands before the first dot."""
    return text.split(".", 1)[0]


def covers(wide: str, narrow: str) -> bool:
    """Whether every name that `narrow` matches is matched by `wide`, but for the names that leading
    wildcards leave out."""
    a, b = wide.split("."), narrow.split(".")
    for index, token in enumerate(a):
        if token == ">":
            return len(b) > index
        if index >= len(b) or b[index] == ">":
            return False
        if token not in ("*", b[index]):
            return False
    return len(a) == len(b)


def intersects(one: str, other: str) -> bool:
    """Whether some name could be matched by both patterns."""
    a, b = one.split("."), other.split(".")
    for x, y in zip(a, b, strict=False):
        if ">" in (x, y):
            return True
        if x != y and "*" not in (x, y):
            return False
    return len(a) == len(b)


def check_reply_topic(name: str) -> None:
    """Refuse a name under `_reply.` that no client could have made.

    Raises:
        BadRequest: not `_reply.<hex>`.
    """
    token = name[len(REPLY_PREFIX) + 1 :]
    if not 0 < len(token) <= _REPLY_TOKEN_CHARS_MAX or set(token) - set("0123456789abcdef"):
        raise BadRequest(
            f"{name[:80]!r} is no private reply topic: `_reply.` and up to "
            f"{_REPLY_TOKEN_CHARS_MAX} lower-case hex digits",
            details={"topic": name[:80]},
        )


@dataclass(slots=True)
class _Branch(Generic[T]):
    """Patterns that share their first tokens. `here`: they end at this token; `rest`: at a `>`."""

    children: dict[str, _Branch[T]] = field(default_factory=dict)
    here: dict[T, None] = field(default_factory=dict)
    rest: dict[T, None] = field(default_factory=dict)

    def empty(self) -> bool:
        return not (self.children or self.here or self.rest)


class Trie(Generic[T]):
    """Values under patterns, in the order in which they came. A value stands once under a pattern.

    A wildcard never matches a first token that begins with `_`, and one in the first place never
    matches `sira`: private replies and the node's own facts are asked for by name.
    """

    def __init__(self) -> None:
        self._root: _Branch[T] = _Branch()
        self._count = 0

    def __len__(self) -> int:
        """Return how many (pattern, value) pairs there are."""
        return self._count

    def add(self, pattern: str, value: T) -> bool:
        """Put a value under a checked pattern; False: it was there."""
        branch, tokens, rest = self._root, pattern.split("."), False
        if tokens[-1] == ">":
            tokens, rest = tokens[:-1], True
        for token in tokens:
            branch = branch.children.setdefault(token, _Branch())
        values = branch.rest if rest else branch.here
        if value in values:
            return False
        values[value] = None
        self._count += 1
        return True

    def remove(self, pattern: str, value: T) -> bool:
        """Take a value away, with the branches that it leaves empty; False: it was not there."""
        tokens, rest = pattern.split("."), False
        if tokens[-1] == ">":
            tokens, rest = tokens[:-1], True
        path = [self._root]
        for token in tokens:
            child = path[-1].children.get(token)
            if child is None:
                return False
            path.append(child)
        values = path[-1].rest if rest else path[-1].here
        if value not in values:
            return False
        del values[value]
        self._count -= 1
        for token in reversed(tokens):
            if not path.pop().empty():
                break
            del path[-1].children[token]
        return True

    def match(self, name: str) -> list[T]:
        """Return the values of all patterns that match a checked name; one may come twice."""
        tokens = name.split(".")
        found: list[T] = []
        guarded = tokens[0].startswith("_") or tokens[0] == NODE_PREFIX
        level = [self._root]
        for index, token in enumerate(tokens):
            wild = not (guarded and index == 0)
            below: list[_Branch[T]] = []
            for branch in level:
                if wild:
                    found.extend(branch.rest)
                child = branch.children.get(token)
                if child is not None:
                    below.append(child)
                if wild:
                    child = branch.children.get("*")
                    if child is not None:
                        below.append(child)
            if not below:
                return found
            level = below
        for branch in level:
            found.extend(branch.here)
        return found

    def matches(self, name: str) -> bool:
        """Whether any pattern matches."""
        return bool(self.match(name))

    def items(self) -> Iterator[tuple[str, T]]:
        """Yield every (pattern, value)."""
        waiting: list[tuple[str, _Branch[T]]] = [("", self._root)]
        while waiting:
            prefix, branch = waiting.pop()
            yield from ((prefix, value) for value in branch.here)
            dot = f"{prefix}." if prefix else ""
            yield from ((f"{dot}>", value) for value in branch.rest)
            waiting.extend((f"{dot}{token}", child) for token, child in branch.children.items())


@dataclass(slots=True, eq=False)
class Declaration:
    """What somebody said about a topic, or about a class of topics.

    Attributes:
        name: of the topic; a pattern declares a class.
        retain: kind `latest`; else `volatile`.
        contract: tensor name to text, and compiled; empty and None: any message.
        owner: number of the client it dies with; 0: nobody, it stays.
    """

    name: str
    retain: bool = False
    contract_texts: dict[str, str] = field(default_factory=dict)
    contract: _native.Contract | None = None
    owner: int = 0

    def same_as(self, other: Declaration) -> bool:
        """Whether both say the same, so that declaring again changes nothing."""
        return (self.name, self.retain, self.contract_texts, self.owner) == (
            other.name,
            other.retain,
            other.contract_texts,
            other.owner,
        )


class Declarations:
    """All declared topics and classes."""

    def __init__(self) -> None:
        self._topics: dict[str, Declaration] = {}
        self._classes: dict[str, Declaration] = {}
        self._class_trie: Trie[str] = Trie()
        self._owned: dict[int, dict[str, None]] = {}
        self.arrivals: Arrivals[str] = Arrivals()  # names that are declared
        self._names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        """Return how many topics and classes are declared."""
        return len(self._topics) + len(self._classes)

    def get(self, name: str) -> Declaration | None:
        """Return what was declared under exactly this name or pattern."""
        return self._topics.get(name) or self._classes.get(name)

    def add(self, declaration: Declaration) -> None:
        """Remember a declaration. Requires: none of this name is there."""
        assert self.get(declaration.name) is None, declaration.name
        self._names = None
        if is_pattern(declaration.name):
            self._classes[declaration.name] = declaration
            self._class_trie.add(declaration.name, declaration.name)
        else:
            self._topics[declaration.name] = declaration
        self.arrivals.note(declaration.name)
        if declaration.owner:
            self._owned.setdefault(declaration.owner, {})[declaration.name] = None

    def remove(self, name: str) -> Declaration | None:
        """Forget a declaration and return it; None: there was none."""
        found = self._topics.pop(name, None) or self._classes.pop(name, None)
        if found is None:
            return None
        self._names = None
        if is_pattern(name):
            self._class_trie.remove(name, name)
        if found.owner:
            owned = self._owned[found.owner]
            del owned[name]
            if not owned:
                del self._owned[found.owner]
        return found

    def owned_by(self, owner: int) -> list[str]:
        """Return the names that die with this client."""
        return list(self._owned.get(owner, ()))

    def owned_count(self, owner: int) -> int:
        """Return how many these are."""
        return len(self._owned.get(owner, ()))

    def names(self) -> tuple[str, ...]:
        """Return all names and patterns; the same tuple to all who ask until one comes or goes."""
        if self._names is None:
            self._names = (*self._topics, *self._classes)
        return self._names

    def class_names(self) -> list[str]:
        """Return the patterns of declared classes."""
        return list(self._classes)

    def topics(self) -> Iterator[Declaration]:
        """Yield declared topics."""
        yield from self._topics.values()

    def classes(self) -> Iterator[Declaration]:
        """Yield declared classes."""
        yield from self._classes.values()

    def class_of(self, name: str) -> Declaration | None:
        """Return the class that a name belongs to: of those that match, the most specific."""
        names = self._class_trie.match(name)
        return self._classes[max(names, key=_specificity)] if names else None

    def class_row(self, name: str) -> str:
        """Return the class whose ledger row and histogram take this name's counts."""
        head = first_token(name)
        if head == NODE_PREFIX:
            return EVENTS_CLASS
        if head == REPLY_PREFIX:
            return REPLY_CLASS
        found = self.class_of(name)
        return found.name if found else OTHER_CLASS

    def effective(self, name: str) -> Declaration:
        """Return what holds for a topic: its own declaration, else its class's, else nothing."""
        return self._topics.get(name) or self.class_of(name) or Declaration(name)


def _specificity(pattern: str) -> tuple[int, int, str]:
    """Order patterns that match one name: more fixed tokens, then more tokens, then by text."""
    tokens = pattern.split(".")
    return sum(token not in ("*", ">") for token in tokens), len(tokens), pattern
