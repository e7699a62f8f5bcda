"""docs/security.md promises nothing without a test that exists."""

from __future__ import annotations

import re

from tests.docs_blocks import DOCS, table

PAGE = DOCS / "security.md"


def names_of_tests() -> set[str]:
    return {
        name
        for file in (DOCS.parent / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    }


def test_each_promise_names_tests_that_exist() -> None:
    there = names_of_tests()
    rows = table(PAGE, "| promise | tests |")
    assert len(rows) >= 18
    for promise, cell in rows:
        named = re.findall(r"`(\w+)`", cell)
        assert named, promise
        assert set(named) <= there, (promise, set(named) - there)


def test_a_test_that_is_named_anywhere_on_the_page_exists() -> None:
    assert set(re.findall(r"`(test_\w+)`", PAGE.read_text())) <= names_of_tests()
