"""A node with its tables: in its data folder, recovered before it listens, or it says why not."""

from __future__ import annotations

import os
import signal
import time

import pytest

import sira
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


def test_declared_topics_are_there_after_kill_9_and_owned_and_deleted_ones_are_not() -> None:
    with Node(settings={"restart_s_min": 0.01}) as node:
        with sira.connect_sync(node.url) as bus:
            bus.topics.create("lab.a", kind="latest", contract={"x": "f32[N]"})
            bus.topics.create("lab.cls.>", contract={"y": "u8[4]"})
            bus.topics.create("lab.gone")
            bus.topics.delete("lab.gone")
            bus.topics.create("lab.mine", owned=True)
        pid = node.pid
        os.kill(pid, signal.SIGKILL)
        deadline_s = time.monotonic() + 60
        while node.pid in (0, pid):
            assert time.monotonic() < deadline_s, "the supervisor did not start it again"
            time.sleep(0.02)
        with sira.connect_sync(node.url, timeout_s=60) as bus:
            found = {each.name: each for each in bus.topics.list() if each.declared}
            assert set(found) == {"lab.a", "lab.cls.>"}
            assert (found["lab.a"].kind, found["lab.a"].contract) == ("latest", {"x": "f32[N]"})
            assert found["lab.cls.>"].contract == {"y": "u8[4]"}
            bus.topics.create("lab.a", kind="latest", contract={"x": "f32[N]"})
