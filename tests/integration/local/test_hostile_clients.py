"""What a local client may do wrong ends its call or its connection by name, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import resource
import struct
from pathlib import Path

import pytest

import sira
from sira.kernel.local import descriptors, record
from sira.kernel.node import Node
from sira.v1 import bus_pb2, kernel_pb2, message_pb2

from .raw import Raw, code_of, run, running, said, until, url_of

pytestmark = pytest.mark.integration
NEGOTIATE, STATS = "/sira.v1.Kernel/Negotiate", "/sira.v1.Kernel/Stats"
EMPTY = b""


async def works(node: Node) -> None:
    """Somebody else's connection: all is as ever."""
    async with sira.connect(url_of(node)) as bus, bus.subscribe("calm.>") as messages:
        assert (await bus.publish("calm.a", b"x")).matched == 1
        assert (await messages.next(timeout_s=60)).bytes == b"x"
        assert (await bus.ledger()).balanced


def head(size: int, call: int, kind: int, descriptors: int = 0, flags: int = 0) -> bytes:
    return struct.pack("<IIBBHI", size, call, kind, descriptors, flags, 0)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "PROTOCOL_ERROR"),
        (head((1 << 32) - 1, 1, record.CALL), "PROTOCOL_ERROR"),
        (head(record.BODY_BYTES_MAX + 1, 1, record.MESSAGE), "PROTOCOL_ERROR"),
        (head(0, 0, record.CALL), "PROTOCOL_ERROR"),
        (head(0, 1, record.CALL, flags=1), "PROTOCOL_ERROR"),
        (head(0, 1, record.CALL, 254), "PROTOCOL_ERROR"),
        (head(0, 1, record.MESSAGE, 9), "PROTOCOL_ERROR"),  # nine descriptors that never come
        (head(0, 1, record.MESSAGE), "PROTOCOL_ERROR"),  # a call that nobody began
        (head(4, 7, record.WINDOW) + bytes(4), "PROTOCOL_ERROR"),
        (head(3, 1, record.CALL) + b"\xff\xff\xff", "PROTOCOL_ERROR"),
        (head(20_000, 1, record.CALL) + bytes(20_000), "PROTOCOL_ERROR"),
        (head(0, 0, record.HELLO), "UNSUPPORTED"),
    ],
)
@pytest.mark.parametrize("greets", [False, True])
def test_bytes_that_are_no_records_end_their_connection_and_say_why(
    tmp_path: Path, data: bytes, code: str, greets: bool
) -> None:
    async def work() -> None:
        async with running(tmp_path) as node:
            raw = await Raw(node).open(hello=greets)
            await raw.send(data)
            told = await raw.ended()
            assert told == ("PROTOCOL_ERROR" if greets else code)
            await works(node)
            raw.close()

    run(work)


def test_each_rule_of_the_connection_is_held(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path) as node:
            early = await Raw(node).open(hello=False)
            await early.call(NEGOTIATE, EMPTY)
            assert await early.ended() == "PROTOCOL_ERROR"
            for hello, code in (
                (said(version=2), "UNSUPPORTED"),
                (said(window_bytes=0), "PROTOCOL_ERROR"),
                (said(authorization="x" * 20_000), "PROTOCOL_ERROR"),
                (b"\xff", "PROTOCOL_ERROR"),
            ):
                raw = await Raw(node).open(hello=False)
                await raw.record(record.HELLO, 0, hello)
                assert await raw.ended() == code
            again = await Raw(node).open()
            await again.record(record.CALL, 5, record.call(NEGOTIATE, [], None))
            await again.record(record.CALL, 5, record.call(NEGOTIATE, [], None))
            assert await again.ended() == "PROTOCOL_ERROR"
            await works(node)

    run(work)


def test_a_message_past_its_window_ends_the_connection(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path, stream_window_bytes=65_536) as node:
            raw = await Raw(node).open()
            # One message longer than the window is taken; what follows before it was read is not.
            number = await raw.call("/sira.v1.Bus/Subscribe")
            body = bytes(100_000)
            data = b"".join(head(len(body), number, record.MESSAGE) + body for _ in range(30))
            with contextlib.suppress(ConnectionError):
                await raw.send(data)
            assert await raw.ended() in ("PROTOCOL_ERROR", "closed")
            await works(node)

    run(work)


def test_calls_are_answered_by_name_whatever_they_ask(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path, unary_bytes_max=65_536) as node:
            raw = await Raw(node).open()
            for method, request, code in (
                (NEGOTIATE, EMPTY, ""),
                (NEGOTIATE, b"\xff\xff", "FRAME_CORRUPT"),
                (NEGOTIATE, bytes(65_537), "MESSAGE_TOO_LARGE"),
                ("/sira.v1.Kernel/Nothing", EMPTY, "UNSUPPORTED"),
                ("not a method", EMPTY, "UNSUPPORTED"),
                ("", EMPTY, "UNSUPPORTED"),
                ("/sira.v1.Bus/Publish", b"\xff\xff", "FRAME_CORRUPT"),
            ):
                number = await raw.call(method, request)
                assert await raw.ended(number) == code, method
            empty = await raw.call(NEGOTIATE)
            await raw.record(record.HALF_CLOSE, empty)
            assert await raw.ended(empty) == "BAD_REQUEST"
            for _ in range(3):  # what is over may be spoken to: the two cross on the way
                await raw.record(record.MESSAGE, empty, b"late")
                await raw.record(record.CANCEL, empty)
                await raw.record(record.HALF_CLOSE, empty)
            number = await raw.call(NEGOTIATE, EMPTY)
            assert await raw.ended(number) == ""
            await works(node)

    run(work)


def test_a_call_ends_when_its_time_is_over(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path) as node:
            raw = await Raw(node).open()
            number = await raw.call("/sira.v1.Bus/Subscribe", timeout_s=0.05)
            assert await raw.ended(number) == "TIMEOUT"
            found, timeout_s = None, 0.05
            while found is None or found[0] != record.MESSAGE:  # over before it was answered
                number = await raw.call("/grpc.health.v1.Health/Watch", EMPTY, timeout_s=timeout_s)
                found, timeout_s = await raw.next(), 2 * timeout_s
                assert found is not None and found[1] == number
            assert await raw.ended(number) == "TIMEOUT"
            await until(lambda: node.door.calls_now == 0)

    run(work)


def test_a_call_past_the_limit_is_refused_alone(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path, streams_per_connection_max=3) as node:
            raw = await Raw(node).open()
            watching = [await raw.call("/grpc.health.v1.Health/Watch", EMPTY) for _ in range(3)]
            more = await raw.call("/grpc.health.v1.Health/Watch", EMPTY)
            assert await raw.ended(more) == "QUOTA_EXCEEDED"
            await raw.record(record.CANCEL, watching[0])
            assert await raw.ended(await raw.call(NEGOTIATE, EMPTY)) == ""
            await works(node)

    run(work)


def test_streams_that_hold_too_much_together_end_one_by_one(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path, socket_held_bytes_max=16 << 20) as node:
            raw = await Raw(node).open()
            numbers = [await raw.call("/sira.v1.Bus/Publish") for _ in range(12)]
            body = bytes(record.BODY_BYTES_MAX)
            sent = b"".join(head(len(body), number, record.MESSAGE) for number in numbers)
            assert sent  # each is valid by itself: its window is open
            codes = set()

            async def hear() -> None:
                while len(codes) < 1 and (found := await raw.next()) is not None:
                    if found[0] == record.STATUS:
                        codes.add(code_of(found[2]))

            hearing = asyncio.ensure_future(hear())
            for number in numbers:
                await raw.record(record.MESSAGE, number, body)
            await hearing
            assert codes <= {"QUOTA_EXCEEDED", "FRAME_CORRUPT", "MESSAGE_TOO_LARGE"} and codes
            await works(node)

    run(work)


def test_a_thousand_silent_connections_are_closed_and_hold_nobody_up(tmp_path: Path) -> None:
    count = 1_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 3 * count + 500:
        pytest.skip("this machine allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (3 * count + 500, hard))

    async def work() -> None:
        async with running(tmp_path, handshake_s=2, socket_connections_max=count + 10) as node:
            gc.collect()  # what other tests have left does not go during this one
            before = len(os.listdir("/proc/self/fd"))
            silent = [await Raw(node).open(hello=False) for _ in range(count)]
            await until(lambda: len(node.local) == count)
            await works(node)
            assert await silent[0].ended() == "TIMEOUT"
            await until(lambda: len(node.local) == 0)
            for each in silent:
                each.close()
            await until(lambda: len(os.listdir("/proc/self/fd")) <= before)
            await works(node)

    try:
        run(work)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_connections_past_the_limit_are_closed_unheard(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path, socket_connections_max=2) as node:
            held = [await Raw(node).open() for _ in range(2)]
            await until(lambda: len(node.local) == 2)
            more = await Raw(node).open(hello=False)
            assert await more.next() is None
            held.pop().close()
            await until(lambda: len(node.local) == 1)
            await works(node)
            assert node.local.refused == 1

    run(work)


def test_who_is_short_of_descriptors_accepts_again_when_there_are_some(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def work() -> None:
        async with running(tmp_path) as node:
            raws = [Raw(node) for _ in range(4)]
            most = max(int(each) for each in os.listdir("/proc/self/fd")) + 1
            held = []
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            try:
                while True:
                    held.append(os.dup(0))
            except OSError:
                pass
            for each in raws:
                await each.open()  # the kernel takes it; the node cannot yet
            await asyncio.sleep(0)
            for number in held:
                os.close(number)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for each in raws:
                assert await each.ended(await each.call(NEGOTIATE, EMPTY)) == ""

    try:
        run(work)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_flood_of_descriptors_ends_its_connection_and_leaves_none_open(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path) as node:
            gc.collect()
            before = len(os.listdir("/proc/self/fd"))
            for whole in (True, False):
                for _ in range(5):
                    raw = await Raw(node).open()
                    number = await raw.call("/sira.v1.Bus/Subscribe")
                    data = head(0, number, record.MESSAGE, 200) if whole else b"\x00"
                    for _ in range(2):
                        try:
                            descriptors.send(raw.sock, [data], [0] * 200)
                        except OSError:
                            break
                    assert await raw.ended() in ("PROTOCOL_ERROR", "closed")
                    raw.close()
            await until(lambda: len(node.local) == 0)
            gc.collect()
            await until(lambda: len(os.listdir("/proc/self/fd")) <= before)
            await works(node)

    run(work)


def test_who_never_reads_is_not_read_and_costs_a_bounded_queue(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path) as node:
            raw = await Raw(node).open()
            request = kernel_pb2.StatsRequest(prometheus=True).SerializeToString()

            async def flood() -> None:
                while True:
                    await raw.call(STATS, request)

            flooding = asyncio.ensure_future(flood())
            await until(lambda: len(node.local) == 1)
            (session,) = node.local.sessions
            await until(lambda: session.channel.full)
            for _ in range(3):
                await works(node)
            queued = session.channel.queued_bytes
            assert queued < 64 << 20, queued
            flooding.cancel()
            raw.close()
            await until(lambda: len(node.local) == 0)

    run(work)


def test_a_subscriber_that_never_reads_is_lost_alone(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path, stall_s=0.2) as node:
            raw = await Raw(node).open()
            number = await raw.call("/sira.v1.Bus/Subscribe")
            item = bus_pb2.Item(
                open=bus_pb2.Open(subscription=1, pattern="flow.>", overflow="OVERFLOW_DROP")
            )
            frame = bus_pb2.Frame(items=[item]).SerializeToString()
            await raw.record(record.MESSAGE, number, frame)
            async with sira.connect(url_of(node)) as bus, bus.subscribe("flow.>") as messages:
                while (await bus.publish("flow.a", b"first")).matched < 2:
                    await messages.next(timeout_s=60)
                await messages.next(timeout_s=60)
                for i in range(300):
                    await bus.publish("flow.a", bytes(500_000) + str(i).encode())
                    assert (await messages.next(timeout_s=60)).bytes[500_000:] == str(i).encode()
                raw.close()
                await until(lambda: len(node.local) == 1)
                assert (await bus.ledger()).balanced

    run(work)


def test_random_records_never_disturb_a_calm_client(tmp_path: Path) -> None:
    """Seeded: well-formed heads with random kinds, calls and bodies, cut off anywhere."""
    seed = random.SystemRandom().randrange(1 << 31)
    rng = random.Random(seed)

    async def work() -> None:
        async with running(tmp_path) as node:
            for _ in range(60):
                raw = await Raw(node).open(hello=False)
                if rng.random() < 0.8:
                    await raw.record(record.HELLO, 0, said(lends=rng.random() < 0.5))
                data = b""
                for _ in range(rng.randrange(1, 40)):
                    method = rng.choice((NEGOTIATE, STATS, "/sira.v1.Bus/Publish", "/a/b"))
                    body = rng.choice(
                        (b"", rng.randbytes(rng.randrange(300)), record.grant(1 << 20),
                         record.call(method, [("k", "v")], rng.choice((None, 0.001))),
                         message_pb2.Message(topic="a.b").SerializeToString(),
                         record.segment(rng.randrange(3), 4_096, "a.b"), record.segments([1]),
                         record.leases([rng.randrange(3)]))
                    )  # fmt: skip
                    data += record.head(rng.randrange(2, 13), rng.randrange(9), len(body)) + body
                try:
                    await raw.send(data[: rng.randrange(len(data) + 1)])
                    await asyncio.sleep(0)
                except ConnectionError:
                    pass
                raw.close()
            await works(node)
            await until(lambda: len(node.local) == 0 and node.door.calls_now == 0)

    try:
        run(work)
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise
