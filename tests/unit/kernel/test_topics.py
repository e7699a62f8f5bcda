"""Names and patterns: the trie agrees with the C core, declarations know their classes."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sira import _native
from sira.kernel.errors import BadRequest
from sira.kernel.topics import (
    Declaration,
    Declarations,
    Trie,
    check_reply_topic,
    covers,
    intersects,
)

TOKENS = st.sampled_from(["a", "b", "c", "sira", "_reply"])
NAMES = st.lists(TOKENS, min_size=1, max_size=4).map(".".join)


@st.composite
def patterns(draw: st.DrawFn) -> str:
    tokens = draw(st.lists(st.sampled_from(["a", "b", "*", "sira", "_reply"]), max_size=4))
    if not tokens or draw(st.booleans()):
        tokens.append(">")
    return ".".join(tokens)


@given(st.lists(st.tuples(patterns(), st.integers(0, 3)), max_size=12), st.lists(NAMES, max_size=6))
def test_the_trie_matches_what_the_c_core_matches(
    entries: list[tuple[str, int]], names: list[str]
) -> None:
    trie: Trie[tuple[str, int]] = Trie()
    for pattern, value in entries:
        trie.add(pattern, (pattern, value))
    for name in names:
        expected = Counter({e for e in entries if _native.topic_match(e[0], name)})
        assert Counter(trie.match(name)) == expected, name
        assert trie.matches(name) == bool(expected)


@given(st.lists(st.tuples(patterns(), st.integers(0, 3)), max_size=12))
def test_what_was_added_and_removed_leaves_nothing(entries: list[tuple[str, int]]) -> None:
    trie: Trie[int] = Trie()
    for pattern, value in entries:
        trie.add(pattern, value)
    assert Counter(trie.items()) == Counter(set(entries))
    for pattern, value in set(entries):
        assert trie.remove(pattern, value)
        assert not trie.remove(pattern, value)
    assert len(trie) == 0 and not trie._root.children and not trie._root.rest


@given(patterns(), patterns(), NAMES)
def test_covers_and_intersects_never_lie_about_a_name(one: str, other: str, name: str) -> None:
    guarded = name.startswith(("_", "sira"))  # leading wildcards leave these names out
    both = _native.topic_match(one, name) and _native.topic_match(other, name)
    if both:
        assert intersects(one, other)
    if covers(one, other) and not guarded and _native.topic_match(other, name):
        assert _native.topic_match(one, name)


@pytest.mark.parametrize(
    ("wide", "narrow", "yes"),
    [("a.>", "a.b", True), ("a.>", "a.*.c", True), ("a.*", "a.>", False), ("a.b", "a.b", True),
     ("a.>", "a", False), ("*.b", "a.b", True), ("a.b", "a.*", False)],
)  # fmt: skip
def test_covers(wide: str, narrow: str, yes: bool) -> None:
    assert covers(wide, narrow) is yes


def test_the_most_specific_class_holds() -> None:
    declarations = Declarations()
    for name in ("cam.>", "cam.*.raw", "cam.front.*"):
        declarations.add(Declaration(name, retain=name == "cam.front.*"))
    assert declarations.class_row("cam.front.raw") == "cam.front.*"
    assert declarations.class_row("cam.back.raw") == "cam.*.raw"
    assert declarations.class_row("cam.x") == "cam.>"
    assert declarations.class_row("lab.x") == ">"
    assert declarations.class_row("_reply.ab") == "_reply.>"
    assert declarations.effective("cam.front.raw").retain
    declarations.add(Declaration("cam.front.raw"))
    assert not declarations.effective("cam.front.raw").retain
    assert declarations.remove("cam.front.raw") and declarations.remove("cam.front.*")
    assert declarations.class_row("cam.front.raw") == "cam.*.raw"


def test_ownership_is_forgotten_with_the_declaration() -> None:
    declarations = Declarations()
    declarations.add(Declaration("a.1", owner=7))
    declarations.add(Declaration("a.2", owner=7))
    assert declarations.owned_by(7) == ["a.1", "a.2"] and declarations.owned_count(7) == 2
    declarations.remove("a.1")
    declarations.remove("a.2")
    assert declarations.owned_by(7) == [] and not declarations._owned


@pytest.mark.parametrize("name", ["_reply.", "_reply.XY", "_reply.ab.cd", "_reply." + "a" * 65])
def test_a_private_reply_topic_is_hex(name: str) -> None:
    with pytest.raises(BadRequest):
        check_reply_topic(name)
