"""A node with its tables: in its data folder, recovered before it listens, or it says why not."""

from __future__ import annotations

import pytest

from sira.kernel.errors import Unreachable
from sira.testing import Node

pytestmark = pytest.mark.integration


def test_a_node_keeps_its_tables_in_its_data_folder_and_finds_them_again() -> None:
    with Node() as node:
        folder = node.data_dir / "data" / "tables"
        (first,) = folder.iterdir()
        assert first.name == "journal-00000000000000000001.sira"
        assert folder.stat().st_mode & 0o777 == 0o700 and first.stat().st_mode & 0o777 == 0o600
        node.kill()
        node.start()
        assert [each.name for each in folder.iterdir()] == [first.name]


def test_a_journal_that_is_corrupt_stops_the_start_and_is_left_as_it_is() -> None:
    with Node() as node:
        (journal,) = (node.data_dir / "data" / "tables").iterdir()
        node.kill()
        broken = b"X" + journal.read_bytes()[1:]
        journal.write_bytes(broken)
        with pytest.raises(Unreachable, match="exit code 3"):
            node.start()
        assert journal.read_bytes() == broken
