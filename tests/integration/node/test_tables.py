"""A node with its tables: in its data folder, recovered before it listens, or it says why not."""

from __future__ import annotations

import os
import resource
import signal
import time

import grpc
import pytest

import sira
from sira.kernel.errors import Unreachable
from sira.testing import Node
from sira.v1 import registry_pb2, registry_pb2_grpc

pytestmark = pytest.mark.integration


def kill(node: Node) -> None:
    """Kill the node itself and wait until its supervisor has started another."""
    pid = node.pid
    os.kill(pid, signal.SIGKILL)
    deadline_s = time.monotonic() + 60
    while node.pid in (0, pid):
        assert time.monotonic() < deadline_s, "the supervisor did not start it again"
        time.sleep(0.02)


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
        kill(node)
        with sira.connect_sync(node.url, timeout_s=60) as bus:
            found = {each.name: each for each in bus.topics.list() if each.declared}
            assert set(found) == {"lab.a", "lab.cls.>"}
            assert (found["lab.a"].kind, found["lab.a"].contract) == ("latest", {"x": "f32[N]"})
            assert found["lab.cls.>"].contract == {"y": "u8[4]"}
            bus.topics.create("lab.a", kind="latest", contract={"x": "f32[N]"})


def test_a_full_disk_refuses_what_would_be_kept_and_the_bus_goes_on() -> None:
    with Node() as node, sira.connect_sync(node.url) as bus:
        bus.config.set("app.before", 1)
        folder = node.data_dir / "data" / "tables"
        size = max(each.stat().st_size for each in folder.iterdir())
        # No file of the node may grow beyond that: for its journal a full disk (EFBIG).
        _, hard = resource.prlimit(node.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (size + 10, hard))
        with pytest.raises(sira.SiraError) as caught:
            bus.config.set("app.full", "x" * 1_000)
        assert caught.value.code == "STORAGE_FULL"
        agent = registry_pb2.RegisterRequest()
        agent.registrations.add(name="a", instance="1" * 32).capabilities.add(text="sort numbers")
        with grpc.insecure_channel(node.url.removeprefix("sira://")) as channel:
            stub = registry_pb2_grpc.RegistryStub(channel)
            (told,) = stub.Register(agent, timeout=60).results
            assert told.error.code == "STORAGE_FULL"
            with bus.subscribe("lab.on") as messages:
                assert bus.publish("lab.on", b"goes on").matched == 1
                assert messages.next(timeout_s=60).text == "goes on"
            assert bus.config.get("app.before") == 1
            assert bus.discover("sort numbers").no_match
            resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (hard, hard))
            bus.config.set("app.full", 2)
            (told,) = stub.Register(agent, timeout=60).results
            assert not told.error.code
        kill(node)
        with sira.connect_sync(node.url, timeout_s=60) as again:
            assert (again.config.get("app.before"), again.config.get("app.full")) == (1, 2)
            assert [each.name for each in again.agents()] == ["a"]
