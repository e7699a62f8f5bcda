"""Channel, flow and descriptors over a real socket pair, each with both ends at hand."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import random
import resource
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

import sira
from sira import _native
from sira.kernel.errors import ProtocolError, QuotaExceeded
from sira.kernel.local import descriptors, record
from sira.kernel.local.channel import Channel, Record
from sira.kernel.local.flow import Flow, FlowOver

WATCHDOG_S = 60.0


class End:
    """A channel, what it took, and how it ended."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.took: list[Record] = []
        self.passed: list[int] = []
        self.errors: list[sira.SiraError | None] = []
        self.changed = asyncio.Event()
        self.channel = Channel(sock, asyncio.get_running_loop(), taken=self._taken, lost=self._lost)

    def _taken(self, records: list[Record]) -> None:
        for each in records:
            if each[2]:
                try:
                    self.passed += self.channel.take_descriptors(each[2])
                except QuotaExceeded as error:
                    self.errors.append(error)
        self.took += records
        self.changed.set()

    def _lost(self, error: sira.SiraError | None) -> None:
        self.errors.append(error)
        self.changed.set()

    async def until(self, condition: Callable[[], Any]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()


def run(work: Callable[[End, End], Coroutine[Any, Any, None]]) -> None:
    async def guarded() -> None:
        ours, theirs = (End(each) for each in socket.socketpair())
        try:
            async with asyncio.timeout(WATCHDOG_S):
                await work(ours, theirs)
        finally:
            ours.channel.close()
            theirs.channel.close()
            for each in ours.passed + theirs.passed:
                os.close(each)

    asyncio.run(guarded())


def _descriptors() -> dict[str, str]:
    found = {}
    for each in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the folder's own
            found[each] = os.readlink(f"/proc/self/fd/{each}")
    return found


@pytest.fixture(autouse=True)
def no_descriptor_stays_open() -> Iterator[None]:
    gc.collect()  # what tests before this one have left does not go during it
    before = _descriptors()
    yield
    # Threads of tests before this one may still close theirs.
    assert not _descriptors().items() - before.items()


def test_all_that_is_sent_arrives_in_order_though_the_reader_begins_late() -> None:
    async def work(ours: End, theirs: End) -> None:
        rng = random.Random(1)
        wanted = []
        number = 0
        while not ours.channel.full:
            number += 1
            body = rng.randbytes(rng.choice((0, 10, 4_095, 4_097, 100_000)))
            ours.channel.send(record.MESSAGE, number, body)
            wanted.append((record.MESSAGE, number, 0, body))
        theirs.channel.begin()
        await ours.channel.drained()
        assert not ours.channel.full
        await theirs.until(lambda: len(theirs.took) == len(wanted))
        assert theirs.took == wanted and ours.channel.queued_bytes == 0

    run(work)


def test_who_closes_is_told_by_nobody_and_the_other_one_hears_all_that_was_said() -> None:
    async def work(ours: End, theirs: End) -> None:
        ours.channel.send(record.MESSAGE, 1, b"last words")
        ours.channel.close()
        ours.channel.send(record.MESSAGE, 2, b"too late")
        theirs.channel.begin()
        await theirs.until(lambda: theirs.errors)
        assert [each[3] for each in theirs.took] == [b"last words"]
        assert theirs.errors == [None] == ours.errors

    run(work)


def test_the_last_words_of_a_peer_that_takes_nothing_more_are_heard() -> None:
    async def work(ours: End, theirs: End) -> None:
        theirs.channel.send(record.MESSAGE, 1, b"why I go")
        theirs.channel.close()
        ours.channel.pause()
        for _ in range(3):
            ours.channel.send(record.MESSAGE, 1, b"")  # EPIPE
        await ours.until(lambda: ours.errors)
        assert [each[3] for each in ours.took] == [b"why I go"]

    run(work)


def test_a_record_that_cannot_be_read_ends_the_connection_and_says_why_on_both_sides() -> None:
    async def work(ours: End, theirs: End) -> None:
        theirs.channel.begin()
        ours.channel.begin()
        ours.sock.send(b"\xff" * 40)
        await theirs.until(lambda: theirs.errors)
        assert isinstance(theirs.errors[0], ProtocolError)
        await ours.until(lambda: ours.errors)
        kind, number, _, body = ours.took[0]
        assert (kind, number) == (record.STATUS, 0)
        assert "no known kind" in record.read_status(body).message

    run(work)


# ---- descriptors ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 253])
@pytest.mark.parametrize("behind", [False, True], ids=["at_once", "queued"])
def test_descriptors_come_with_their_record_both_ways(count: int, behind: bool) -> None:
    async def work(ours: End, theirs: End) -> None:
        for sender, receiver in ((ours, theirs), (theirs, ours)):
            files = [os.memfd_create(f"file {i}") for i in range(count)]
            for i, each in enumerate(files):
                os.write(each, str(i).encode())
            if behind:
                sender.channel.send(record.MESSAGE, 9, bytes(3 << 20))
            sender.channel.send_descriptors(record.MESSAGE, 1, b"take these", files)
            sender.channel.send(record.MESSAGE, 2, b"and none")
            for each in files:
                os.close(each)
            receiver.channel.begin()
            await receiver.until(lambda r=receiver: len(r.took) == 2 + behind)
            assert [each[2] for each in receiver.took] == [*[0] * behind, count, 0]
            assert [os.pread(each, 9, 0) for each in receiver.passed] == [
                str(i).encode() for i in range(count)
            ]
            assert not any(os.get_inheritable(each) for each in receiver.passed)

    run(work)


def test_more_descriptors_than_one_call_carries_are_refused_here() -> None:
    async def work(ours: End, theirs: End) -> None:
        with pytest.raises(sira.BadRequest, match="254"):
            ours.channel.send_descriptors(record.MESSAGE, 1, b"", [0] * 254)
        with pytest.raises(OSError, match="descriptor"):
            ours.channel.send_descriptors(record.MESSAGE, 1, b"", [1 << 20])
        theirs.channel.begin()
        ours.channel.send(record.MESSAGE, 2, b"works still")
        await theirs.until(lambda: theirs.took)
        assert theirs.took[0][3] == b"works still"

    run(work)


def test_descriptors_that_no_record_takes_end_the_connection_and_are_closed() -> None:
    async def work(ours: End, theirs: End) -> None:
        theirs.channel.begin()
        for _ in range(2):  # half a head: no record is ever whole
            descriptors.send(ours.sock, [b"\x00"], [0] * 200)
        await theirs.until(lambda: theirs.errors)
        assert isinstance(theirs.errors[0], ProtocolError)

    run(work)


def test_announced_descriptors_that_did_not_come_are_a_typed_error() -> None:
    async def work(ours: End, theirs: End) -> None:
        theirs.channel.begin()
        ours.sock.send(record.head(record.MESSAGE, 1, 0, 3))
        await theirs.until(lambda: theirs.errors)
        assert isinstance(theirs.errors[0], ProtocolError)

    run(work)


def test_at_the_limit_of_open_files_the_record_fails_and_the_connection_lives() -> None:
    async def work(ours: End, theirs: End) -> None:
        theirs.channel.begin()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken = {int(each) for each in os.listdir("/proc/self/fd")}
        free = (number for number in itertools.count() if number not in taken)
        room_for_ten = next(itertools.islice(free, 10, None))
        ours.channel.send_descriptors(record.MESSAGE, 1, b"lost", [0] * 100)
        resource.setrlimit(resource.RLIMIT_NOFILE, (room_for_ten, hard))
        try:
            await theirs.until(lambda: theirs.took)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert isinstance(theirs.errors[0], QuotaExceeded)
        ours.channel.send_descriptors(record.MESSAGE, 2, b"fine", [0, 0])
        await theirs.until(lambda: len(theirs.took) == 2)
        assert len(theirs.passed) == 2 and len(theirs.errors) == 1

    run(work)


# ---- flows ---------------------------------------------------------------------------------------


def test_a_writer_waits_for_its_window_and_no_other_flow_does() -> None:
    async def work(ours: End, theirs: End) -> None:
        loop = asyncio.get_running_loop()
        writer = Flow(ours.channel, loop, 1, out_bytes=1_000, in_bytes=1_000)
        other = Flow(ours.channel, loop, 2, out_bytes=1_000, in_bytes=1_000)
        reader = Flow(theirs.channel, loop, 1, out_bytes=1_000, in_bytes=1_000)
        theirs.channel.begin()
        await writer.write(b"x" * 900)
        await writer.write(b"y" * 5_000)  # longer than the window: goes while it is open at all
        blocked = asyncio.ensure_future(writer.write(b"z"))
        await other.write(b"past it")
        await theirs.until(lambda: len(theirs.took) == 3)
        assert not blocked.done()
        for _, number, _, body in theirs.took:
            if number == 1:
                reader.arrived(body)
        with pytest.raises(ProtocolError, match="window"):
            reader.arrived(b"forged")
        assert (await reader.read(), await reader.read()) == (b"x" * 900, b"y" * 5_000)
        ours.channel.begin()
        await ours.until(lambda: len(ours.took) == 2)
        for kind, _, _, body in ours.took:
            assert kind == record.WINDOW
            writer.granted(record.read_grant(body))
        await blocked

    run(work)


def test_what_came_before_the_end_of_a_call_is_read_and_nothing_is_written_after_it() -> None:
    async def work(ours: End, theirs: End) -> None:
        loop = asyncio.get_running_loop()
        flow = Flow(ours.channel, loop, 1, out_bytes=1, in_bytes=1_000)
        flow.arrived(b"one")
        await flow.write(b"fills the window")
        blocked = asyncio.ensure_future(flow.write(b"never"))
        await asyncio.sleep(0)
        flow.end()
        with pytest.raises(FlowOver):
            await blocked
        assert (await flow.read(), await flow.read()) == (b"one", None)
        with pytest.raises(ProtocolError, match="last"):
            flow.arrived(b"two")
        del theirs

    run(work)


def test_the_reader_of_an_idle_channel_holds_no_buffer() -> None:
    reader = _native.RecordReader(1 << 20)
    before = reader.room
    with memoryview(reader) as view:
        view[:16] = record.head(record.CANCEL, 1, 0)
    assert reader.feed(16) == [(record.CANCEL, 1, 0, b"")]
    assert (reader.partial, reader.room) == (False, before)
