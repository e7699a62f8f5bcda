"""Calls that a connection has no place for wait in the client; some end there by their deadline."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sira.testing import Node

pytestmark = [pytest.mark.integration, pytest.mark.slow]
ROUNDS, CALLS, DEADLINE_S = 6, 400, 0.15
# With grpcio 1.83 as it comes, most runs stop within these rounds: no call starts any more.
CALLER = f"""
import asyncio, sys
import sira  # first: gRPC reads its environment when it is loaded
import grpc

async def asked():
    yield b""
    await asyncio.Event().wait()

async def main():
    async with grpc.aio.insecure_channel(sys.argv[1]) as channel:
        watch = channel.stream_stream("/grpc.health.v1.Health/Watch")
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        for _ in range({ROUNDS}):
            calls = [watch(asked(), timeout={DEADLINE_S}) for _ in range({CALLS})]
            await asyncio.gather(*(call.code() for call in calls))
            while True:
                try:
                    await check(b"", wait_for_ready=True)
                    break
                except grpc.aio.AioRpcError:  # so many at once may cost the connection
                    await asyncio.sleep(0.1)
    print("answered")

asyncio.run(main())
"""


def test_calls_start_on_a_connection_after_others_have_ended_in_its_queue() -> None:
    with Node(settings={"resets_per_connection_s_max": 0}) as node:
        address = node.url.removeprefix("sira://")
        ran = subprocess.run(
            [sys.executable, "-c", CALLER, address],
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
    assert ran.stdout == "answered\n", ran.stderr
