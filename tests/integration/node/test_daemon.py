"""The daemon as a process: says when it serves, drains on a signal, leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
import pytest

from sira.v1 import kernel_pb2

from .plain import Plain, code_of, data_of, message, until, within

pytestmark = pytest.mark.integration
_RUN = """
import sys
from sira.kernel.supervisor.run import run
from sira.kernel.settings import load
flags = dict(each.split("=", 1) for each in sys.argv[1:])
raise SystemExit(run(load(flags=flags)))
"""
ENDED_S = 60.0


class Daemon:
    """A node process; `address` once it serves."""

    def __init__(self, data_dir: Path, **flags: object) -> None:
        flags = {"listen": "127.0.0.1:0", "data_dir": data_dir, **flags}
        command = [sys.executable, "-c", _RUN, *(f"{k}={v}" for k, v in flags.items())]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SIRA_")}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stdout is not None
        self.ready = self.process.stdout.readline()
        self.address = self.ready.rpartition(" ")[2].strip()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> tuple[int, list[str]]:
        """Wait for the end; return exit code and stderr lines."""
        loop = asyncio.get_running_loop()
        _, err = await loop.run_in_executor(None, lambda: self.process.communicate(timeout=ENDED_S))
        return self.process.returncode, err.splitlines()


@contextmanager
def daemon(data_dir: Path, **flags: object) -> Iterator[Daemon]:
    made = Daemon(data_dir, **flags)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.communicate()


@pytest.mark.timeout(600)
def test_sigterm_loses_no_accepted_message(tmp_path: Path) -> None:
    """Publishers work at full speed into a subscriber of small windows when the signal comes."""

    async def main() -> None:
        with daemon(tmp_path, drain_s=600) as node:  # thousands wait, and the machine may be slow
            async with Plain(node.address) as plain, Plain(node.address) as reader:
                sub = reader.subscribing()
                await sub.opened(1, "work.>", window_messages=16)
                accepted: list[bytes] = []
                got: list[bytes] = []

                async def publish(name: str) -> None:
                    pub = plain.publishing()
                    try:
                        while True:
                            batch = [message(f"work.{name}") for _ in range(10)]
                            for receipt in await pub.publish(*batch):
                                if receipt.HasField("error"):
                                    assert receipt.error.code == "NODE_DRAINING"
                                else:
                                    accepted.append(receipt.id)
                    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                        return  # grpcio has two ways to say that the call is over

                async def take() -> None:
                    try:
                        while True:
                            item = await sub.item()
                            if item.HasField("ended"):
                                assert item.ended.error.code == "NODE_DRAINING"
                                return
                            got.append(item.message.id)
                            await sub.credit(1)
                    except grpc.aio.AioRpcError:
                        return

                tasks = [asyncio.create_task(publish(n)) for n in "abc"]
                taking = asyncio.create_task(take())
                await until(lambda: len(got) > 200)
                node.signal(signal.SIGTERM)
                await within(taking, 200)
                code, log = await node.ended()
                await within(asyncio.gather(*tasks))
                assert code == 0
                assert len(accepted) > 200 and got.count(got[0]) == 1
                assert set(accepted) <= set(got)
                events = [json.loads(line)["event"] for line in log]
                assert events == ["started", "signal", "draining", "stopped"]

    asyncio.run(main())


def test_a_second_signal_ends_at_once_whatever_waits(tmp_path: Path) -> None:
    async def main() -> None:
        with daemon(tmp_path, drain_s=600) as node:
            async with Plain(node.address) as plain:
                sub = plain.subscribing()
                await sub.opened(1, "a", window_messages=1)
                await plain.publishing().publish(*(message("a") for _ in range(3)))
                node.signal(signal.SIGTERM)
                await _draining(plain)
                node.signal(signal.SIGTERM)
                code, log = await node.ended()
                assert code == 1
                assert [json.loads(line)["level"] for line in log].count("warning") == 1

    async def _draining(plain: Plain) -> None:
        """Return when the node has heard the signal: from then on it declares no topic."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            while True:
                await plain.create("lab.b")
        assert code_of(caught.value) == "NODE_DRAINING"

    asyncio.run(main())


def test_it_says_one_line_when_it_serves_and_its_log_is_json(tmp_path: Path) -> None:
    async def main() -> None:
        with daemon(tmp_path) as node:
            assert node.ready.startswith("sira ") and " ready on 127.0.0.1:" in node.ready
            lock = (tmp_path / "node.lock").read_text().splitlines()
            assert lock[:3] == ["sira-lock 1", f"pid {node.process.pid}", f"address {node.address}"]
            (child,) = psutil.Process(node.process.pid).children()
            assert lock[3:] == [f"node {child.pid}"]
            node.signal(signal.SIGINT)
            code, log = await node.ended()
            assert code == 0 and all(json.loads(line)["component"] for line in log)

    asyncio.run(main())


@pytest.mark.parametrize("same", ["port", "folder"])
def test_a_second_node_in_the_same_place_says_why_in_one_line(tmp_path: Path, same: str) -> None:
    async def main() -> None:
        with daemon(tmp_path / "one") as first:
            other = (
                Daemon(tmp_path / "two", listen=first.address)
                if same == "port"
                else Daemon(tmp_path / "one")
            )
            assert other.ready == ""
            code, log = await other.ended()
            (line,) = log
            assert code == 3 and line.startswith("sira: ") and "Traceback" not in line
            assert first.address in line
            async with Plain(first.address) as plain:
                await plain.publishing().publish(message("still.here"))

    asyncio.run(main())


def test_kill_9_frees_port_and_folder_and_the_next_life_has_another_epoch(tmp_path: Path) -> None:
    async def main() -> None:
        epochs = []
        address = "127.0.0.1:0"
        for _ in range(2):
            with daemon(tmp_path, listen=address) as node:
                address = node.address
                async with Plain(address) as plain:
                    sub = plain.subscribing()
                    await sub.opened(1, "a")
                    await plain.publishing().publish(message("a", b"hello"))
                    assert data_of(await sub.next()) == b"hello"
                    answer = await plain.kernel.Negotiate(kernel_pb2.NegotiateRequest())
                    epochs.append(answer.epoch)
                    node.signal(signal.SIGKILL)
                    code, _ = await node.ended()
                    assert code == -signal.SIGKILL
        assert len(set(epochs)) == 2

    asyncio.run(main())
