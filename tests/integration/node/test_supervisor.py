"""The supervisor as a process: what it loads, who comes back, who dies with it, what it holds."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

import sira
from sira.kernel.supervisor.folder import holder
from sira.testing import Node
from sira.v1 import kernel_pb2

from .plain import Plain, within

pytestmark = pytest.mark.integration
WATCHDOG_S = 60.0


def wait_until(condition: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + WATCHDOG_S
    while not condition():
        assert time.monotonic() < until_s, f"not in {WATCHDOG_S:g} s: {what}"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Whether a process is no more; one that nobody reaps counts as gone."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def replaced(node: Node, pid: int) -> Callable[[], bool]:
    """Whether another life of the node serves."""
    return lambda: node.pid not in (0, pid)


def is_free(lock: Path) -> bool:
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def can_listen(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            again.bind((host, int(port)))
            again.listen()
        except OSError:
            return False
    return True


def epoch_of(url: str) -> bytes:
    async def main() -> bytes:
        async with Plain(url.removeprefix("sira://")) as plain:
            request = kernel_pb2.NegotiateRequest()
            answer = await within(plain.kernel.Negotiate(request, wait_for_ready=True))
            return answer.epoch

    return asyncio.run(main())


def test_the_supervisor_has_one_thread_and_loads_no_grpc_no_loop_no_numpy() -> None:
    with Node() as node:
        process = psutil.Process(node.supervisor_pid)
        assert process.num_threads() == 1
        loaded = {Path(each.path).name for each in process.memory_maps(grouped=True)}
        for name in ("cygrpc", "uvloop", "_multiarray_umath", "_native"):
            assert not [each for each in loaded if each.startswith(name)]
        assert [child.pid for child in process.children()] == [node.pid]


def test_a_node_killed_under_load_comes_back_on_its_port_and_clients_with_it() -> None:
    with Node(settings={"restart_s_min": 0.01}) as node:
        epochs, url = [epoch_of(node.url)], node.url
        with (
            sira.connect_sync(url, timeout_s=30) as watcher,
            watcher.subscribe("sira.child.>") as facts,
            sira.connect_sync(url, timeout_s=30) as reader,
            reader.subscribe("load.>") as messages,
            sira.connect_sync(url, timeout_s=30) as writer,
        ):
            sent = received = 0
            for life in range(2):
                until = received + 200
                while received < until:
                    try:
                        writer.publish("load.a", {"n": sent}, timeout_s=30)
                    except (sira.OutcomeUnknown, sira.Unreachable):
                        continue  # under way when the node died
                    finally:
                        sent += 1
                    while True:
                        try:
                            messages.next(timeout_s=0)
                        except sira.Timeout:
                            break
                        received += 1
                pid = node.pid
                os.kill(pid, signal.SIGKILL)
                wait_until(replaced(node, pid), "another node serves")
                told = [json.loads(facts.next(timeout_s=WATCHDOG_S).text) for _ in range(2)]
                restarts = [each["restarts"] for each in told]
                assert restarts == [life, life + 1], told
                assert {each["child"] for each in told} == {"node"}
                assert {(each["reason"], each["exit"]) for each in told} == {("SIGKILL", -9)}
                epochs.append(epoch_of(url))
        assert len(set(epochs)) == 3
        assert node.stop() == 0


def test_kill_9_of_the_supervisor_takes_the_node_along_and_frees_port_and_folder() -> None:
    with Node() as node:
        pid, address = node.pid, node.url.removeprefix("sira://")
        lock = node.data_dir / "data" / "node.lock"
        os.kill(node.supervisor_pid, signal.SIGKILL)
        wait_until(lambda: gone(pid), "the node is gone")
        wait_until(lambda: is_free(lock), "the folder is free")  # its last thread, not its first
        wait_until(lambda: can_listen(address), "the port is free")
        node.kill()  # lets the handle of the dead process go
        node.start()
        assert node.url == f"sira://{address}"


def test_while_the_node_is_down_folder_and_port_stay_ours(tmp_path: Path) -> None:
    """No second node slips in, and no connection is given the port as its own end."""
    with Node(settings={"restart_s_min": 3600, "restart_s_max": 3600}) as node:
        pid = node.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: gone(pid), "the node is gone")
        command = [sys.executable, "-m", "sira.cli", "up", "--json", "--listen", "127.0.0.1:0"]
        second = subprocess.run(
            [*command, "--data-dir", str(node.data_dir / "data")],
            capture_output=True, text=True, timeout=WATCHDOG_S,
        )  # fmt: skip
        assert second.returncode == 3
        assert json.loads(second.stdout)["data"]["code"] == "DATA_DIR_IN_USE"
        with socket.socket() as other, pytest.raises(OSError):
            other.bind(("127.0.0.1", int(node.url.rpartition(":")[2])))
        assert node.stop() == 0  # nothing runs that could drain


def test_a_stopped_node_still_drains_when_asked() -> None:
    with Node() as node, sira.connect_sync(node.url) as bus:
        assert bus.publish("a").matched == 0
        os.kill(node.pid, signal.SIGSTOP)
        wait_until(
            lambda: psutil.Process(node.pid).status() == psutil.STATUS_STOPPED, "it is stopped"
        )
        assert node.stop() == 0


def test_sigterm_to_the_node_alone_is_an_end_that_nobody_asked_for() -> None:
    with Node(settings={"restart_s_min": 0.01}) as node:
        pid = node.pid
        os.kill(pid, signal.SIGTERM)
        wait_until(replaced(node, pid), "another node serves")
        assert epoch_of(node.url)


@contextmanager
def _on_a_full_pipe(data_dir: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`sira up` whose stdout is a pipe without room for a byte; yields its reading end too."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        while True:
            os.write(write, bytes(4096))
    except BlockingIOError:
        os.set_blocking(write, True)
    command = [sys.executable, "-m", "sira.cli", "up", "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(
        [*command, "--data-dir", str(data_dir)], stdout=write, stderr=subprocess.DEVNULL
    )
    os.close(write)
    try:
        yield process, read
    finally:
        process.kill()
        process.wait()
        os.close(read)


def test_a_stdout_that_takes_nothing_holds_up_neither_node_nor_supervisor(tmp_path: Path) -> None:
    with _on_a_full_pipe(tmp_path) as (process, read):
        wait_until(lambda: "node" in holder(tmp_path), "the node serves")
        known = holder(tmp_path)
        os.kill(int(known["node"]), signal.SIGKILL)
        wait_until(
            lambda: holder(tmp_path).get("node", known["node"]) != known["node"],
            "another node serves",
        )
        with sira.connect_sync(f"sira://{known['address']}") as bus:
            assert bus.publish("a").matched == 0
        said = b""
        while b"is up at" not in said:  # the line waited for room, and comes
            said += os.read(read, 65_536)
        process.terminate()
        assert process.wait(WATCHDOG_S) == 0


def test_a_stdout_nobody_will_read_does_not_keep_a_signal_waiting(tmp_path: Path) -> None:
    with _on_a_full_pipe(tmp_path) as (process, _):
        wait_until(lambda: "node" in holder(tmp_path), "the node serves")
        process.terminate()
        assert process.wait(WATCHDOG_S) == 0
