"""The socket as a door: where it is, who is let in by it as whom, and how a connection ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sira
import sira.testing
from sira.client import address, nodes
from sira.client.deadline import Deadline
from sira.kernel.errors import AddressInUse, ConnectionClosed
from sira.kernel.identity import Principal
from sira.kernel.local import record
from sira.kernel.local.listener import PATH_BYTES_MAX, socket_path
from sira.kernel.settings import load
from sira.kernel.trust.credential import Credential
from tests.integration.door.keys import Keys, principal

from .raw import Raw, run, running, until, url_of

pytestmark = pytest.mark.integration
PATIENT_S = 50.0
SAY_WHO = "import sys, sira\nwith sira.connect_sync(sys.argv[1]) as bus: print(bus.node.principal)"
# Whoever it becomes may not read the folder of its own Python: it has connected once, and so
# imported all that it needs.
SAY_WHO_AS_NOBODY = f"""
import os, sys, sira
sira.connect_sync(sys.argv[1]).close()
os.seteuid(65534)
{SAY_WHO}
"""


async def python(code: str, *arguments: str, **more: Any) -> tuple[int, str]:
    """Run code in a process of its own; return its exit code and what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *arguments,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **more,
    )  # fmt: skip
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode().strip()


# ---- the name ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "wanted"), [("0600", 0o600), ("0660", 0o660), ("0666", 0o666)])
def test_the_socket_has_its_mode_and_goes_with_its_node(
    tmp_path: Path, mode: str, wanted: int
) -> None:
    async def work() -> None:
        path = tmp_path / record.SOCKET_NAME
        async with running(tmp_path, socket_mode=mode):
            found = path.lstat()
            assert stat.S_ISSOCK(found.st_mode) and stat.S_IMODE(found.st_mode) == wanted
        assert not path.exists()

    run(work)


def test_what_a_killed_node_left_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    async def work() -> None:
        path = tmp_path / record.SOCKET_NAME
        left = socket.socket(socket.AF_UNIX)
        left.bind(str(path))
        left.close()
        async with running(tmp_path) as node:
            async with sira.connect(url_of(node)) as bus:
                assert (await bus.publish("a", b"x")).lanes == ["socket"]
            path.unlink()
            path.write_text("somebody's file")
        assert path.read_text() == "somebody's file", "not ours to take away"
        with pytest.raises(AddressInUse, match="is no socket"):
            async with running(tmp_path):
                pass

    run(work)


def test_a_node_has_no_socket_where_it_shall_not(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path, socket_mode="none"):
            assert not (tmp_path / record.SOCKET_NAME).exists()
        deep = tmp_path / ("d" * 100)
        deep.mkdir()
        async with running(deep) as node, sira.connect(f"sira://{node.address}") as bus:
            assert not list(deep.iterdir())
            assert (await bus.publish("a", b"x")).lanes == ["grpc"]
        with pytest.raises(sira.BadRequest, match="longer"):
            await sira.connect(f"unix:{deep / record.SOCKET_NAME}", timeout_s=5)
        settings = load(flags={"data_dir": "/" + "a" * 96}, environ={})
        assert len(str(socket_path(settings))) == PATH_BYTES_MAX

    run(work)


# ---- who -----------------------------------------------------------------------------------------


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can look into; pytest closes its own, also at its next start."""
    with tempfile.TemporaryDirectory(prefix="sira-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        mode = stat.S_IMODE(folder.parent.stat().st_mode)
        if not mode & 0o001:  # the run's own (tests/conftest.py)
            folder.parent.chmod(mode | 0o011)
        yield folder


def test_the_nodes_own_user_is_anonymous_and_another_one_is_who_the_kernel_says(
    open_folder: Path,
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")

    async def work() -> None:
        async with running(open_folder, socket_mode="0666") as node:
            assert await python(SAY_WHO, url_of(node)) == (
                0, "sira://local/default/user/anonymous",
            )  # fmt: skip
            assert await python(SAY_WHO_AS_NOBODY, url_of(node)) == (
                0,
                "sira://local/default/user/uid-65534",
            )
        async with running(open_folder) as node:
            exit_code, text = await python(SAY_WHO_AS_NOBODY, url_of(node))
            assert exit_code == 1 and "Unreachable" in text and "Permission denied" in text

    run(work)


def test_without_anonymous_callers_a_token_is_needed_by_the_socket_too(tmp_path: Path) -> None:
    async def work() -> None:
        keys = Keys.new(tmp_path / "keys")
        async with running(
            tmp_path, anonymous="refuse", cluster_name="test",
            token_keys=str(keys.folder / "token.pub"),
        ) as node:  # fmt: skip
            with pytest.raises(sira.SiraError, match="takes nobody who shows nothing"):
                await sira.connect(url_of(node))
            with pytest.raises(sira.SiraError) as caught:
                await sira.connect(url_of(node), token="made.up")
            assert caught.value.code == "UNAUTHENTICATED"
            mine = principal("ada", tenant="lab")
            async with sira.connect(url_of(node), token=keys.token(mine)) as bus:
                assert bus.node.principal == str(mine)
                assert (await bus.publish("a", b"x")).lanes == ["socket"]

    run(work)


def test_stats_and_explain_say_which_way_a_client_came(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            running(tmp_path) as node,
            sira.connect(url_of(node)) as bus,
            sira.connect(f"sira://{node.address}") as other,
            bus.subscribe("a.>"),
            other.subscribe("a.b"),
        ):
            assert (list(bus.node.lanes), list(other.node.lanes)) == (["socket"], ["grpc"])
            found = {each.pattern: each for each in await other.explain("a.b")}
            assert {name: each.lane for name, each in found.items()} == {
                "a.>": "shm", "a.b": "grpc",
            }  # fmt: skip
            assert "Unix socket" in found["a.>"].lane_reason
            peers = {each.peer for each in (await bus.stats()).clients}
            assert f"unix:pid={os.getpid()},uid={os.geteuid()}" in peers
            assert any(each.startswith("ipv4:") for each in peers)

    run(work)


# ---- a descriptor handed over --------------------------------------------------------------------

HANDED = """
import os, socket, sys
import sira, sira.client.bus, sira.client.local.transport, numpy, encodings.idna

def forbid(event, arguments):
    if event in ("socket.connect", "open", "socket.bind"):
        raise RuntimeError(f"{event} {arguments}")

with sira.connect_sync() as bus, bus.subscribe("a") as messages:
    sys.addaudithook(forbid)
    print(bus.node.principal)
    receipt = bus.publish("a", {"x": numpy.arange(1_000_000)})
    print(receipt.lanes, int(messages.next(timeout_s=60)["x"].sum()))
    try:
        sira.connect_sync()
    except sira.SiraError as error:
        print(error.code)
"""


def test_a_process_works_from_a_descriptor_that_it_was_handed(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path, anonymous="refuse") as node:
            ours, theirs = socket.socketpair()
            who = Credential(Principal("local", "default", "agent", "worker"), "uid")
            node.local.adopt(ours, who)
            env = {k: v for k, v in os.environ.items() if not k.startswith("SIRA_")}
            env["SIRA_FD"] = str(theirs.fileno())
            told = await python(HANDED, env=env, pass_fds=(theirs.fileno(),))
            theirs.close()
            lines = (str(who.principal), "['shm'] 499999500000", ConnectionClosed.code)
            assert told == (0, "\n".join(lines))
            await until(lambda: len(node.local) == 0)

    run(work)


@pytest.mark.parametrize(
    ("number", "words"), [("999", "not open"), ("x", "no number"), ("pipe", "no socket")]
)
def test_a_number_that_is_no_such_descriptor_is_refused(
    monkeypatch: pytest.MonkeyPatch, number: str, words: str
) -> None:
    async def work() -> None:
        monkeypatch.delenv("SIRA_URL", raising=False)
        read, write = os.pipe()
        try:
            monkeypatch.setenv("SIRA_FD", str(read) if number == "pipe" else number)
            with pytest.raises(sira.BadRequest, match=words):
                await sira.connect(timeout_s=5)
        finally:
            os.close(read)
            os.close(write)

    run(work)


# ---- ends ----------------------------------------------------------------------------------------

FORKS = """
import os, sys, time, sira
bus = sira.connect_sync(sys.argv[1])
messages = bus.subscribe("a.>").__enter__()
if not (child := os.fork()):
    time.sleep(600)  # and keeps the socket open
print(child, flush=True)
time.sleep(600)
"""


def test_a_killed_client_is_gone_though_a_child_of_it_keeps_the_socket_open(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path) as node, sira.connect(url_of(node)) as bus:
            process = subprocess.Popen(  # noqa: ASYNC220
                [sys.executable, "-c", FORKS, url_of(node)], stdout=subprocess.PIPE
            )
            assert process.stdout is not None
            child = int(await asyncio.to_thread(process.stdout.readline))
            try:
                assert (await bus.publish("a.b", b"x")).matched == 1
                process.kill()
                await until(lambda: len(node.local) == 1)
                assert (await bus.publish("a.b", b"x")).matched == 0
                os.kill(child, 0)
            finally:
                os.kill(child, signal.SIGKILL)
                process.kill()
                await asyncio.to_thread(process.wait)
                process.stdout.close()
            assert (await bus.ledger()).balanced

    run(work)


def test_a_forked_child_connects_anew_beside_its_parent() -> None:
    """Unlike by gRPC: there are no threads that stayed behind."""
    code = """
import os, sys, sira
with sira.connect_sync(sys.argv[1]) as bus:
    bus.publish("a", b"parent")
    if not (child := os.fork()):
        try:
            bus.publish("a", b"the parent's")
        except sira.Unreachable:
            with sira.connect_sync(sys.argv[1]) as own:
                os._exit(7 if own.publish("a", b"child").grade == "accepted" else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert bus.publish("a", b"parent").grade == "accepted"
"""
    with sira.testing.node() as node:
        subprocess.run([sys.executable, "-c", code, node.socket_url], check=True, timeout=60)


def test_calls_under_way_end_with_their_node(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path) as node:
            raw = await Raw(node).open()
            await raw.call("/grpc.health.v1.Health/Watch", b"")
            found = await raw.next()
            assert found is not None and found[0] == record.HELLO
            assert (await raw.next() or (0,))[0] == record.MESSAGE
        while await raw.next() is not None:
            pass
        with pytest.raises(sira.Unreachable, match=r"is not there|no node at"):
            await sira.connect(url_of(node), timeout_s=1)

    run(work)


def test_the_cli_finds_the_node_of_this_host_by_its_socket() -> None:
    with sira.testing.node() as node:
        env = {k: v for k, v in os.environ.items() if not k.startswith("SIRA_")}
        env["SIRA_DATA_DIR"] = str(Path(node.socket_url.removeprefix("unix:")).parent)
        done = subprocess.run(
            [sys.executable, "-m", "sira.cli", "status"],
            env=env, check=True, timeout=60, capture_output=True, text=True,
        )  # fmt: skip
        assert f"at {node.socket_url}: up" in done.stdout and "lane socket" in done.stdout
        done = subprocess.run(
            [sys.executable, "-m", "sira.cli", "doctor"],
            env=env, check=False, timeout=60, capture_output=True, text=True,
        )  # fmt: skip
        assert f"at {node.socket_url} (lane socket)" in done.stdout


def test_who_names_no_node_comes_back_to_the_socket_after_a_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work() -> None:
        with sira.testing.Node() as node:
            folder = Path(node.socket_url.removeprefix("unix:")).parent
            monkeypatch.delenv("SIRA_URL", raising=False)
            monkeypatch.setenv("SIRA_DATA_DIR", str(folder))
            monkeypatch.setattr(address, "URL_DEFAULT", node.url)
            monkeypatch.setattr(nodes, "DIAL_S", PATIENT_S)  # or a slow answer is none
            async with sira.connect() as bus, bus.subscribe("a") as messages:
                is_back, try_nodes = asyncio.Event(), bus.connection._try_nodes

                async def with_both_there(_deadline: Deadline) -> bool:
                    await is_back.wait()
                    return await try_nodes(Deadline(PATIENT_S, asyncio.get_running_loop()))

                monkeypatch.setattr(bus.connection, "_try_nodes", with_both_there)
                for end in (node.stop, node.kill):
                    lost = messages.reconnects
                    is_back.clear()
                    await asyncio.to_thread(end)
                    await asyncio.to_thread(node.start)
                    is_back.set()
                    await until(lambda lost=lost: messages.reconnects > lost)
                    await until(lambda: bus.connection.is_up)
                    assert bus.connection.address == node.socket_url
                    assert (await bus.publish("b", b"x", timeout_s=30)).lanes == ["socket"]
            (folder / record.SOCKET_NAME).unlink()
            async with sira.connect() as bus:  # the port is the other way to the same node
                assert (await bus.publish("b", b"x")).lanes == ["grpc"]

    run(work)
