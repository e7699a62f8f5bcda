"""Calls of what was attached: what a hostile service or caller gets, and costs."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from sira.kernel.node import Node
from sira.v1 import kernel_pb2

from .attaching import COUNT, SAY, attached, failing, refusal, said
from .plain import Plain, code_of, message, session, until, within

pytestmark = pytest.mark.integration
pb = kernel_pb2


def test_a_call_goes_down_with_who_how_long_and_the_trace_and_the_answer_comes_back() -> None:
    async def work(node: Node, plain: Plain) -> None:
        async with attached(plain) as peer:
            trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            metadata = (("traceparent", trace), ("x-secret", "not passed on"))
            calling = said(plain, request=b"\x0a\x02hi", timeout=20, metadata=metadata)
            asked = await peer.asked()
            assert (asked.method, asked.request, asked.tenant) == (SAY, b"\x0a\x02hi", "default")
            assert asked.principal == "sira://local/default/user/anonymous"
            assert 10_000 < asked.timeout_ms < 30_000  # gRPC rounds what it sends
            assert dict(asked.metadata) == {"traceparent": trace}
            await peer.reply(asked.call, response=b"\x0a\x02ho", end=True)
            assert await within(calling) == b"\x0a\x02ho"

    session(work)


@pytest.mark.parametrize("number", [0, 7, 1 << 60])
def test_a_reply_to_a_call_that_was_never_made_ends_the_service(number: int) -> None:
    async def work(node: Node, plain: Plain) -> None:
        async with attached(plain) as peer:
            calling = said(plain)
            await peer.asked()
            await peer.reply(number, response=b"x", end=True)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await within(peer.call.read())
            assert code_of(caught.value) == "PROTOCOL_ERROR"
            assert await failing(calling) == "PEER_LOST"

    session(work)


def test_a_service_that_goes_loses_its_callers_with_a_code() -> None:
    async def work(node: Node, plain: Plain) -> None:
        async with attached(plain) as peer:
            calls = [said(plain) for _ in range(5)]
            for _ in calls:
                await peer.asked()
        for call in calls:
            assert await failing(call) == "PEER_LOST"
        await until(lambda: node.attaching.calls_now == 0)

    session(work)


def test_a_service_that_never_answers_is_told_when_its_caller_has_gone() -> None:
    async def work(node: Node, plain: Plain) -> None:
        async with attached(plain) as peer:
            calling = said(plain, timeout=4)
            asked = await peer.asked()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await within(calling)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            cancelled = (await peer.read()).cancel
            assert (cancelled.call, cancelled.code) == (asked.call, "CANCELLED")
            await peer.reply(asked.call, response=b"late", end=True)  # harmless
            calling = said(plain)
            asked = await peer.asked()
            await peer.reply(asked.call, response=b"in time", end=True)
            assert await within(calling) == b"in time"

    session(work)


def test_a_service_that_never_reads_costs_its_callers_and_nobody_else() -> None:
    async def work(node: Node, plain: Plain) -> None:
        async with attached(plain) as peer, Plain(node.address) as others:
            big = bytes(1 << 20)
            calls = [said(plain, request=big) for _ in range(40)]
            done: list[Any] = []
            for call in calls:
                call.add_done_callback(done.append)
            await until(lambda: len(done) >= 16)  # 4 MiB wait here, some more in gRPC
            for call in done:
                assert isinstance(call.exception(), grpc.aio.AioRpcError)
                assert code_of(call.exception()) == "QUEUE_FULL"
            (here,) = node.attaching._attached
            assert here.calls.held_bytes <= 4 << 20
            (receipt,) = await others.publishing().publish(message("flows"))
            assert not receipt.HasField("error")
            for call in calls:
                call.cancel()
            await until(lambda: node.attaching.calls_now == 0)
            assert here.calls.held_bytes == 0
            del peer

    session(work, attach_held_bytes_max=4 << 20)


def test_so_many_calls_and_no_more() -> None:
    async def work(node: Node, plain: Plain) -> None:
        async with attached(plain) as peer:
            calls = [said(plain) for _ in range(3)]
            asked = [await peer.asked() for _ in calls]
            assert await failing(said(plain)) == "QUEUE_FULL"
            await peer.reply(asked[0].call, response=b"", end=True)
            await until(lambda: node.attaching.calls_now == 2)
            calls.append(said(plain))
            await peer.asked()

    session(work, attach_calls_max=3)


def test_more_replies_than_the_window_end_the_call() -> None:
    async def work(node: Node, plain: Plain) -> None:
        async with attached(plain) as peer:
            call = plain.channel.unary_stream(COUNT)(b"")
            asked = await peer.asked()
            for number in range(2_000):  # the caller reads nothing; no credit is waited for
                await peer.reply(asked.call, response=bytes(64 << 10))
                if not node.attaching.calls_now and number > asked.window:
                    break
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                while await within(call.read()) is not grpc.aio.EOF:
                    pass
            assert code_of(caught.value) == "PROTOCOL_ERROR"
            while not (told := await peer.read()).HasField("cancel"):
                assert told.HasField("credit")
            assert told.cancel.code == "PROTOCOL_ERROR"

    session(work)


def test_callers_that_do_not_read_end_and_one_that_does_goes_on() -> None:
    """Replies within the window, of callers that take none, fill what is held; the reader lives."""

    async def work(node: Node, plain: Plain) -> None:
        async with attached(plain) as peer:
            lazy = [plain.channel.unary_stream(COUNT)(b"") for _ in range(6)]
            numbers = [(await peer.asked()).call for _ in lazy]
            eager = plain.channel.unary_stream(COUNT)(b"")
            last = (await peer.asked()).call
            for _ in range(16):
                for number in numbers:
                    await peer.reply(number, response=bytes(1 << 20))
            await peer.reply(last, response=b"small", end=True)
            assert await within(eager.read()) == b"small"
            (here,) = node.attaching._attached
            assert here.calls.held_bytes <= 4 << 20
            codes = []
            for call in lazy:
                await within(peer.reply(numbers.pop(0), end=True))
                try:
                    while await within(call.read()) is not grpc.aio.EOF:
                        pass
                except grpc.aio.AioRpcError as error:
                    codes.append(code_of(error))
            assert codes and set(codes) == {"QUEUE_FULL"}

    session(work, attach_held_bytes_max=4 << 20)


@pytest.mark.parametrize(
    ("replies", "code"),
    [([{"end": True}], "HANDLER_FAILED"),
     ([{"response": b"1"}, {"response": b"2", "end": True}], "HANDLER_FAILED"),
     ([{"end": True, "error": {"code": "INTERNAL", "message": "mine"}}], "HANDLER_FAILED"),
     ([{"end": True, "error": {"code": "MY_OWN", "message": "m" * 10_000}}], "MY_OWN")],
)  # fmt: skip
def test_a_unary_call_ends_with_one_reply_or_an_error(
    replies: list[dict[str, Any]], code: str
) -> None:
    async def work(node: Node, plain: Plain) -> None:
        async with attached(plain) as peer:
            calling = said(plain)
            asked = await peer.asked()
            for each in replies:
                error = each.pop("error", None)
                known = {"error": _error(**error)} if error else {}
                await peer.reply(asked.call, **each, **known)
            assert await failing(calling) == code

    session(work)


def _error(**fields: Any) -> Any:
    from sira.v1 import error_pb2

    return error_pb2.Error(**fields)


@pytest.mark.parametrize(
    "first",
    [pb.AttachRequest(), pb.AttachRequest(reply=pb.AttachReply(call=1)),
     pb.AttachRequest(leave=pb.AttachLeave())],
)  # fmt: skip
def test_who_does_not_begin_with_an_offer_is_refused(first: kernel_pb2.AttachRequest) -> None:
    async def work(node: Node, plain: Plain) -> None:
        assert await refusal(plain, first) == "PROTOCOL_ERROR"

    session(work)


def test_who_says_nothing_is_not_waited_for() -> None:
    async def work(node: Node, plain: Plain) -> None:
        call = plain.kernel.Attach()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await within(call.read())
        assert code_of(caught.value) == "TIMEOUT"

    session(work, handshake_s=0.1)


def test_a_drain_waits_for_calls_under_way_and_takes_no_new_ones() -> None:
    async def work(node: Node, plain: Plain) -> None:
        async with attached(plain) as peer:
            calling = said(plain)
            asked = await peer.asked()
            stopping = asyncio.create_task(node.stop())
            await until(lambda: node.bus.draining)
            assert await failing(said(plain)) == "NODE_DRAINING"
            await peer.reply(asked.call, response=b"done", end=True)
            assert await within(calling) == b"done"
            await within(stopping)

    session(work)
