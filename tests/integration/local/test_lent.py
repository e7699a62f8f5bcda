"""Large tensors between clients of one host: the same memory, for as long as somebody looks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import sira
import sira.testing
from sira.client.local.arenas import IDLE_NS, WARM_BYTES

from .raw import run, running, until, url_of

pytestmark = pytest.mark.integration
MIB = 1 << 20
_RNG_BYTES = np.random.default_rng(7).integers(0, 256, MIB, np.uint8)


def image(size_bytes: int, seed: int = 0) -> NDArray[np.uint8]:
    """Bytes that repeat after a MiB, but differ by seed."""
    return np.resize(_RNG_BYTES ^ np.uint8(seed), size_bytes)


def mapping(array: NDArray[Any]) -> tuple[str, str, int] | None:
    """Where an array lies: rights and inode of its memfd, and offset there; None: in none."""
    address = array.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        area, rights, offset, _, inode, *path = line.split()
        begin, end = (int(each, 16) for each in area.split("-"))
        if begin <= address < end and path and path[0].startswith("/memfd:"):
            return rights, inode, int(offset, 16) + address - begin
    return None


def lent_bytes(bus: sira.Bus) -> int:
    return bus.connection.lender.arenas.lent_bytes


# ---- the same memory -----------------------------------------------------------------------------


def test_a_tensor_is_read_where_it_was_written_and_by_all(node: sira.testing.Node) -> None:
    async def work() -> None:
        sent = image(64 * MIB)
        async with (
            sira.connect(node.socket_url) as bus,
            sira.connect(node.socket_url) as one,
            sira.connect(node.socket_url) as two,
            sira.connect(node.url) as far,
            one.subscribe("same.x") as ones,
            two.subscribe("same.*") as twos,
            far.subscribe("same.x") as fars,
        ):
            receipt = await bus.publish("same.x", {"x": sent})
            assert (receipt.lanes, receipt.copies, receipt.matched) == (["shm"], 1, 3)
            got = [await each.next(timeout_s=60) for each in (ones, twos, fars)]
            for message in got:
                np.testing.assert_array_equal(message["x"], sent)
                assert not message["x"].flags.writeable
            first, second, copied = (mapping(message["x"]) for message in got)
            assert first is not None and second is not None and copied is None
            assert first[1:] == second[1:] and (first[0], second[0]) == ("r--s", "r--s")

    run(work)


def test_a_loan_is_read_where_it_was_written_without_a_copy(node: sira.testing.Node) -> None:
    async def work() -> None:
        async with (
            sira.connect(node.socket_url) as bus,
            sira.connect(node.socket_url) as other,
            other.subscribe("loan.x") as messages,
        ):
            async with bus.loan("loan.x", {"x": "f32[1024,3]", "n": "i8", "no": "u8[0]"}) as out:
                assert out["x"].shape == (1024, 3) and list(out) == ["x", "n", "no"]
                out["x"][:] = 3
                out["n"][...] = -7
            assert out.receipt is not None
            assert (out.receipt.lanes, out.receipt.copies) == (["shm"], 0)
            message = await messages.next(timeout_s=60)
            assert (message["x"] == 3).all() and message["n"] == -7 and message["no"].size == 0
            written, read = mapping(out["x"]), mapping(message["x"])
            assert written is not None and read is not None and written[1:] == read[1:]
            with pytest.raises(ValueError, match="read-only"):
                out["x"][0] = 4
            with pytest.raises(ZeroDivisionError):
                async with bus.loan("loan.x", {"x": "u8[8]"}):
                    raise ZeroDivisionError
            await bus.publish("loan.x", b"last")
            assert (await messages.next(timeout_s=60)).bytes == b"last", "nothing was sent"

    run(work)


@pytest.mark.parametrize("way", ["socket_url", "url"])
def test_a_loan_may_be_a_request_on_any_lane(node: sira.testing.Node, way: str) -> None:
    with (
        sira.Agent("adder", topic=f"loan.{way}.add", handler=_add, url=node.socket_url),
        sira.connect_sync(getattr(node, way)) as bus,
    ):
        with bus.loan(f"loan.{way}.add", {"x": "f32[1024]"}, request=True) as out:
            out["x"][:] = 1
        assert (out.reply(timeout_s=60)["y"] == 2).all()
        with bus.loan(f"loan.{way}.quiet", {"x": "f32[2]"}) as out:
            out["x"][:] = 1
        assert out.receipt is not None and out.receipt.copies == (way == "url")
        with pytest.raises(sira.BadRequest):
            out.reply()


def _add(x: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    return {"y": x + 1}


@pytest.mark.parametrize("spec", ["f31[2]", "f32[2", "f32[a]", "f32[,]", "f32[-1]", "i4[8]", ""])
def test_a_loan_of_what_is_no_array_is_refused(node: sira.testing.Node, spec: str) -> None:
    with sira.connect_sync(node.socket_url) as bus, pytest.raises(sira.BadRequest):
        bus.loan("loan.x", {"x": spec})


def test_requests_and_replies_go_by_reference_both_ways(node: sira.testing.Node) -> None:
    async def work() -> None:
        shared: list[bool] = []

        async def flip(x: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
            shared.append(mapping(x) is not None)
            return {"y": 255 - x}

        x = image(4 * MIB)
        async with (
            sira.Agent("flipper", topic="lent.flip", handler=flip, url=node.socket_url),
            sira.connect(node.socket_url) as bus,
            sira.connect(node.url) as far,
        ):
            for _ in range(5):
                reply = await bus.request("lent.flip", {"x": x}, timeout_s=60)
                np.testing.assert_array_equal(reply["y"], 255 - x)
                assert mapping(reply["y"]) is not None
            reply = await far.request("lent.flip", {"x": x[:MIB]}, timeout_s=60)
            np.testing.assert_array_equal(reply["y"], 255 - x[:MIB])
            assert mapping(reply["y"]) is None
        assert shared == [True] * 5 + [False]

    run(work)


def test_torch_and_numpy_take_it_over_dlpack_without_a_copy(node: sira.testing.Node) -> None:
    async def work() -> None:
        async with (
            sira.connect(node.socket_url) as bus,
            bus.subscribe("lent.dlpack") as messages,
        ):
            await bus.publish("lent.dlpack", {"x": image(MIB)})
            message = await messages.next(timeout_s=60)
            wanted = message["x"].__array_interface__["data"][0]
            array = np.from_dlpack(message["x"])
            assert array.__array_interface__["data"][0] == wanted
            torch = pytest.importorskip("torch")
            assert torch.from_dlpack(message["x"].dlpack()).data_ptr() == wanted

    run(work)


# ---- for as long as somebody looks ---------------------------------------------------------------

PUBLISH_AND_WAIT = """
import sys, time
import numpy as np
import sira
with sira.connect_sync(sys.argv[1]) as bus:
    bytes_ = np.random.default_rng(5).integers(0, 256, 8 << 20, np.uint8)
    receipt = bus.publish("dead.x", {"x": bytes_})
    print(*receipt.lanes, flush=True)
    time.sleep(600)
"""


def test_a_view_outlives_its_message_its_bus_and_its_publisher(node: sira.testing.Node) -> None:
    async def work() -> None:
        async with (
            sira.connect(node.socket_url) as bus,
            bus.subscribe("dead.x") as messages,
        ):
            publisher = await asyncio.create_subprocess_exec(
                sys.executable, "-c", PUBLISH_AND_WAIT, node.socket_url, stdout=subprocess.PIPE
            )
            try:
                view = (await messages.next(timeout_s=60))["x"]
                assert publisher.stdout is not None
                assert await publisher.stdout.readline() == b"shm\n"
            finally:
                publisher.kill()
                await publisher.wait()
        assert mapping(view) is not None
        wanted = np.random.default_rng(5).integers(0, 256, 8 << 20, np.uint8)
        np.testing.assert_array_equal(view, wanted)

    run(work)


def test_what_a_slow_reader_keeps_is_not_overwritten_and_all_comes_back_after_it(
    node: sira.testing.Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIRA_SHM_BYTES_MAX", str(16 * MIB))

    async def work() -> None:
        async with (
            sira.connect(node.socket_url) as bus,
            sira.connect(node.socket_url) as other,
            other.subscribe("slow.x") as messages,
        ):
            kept: list[NDArray[Any]] = []
            lanes: set[str] = set()
            for number in range(160):  # ten times what the publisher lends
                receipt = await bus.publish("slow.x", {"x": image(MIB, number)})
                lanes.update(receipt.lanes)
                message = await messages.next(timeout_s=60)
                if number % 8 == 0:
                    kept.append(message["x"])
            assert lanes == {"shm", "socket"}, "when all is lent, it is copied"
            for number, view in enumerate(kept):
                np.testing.assert_array_equal(view, image(MIB, 8 * number))
            assert lent_bytes(bus) == 16 * MIB - MIB or lent_bytes(bus) <= 16 * MIB
            del message, view
            kept.clear()
            await until(lambda: not lent_bytes(bus))
            receipt = await bus.publish("slow.x", {"x": image(MIB)})
            assert receipt.lanes == ["shm"]
            del receipt
            await messages.next(timeout_s=60)
            await until(lambda: not lent_bytes(bus))
            arenas = bus.connection.lender.arenas
            arenas.tend((1 << 62) + IDLE_NS)
            assert arenas.segment_bytes <= WARM_BYTES

            while (await bus.stats()).values["lent_leases"]:  # noqa: ASYNC110  others' doing
                await asyncio.sleep(0.01)

    run(work)


@pytest.mark.parametrize("overflow", ["block", "latest"])
def test_members_of_a_group_and_the_newest_only(node: sira.testing.Node, overflow: str) -> None:
    async def work() -> None:
        topic, count = f"group.{overflow}", 40
        async with (
            sira.connect(node.socket_url) as bus,
            sira.connect(node.socket_url) as one,
            sira.connect(node.url) as two,
            one.subscribe(topic, group="g", overflow=overflow) as ones,
            two.subscribe(topic, group="g", overflow=overflow) as twos,
        ):
            async with bus.publisher(topic) as publisher:
                for number in range(count):
                    await publisher.send({"n": number, "x": image(128 << 10, number)})
            row = (await bus.ledger(topic))[topic]
            while row.pending:
                for each in (ones, twos):
                    while each.depth:
                        message = await each.next(timeout_s=60)
                        np.testing.assert_array_equal(
                            message["x"], image(128 << 10, int(message["n"]))
                        )
                        del message
                await asyncio.sleep(0.01)
                row = (await bus.ledger(topic))[topic]
            assert (row.owed, row.balanced) == (count, True)
            assert row.delivered == count or overflow == "latest"
            await until(lambda: not lent_bytes(bus))

    run(work)


def test_a_latest_topic_gives_its_last_message_by_reference_to_who_comes_later(
    tmp_path: Path,
) -> None:
    async def work() -> None:
        async with running(tmp_path, drain_s=3_600) as node:
            async with sira.connect(url_of(node)) as bus:
                await bus.topics.create("kept.x", kind="latest")
                for number in range(3):
                    await bus.publish("kept.x", {"x": image(MIB, number)})
                async with bus.subscribe("kept.x") as messages:
                    view = (await messages.next(timeout_s=60))["x"]
                    np.testing.assert_array_equal(view, image(MIB, 2))
                    assert mapping(view) is not None
            async with (
                sira.connect(f"sira://{node.address}") as far,
                far.subscribe("kept.x") as messages,
            ):
                message = await messages.next(timeout_s=60)
                np.testing.assert_array_equal(message["x"], image(MIB, 2))
            await node.stop()  # what it only keeps holds up nothing

    run(work)


# ---- what fails, and who shares none -------------------------------------------------------------


def test_a_node_that_is_killed_under_flow_loses_what_it_had_and_spoils_nothing() -> None:
    with sira.testing.node() as node:

        async def work() -> None:
            stop = asyncio.Event()
            lanes: list[str] = []

            async def publish(bus: sira.Bus) -> None:
                number = 0
                while not stop.is_set():
                    number = (number + 1) % 256
                    body = {"n": number, "x": image(MIB, number)}
                    with contextlib.suppress(sira.OutcomeUnknown):  # what the dead node had
                        lanes.extend((await bus.publish("flow.x", body, timeout_s=30)).lanes)

            async with (
                sira.connect(node.socket_url) as bus,
                sira.connect(node.socket_url) as other,
                other.subscribe("flow.x", window_messages=8) as messages,
            ):
                kept: list[sira.Message] = []
                flow = asyncio.create_task(publish(bus))
                for life in range(3):
                    before = messages.reconnects
                    for _ in range(20):
                        kept.append(await messages.next(timeout_s=60))
                    if life < 2:
                        await asyncio.to_thread(node.kill)
                        await asyncio.to_thread(node.start)
                        await until(lambda before=before: messages.reconnects > before)
                        lanes.clear()
                stop.set()
                await flow
                for message in kept:
                    np.testing.assert_array_equal(message["x"], image(MIB, int(message["n"])))
                assert "shm" in lanes, "it lends to the new node as to the old one"
                del message
                kept.clear()

        run(work)


def test_threads_publish_by_reference_through_the_sync_twin(node: sira.testing.Node) -> None:
    counts = [30, 30, 30]
    with (
        sira.connect_sync(node.socket_url) as bus,
        sira.connect_sync(node.socket_url) as other,
        other.subscribe("sync.x") as messages,
    ):

        def send(first: int, count: int) -> None:
            with bus.publisher("sync.x") as publisher:
                for number in range(first, first + count):
                    publisher.send({"n": number, "x": image(MIB, number)})

        threads = [
            threading.Thread(target=send, args=(100 * at, count)) for at, count in enumerate(counts)
        ]
        for thread in threads:
            thread.start()
        shared = 0
        for _ in range(sum(counts)):
            message = messages.next(timeout_s=60)
            np.testing.assert_array_equal(message["x"], image(MIB, int(message["n"])))
            shared += mapping(message["x"]) is not None
        for thread in threads:
            thread.join()
        assert 0 < shared <= sum(counts)


@pytest.mark.parametrize("who", ["publisher", "subscriber"])
def test_who_shares_no_memory_talks_to_who_does(
    node: sira.testing.Node, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    async def work() -> None:
        monkeypatch.setenv("SIRA_SHM", "off" if who == "publisher" else "on")
        async with sira.connect(node.socket_url) as bus:
            monkeypatch.setenv("SIRA_SHM", "off" if who == "subscriber" else "on")
            async with sira.connect(node.socket_url) as other, other.subscribe("off.x") as messages:
                receipt = await bus.publish("off.x", {"x": image(4 * MIB)})
                assert receipt.lanes == (["socket"] if who == "publisher" else ["shm"])
                message = await messages.next(timeout_s=60)
                np.testing.assert_array_equal(message["x"], image(4 * MIB))
                assert mapping(message["x"]) is None
                async with bus.loan("off.x", {"x": "u8[8]"}) as out:
                    out["x"][:] = 9
                assert (await messages.next(timeout_s=60))["x"].tolist() == [9] * 8

    run(work)


NO_MORE_FILES = """
import os, resource, sys
import numpy as np
import sira
with sira.connect_sync(sys.argv[1]) as bus, bus.subscribe("files.x") as messages:
    x = np.arange(1 << 20, dtype=np.uint8)
    bus.publish("files.first", {"x": x[:10]})
    top = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    receipt = bus.publish("files.x", {"x": x})
    assert (messages.next(timeout_s=60)["x"] == x).all()
    print(*receipt.lanes)
"""


def test_who_may_open_no_more_files_copies(node: sira.testing.Node) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_MORE_FILES, node.socket_url],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "socket"), done.stderr


NO_FILE_FOR_A_SEGMENT = """
import os, resource, sys
import sira
with sira.connect_sync(sys.argv[1]) as bus, bus.subscribe("full.x") as messages:
    top = max(int(name) for name in os.listdir("/proc/self/fd"))
    for number in range(top):
        try:
            os.fstat(number)
        except OSError:
            os.open("/dev/null", os.O_RDONLY)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (top + 1, hard))
    print("ready", flush=True)
    print(int(messages.next(timeout_s=60)["x"][5]), messages.reconnects > 0, flush=True)
"""


def test_a_subscriber_that_may_open_no_more_files_comes_back_and_is_sent_copies(
    node: sira.testing.Node,
) -> None:
    async def work() -> None:
        reader = await asyncio.create_subprocess_exec(
            sys.executable, "-c", NO_FILE_FOR_A_SEGMENT, node.socket_url, stdout=subprocess.PIPE
        )
        try:
            assert reader.stdout is not None
            assert await reader.stdout.readline() == b"ready\n"
            said = asyncio.create_task(reader.stdout.readline())
            async with sira.connect(node.socket_url) as bus:
                while not said.done():
                    await bus.publish("full.x", {"x": np.full(MIB, 7, np.uint8)})
                    await asyncio.sleep(0.05)
            assert await said == b"7 True\n"
        finally:
            if reader.returncode is None:
                reader.kill()
            await reader.wait()

    run(work)


def test_a_forked_child_reads_what_its_parent_has_and_gives_nothing_back(
    node: sira.testing.Node,
) -> None:
    with (
        sira.connect_sync(node.socket_url) as bus,
        bus.subscribe("fork.x") as messages,
    ):
        bus.publish("fork.x", {"x": image(MIB, 3)})
        message = messages.next(timeout_s=60)
        child = os.fork()
        if not child:
            same = (message["x"] == image(MIB, 3)).all()
            del message
            os._exit(0 if same else 1)
        assert os.waitpid(child, 0)[1] == 0
        for number in range(5):
            bus.publish("fork.x", {"x": image(MIB, 200 + number)})
            messages.next(timeout_s=60)
        np.testing.assert_array_equal(message["x"], image(MIB, 3))
