"""What clients that lend or borrow memory may do wrong ends their message or connection alone."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import resource
from pathlib import Path

import pytest

from sira.kernel.local import record
from sira.kernel.node import Node
from sira.v1 import bus_pb2

from .lenders import ALL_SEALS, PIECE, SIZES, Memory, lending, on_node, pair, read
from .raw import until

pytestmark = pytest.mark.integration
OTHER = "default/agent/other"


# ---- what a publisher does wrong -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ("pipe", "LINK_CORRUPT"), ("file", "LINK_CORRUPT"), ("growing", "LINK_CORRUPT"),
        ("writable", "LINK_CORRUPT"), ("shorter", "LINK_CORRUPT"), ("longer", "LINK_CORRUPT"),
        ("twice", "PROTOCOL_ERROR"), ("none beside", "PROTOCOL_ERROR"),
        ("two beside", "PROTOCOL_ERROR"), ("number 0", "PROTOCOL_ERROR"),
        ("no bytes", "PROTOCOL_ERROR"), ("a pattern", "PROTOCOL_ERROR"),
        ("no audience", "PROTOCOL_ERROR"), ("never lent", "PROTOCOL_ERROR"),
        ("gone, never brought", "PROTOCOL_ERROR"), ("a stop", "PROTOCOL_ERROR"),
    ],
)  # fmt: skip
def test_a_segment_that_is_none_ends_its_connection_alone(
    tmp_path: Path, wrong: str, code: str
) -> None:
    async def work(node: Node) -> None:
        seals = {"growing": fcntl.F_SEAL_SHRINK, "writable": SIZES}.get(wrong, ALL_SEALS)
        (tmp_path / "f").write_bytes(bytes(1 << 20))
        with Memory(seals=seals) as memory, (tmp_path / "f").open("rb") as file:
            out, into = os.pipe()
            fds = {
                "pipe": [out], "file": [file.fileno()], "none beside": [],
                "two beside": [memory.fd, memory.fd],
            }.get(wrong, [memory.fd])  # fmt: skip
            size = {"shorter": memory.size - 1, "longer": memory.size + 1, "no bytes": 0}
            audience = {"a pattern": "cam.*", "no audience": ""}.get(wrong, "cam.front")
            async with (
                lending(node, lends=wrong != "never lent") as hostile, lending(node) as calm,
                lending(node) as reader,
            ):  # fmt: skip
                if wrong == "gone, never brought":
                    hostile.channel.send(record.GONE, 0, record.segments([1]))
                elif wrong == "a stop":
                    hostile.channel.send(record.STOP, 0, record.segments([1]))
                else:
                    for _ in range(2 if wrong == "twice" else 1):
                        number = 0 if wrong == "number 0" else 1
                        hostile.bring(number, fds, size.get(wrong, memory.size), audience)
                assert await hostile.refused() == code
                with Memory() as good:
                    call = await pair(calm, reader, good)
                    calm.publish(call, 1, 1)
                    assert (await reader.chunks(1))[0].HasField("lent")
            os.close(out)
            os.close(into)

    on_node(tmp_path, work)


def test_a_chunk_that_may_not_name_its_bytes_is_refused_alone_and_its_lease_comes_back(
    tmp_path: Path,
) -> None:
    async def work(node: Node) -> None:
        with Memory() as memory, Memory() as others:
            async with (
                lending(node) as publisher, lending(node) as other, lending(node) as reader,
            ):  # fmt: skip
                call = await pair(publisher, reader, memory)
                other.bring(5, [others.fd], others.size)
                await until(lambda: node.lent.held.segments == 2)
                wrong = [
                    (dict(segment=5), "PROTOCOL_ERROR"),  # of somebody else
                    (dict(segment=2), "PROTOCOL_ERROR"),  # the node's name for somebody else's
                    (dict(offset=memory.size - PIECE + 1), "FRAME_CORRUPT"),
                    (dict(offset=(1 << 64) - PIECE), "FRAME_CORRUPT"),
                    (dict(size=PIECE + 1), "FRAME_CORRUPT"),  # more than the tensor has
                    (dict(topic="cam.back"), "DENIED"),  # the segment is for another topic
                ]
                for lease, (fields, _) in enumerate(wrong, 1):
                    publisher.publish(call, **({"segment": 1, "lease": lease} | fields))  # type: ignore[arg-type]
                receipts = await publisher.receipts(len(wrong))
                by_id = [each.error.code for each in receipts]
                assert by_id == [code for _, code in wrong]
                await until(lambda: sorted(publisher.returned) == list(range(1, len(wrong) + 1)))
                assert not reader.shown and not reader.over
                publisher.publish(call, 1, 77)
                await reader.chunks(1)
                publisher.publish(call, 1, 77)  # that lease is out
                assert (await publisher.receipts(len(wrong) + 2))[-1].error.code == "PROTOCOL_ERROR"
                publisher.publish(call, 1, 78)
                assert len(await reader.chunks(2)) == 2
                assert 77 not in publisher.returned

    on_node(tmp_path, work)


def test_past_a_limit_a_segment_is_stopped_and_past_twice_refused(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        memories = [Memory() for _ in range(5)]
        async with lending(node) as publisher, lending(node) as reader:
            reader.subscribe()
            await reader.opened()
            call = publisher.call("Publish")
            for number, memory in enumerate(memories, 1):
                publisher.bring(number, [memory.fd], memory.size)
                publisher.publish(call, number, number)
            receipts = await publisher.receipts(5)
            assert [each.error.code for each in receipts] == [""] * 4 + ["QUOTA_EXCEEDED"]
            chunks = await reader.chunks(4)
            # What is past the limit is shown to nobody, and arrives all the same.
            assert [each.HasField("lent") for each in chunks] == [True, True, False, False]
            await until(lambda: publisher.stopped == [3, 4, 5])
            assert node.lent.held.segments == 4 and node.lent.refused == 1
            await until(lambda: {3, 4, 5} <= set(publisher.returned))
            publisher.channel.send(record.GONE, 0, record.segments([3, 4, 5]))
            await until(lambda: node.lent.held.segments == 2)
            reader.give_back(*(each.lent.lease for each in chunks[:2]))
            publisher.channel.send(record.GONE, 0, record.segments([1, 2]))
            await until(lambda: not node.lent.held.segments)
            publisher.bring(6, [memories[0].fd], memories[0].size)
            publisher.publish(call, 6, 6)
            assert (await reader.chunks(5))[4].HasField("lent")
            assert publisher.stopped == [3, 4, 5]
        for memory in memories:
            memory.close()

    on_node(tmp_path, work, lent_segments_max=2)


@pytest.mark.parametrize(
    ("limits", "stopped"),
    [({"lent_bytes_max": 1 << 19}, ([2], [])), ({"lent_bytes_node_max": 1 << 20}, ([], [3]))],
)
def test_bytes_lent_are_bounded_of_one_and_of_all(
    tmp_path: Path, limits: dict[str, object], stopped: tuple[list[int], list[int]]
) -> None:
    async def work(node: Node) -> None:
        with Memory(1 << 19) as memory:
            async with lending(node) as one, lending(node) as two:
                for number, peer in enumerate((one, one, two), 1):
                    peer.bring(number, [memory.fd], memory.size)
                    await until(lambda number=number: node.lent.held.segments == number)
                await until(lambda: (one.stopped, two.stopped) == stopped)
                assert node.lent.held.bytes == 3 << 19 and not node.lent.refused

    on_node(tmp_path, work, **limits)


def test_a_node_that_lends_nothing_says_so_and_takes_none(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        with Memory() as memory:
            async with lending(node) as publisher:
                publisher.bring(1, [memory.fd], memory.size)
                assert await publisher.refused() == "PROTOCOL_ERROR"

    on_node(tmp_path, work, lent_segments_max=0)


def test_a_segment_whose_descriptor_is_lost_is_stopped_and_the_connection_lives(
    tmp_path: Path,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def work(node: Node) -> None:
        with Memory() as memory:
            async with lending(node) as publisher:
                call = publisher.call("Publish")
                await until(lambda: len(node.local) == 1 and len(node.links) == 1)
                most = max(int(each) for each in os.listdir("/proc/self/fd")) + 1
                held = []
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
                try:
                    while True:
                        held.append(os.dup(0))
                except OSError:
                    pass
                publisher.bring(1, [memory.fd], memory.size)
                await until(lambda: publisher.stopped == [1])
                for number in held:
                    os.close(number)
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                publisher.publish(call, 1, 1)
                assert (await publisher.receipts(1))[0].error.code == "QUOTA_EXCEEDED"
                publisher.bring(2, [memory.fd], memory.size)
                publisher.publish(call, 2, 2)
                assert not (await publisher.receipts(2))[1].HasField("error")

    try:
        on_node(tmp_path, work)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# ---- what a subscriber does wrong ----------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["unknown", "twice", "of another", "zero"])
def test_a_lease_that_is_not_out_ends_its_connection_alone(tmp_path: Path, wrong: str) -> None:
    async def work(node: Node) -> None:
        with Memory() as memory:
            async with (
                lending(node) as publisher, lending(node) as hostile, lending(node) as calm,
            ):  # fmt: skip
                calm.subscribe()
                await calm.opened()
                call = await pair(publisher, hostile, memory)
                for lease in range(1, 4):
                    publisher.publish(call, 1, lease)
                mine, theirs = await hostile.chunks(3), await calm.chunks(3)
                calm.give_back(theirs[0].lent.lease)
                if wrong == "twice":
                    hostile.give_back(mine[0].lent.lease, mine[0].lent.lease)
                elif wrong == "of another":
                    hostile.give_back(mine[0].lent.lease, max(e.lent.lease for e in theirs) + 1)
                else:
                    hostile.give_back({"unknown": 1 << 63, "zero": 0}[wrong])
                assert await hostile.refused() == "PROTOCOL_ERROR"
                await until(lambda: publisher.returned == [1])
                assert not calm.over and read(calm, theirs[1]) == bytes(PIECE)

    on_node(tmp_path, work)


def test_who_never_gives_back_holds_only_what_it_was_sent_and_until_it_is_gone(
    tmp_path: Path,
) -> None:
    async def work(node: Node) -> None:
        with Memory() as memory, Memory() as back:
            async with lending(node) as publisher, lending(node) as calm:
                calm.subscribe()
                await calm.opened()
                async with lending(node) as keeps:
                    call = await pair(publisher, keeps, memory)
                    publisher.bring(2, [back.fd], back.size, "cam.back")
                    for lease in (1, 2, 3):
                        publisher.publish(call, 1, lease)
                    await keeps.chunks(3)
                    for chunk in await calm.chunks(3):
                        calm.give_back(chunk.lent.lease)
                    for lease in range(10, 20):  # others go on as ever
                        publisher.publish(call, 2, lease, topic="cam.back")
                        calm.give_back((await calm.chunks(lease - 6))[-1].lent.lease)
                    assert not {1, 2, 3} & set(publisher.returned) and not publisher.stopped
                await until(lambda: {1, 2, 3} <= set(publisher.returned))
                await until(lambda: sorted(publisher.stopped) == [1, 2])

    on_node(tmp_path, work)


def test_a_subscriber_cannot_write_into_what_it_was_shown(tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        with Memory() as memory:
            async with lending(node) as publisher, lending(node) as hostile:
                call = await pair(publisher, hostile, memory)
                publisher.publish(call, 1, 1)
                await hostile.chunks(1)
                ((fd, size),) = hostile.shown.values()
                with pytest.raises(PermissionError):
                    mmap.mmap(fd, size)
                with pytest.raises(PermissionError):
                    os.pwrite(fd, b"x", 0)
                for other in (0, size // 2, size * 2):
                    with pytest.raises(PermissionError):
                        os.ftruncate(fd, other)
                with pytest.raises(PermissionError):
                    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
                again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
                with pytest.raises(PermissionError):
                    mmap.mmap(again, size)
                with pytest.raises(PermissionError):
                    os.write(again, b"x")
                os.close(again)
                libc = ctypes.CDLL(None, use_errno=True)
                libc.mmap.restype = ctypes.c_void_p
                where = libc.mmap(None, ctypes.c_size_t(size), 1, mmap.MAP_SHARED, fd, 0)
                assert where not in (None, ctypes.c_void_p(-1).value)
                there, length = ctypes.c_void_p(where), ctypes.c_size_t(size)
                assert libc.mprotect(there, length, mmap.PROT_READ | mmap.PROT_WRITE) == -1
                assert ctypes.get_errno() == errno.EACCES
                libc.munmap(there, length)

    on_node(tmp_path, work)


def test_leases_in_a_frame_that_never_left_come_back(tmp_path: Path) -> None:
    """The window is shut when its stream is cancelled: what waited to be written never goes."""

    async def work(node: Node) -> None:
        with Memory() as memory:
            opened = bus_pb2.Item(opened=bus_pb2.Opened(subscription=1))
            told_bytes = bus_pb2.Frame(items=[opened]).ByteSize()
            async with (
                lending(node) as publisher, lending(node, window_bytes=told_bytes + 1) as slow,
            ):  # fmt: skip
                slow.reads = False
                number = slow.subscribe()
                publisher.bring(1, [memory.fd], memory.size)
                call = publisher.call("Publish")
                await slow.opened()  # there is room for one frame more: the head's
                publisher.publish(call, 1, 1)
                await publisher.receipts(1)
                await until(lambda: slow.shown and slow.items[-1].HasField("head"))
                assert node.lent.leases == 1
                slow.channel.send(record.CANCEL, number)
                await until(lambda: publisher.returned == [1])
                assert not slow.over

    on_node(tmp_path, work)
