"""What a node writes, when the disk takes nothing; what it counts, when the wall clock jumps."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from .plain import Plain, data_of, message, until, within

pytestmark = pytest.mark.integration
ENDED_S = 60.0


def _no_byte_more() -> None:
    """Let this process make files and write nothing into them, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _command(data_dir: Path) -> list[str]:
    """Return the command line of a node."""
    listen = ["--listen", "127.0.0.1:0"]
    return [sys.executable, "-m", "sira.cli", "up", *listen, "--data-dir", str(data_dir), "--json"]


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("SIRA_")}


@pytest.mark.parametrize(
    ("where", "before"),
    [("full", _no_byte_more), ("/proc/sira", None), ("/dev/null/sira", None)],
    ids=["full", "takes no folder", "is no folder"],
)
def test_a_disk_that_takes_nothing_is_a_typed_error_and_no_node(
    tmp_path: Path, where: str, before: Callable[[], None] | None
) -> None:
    ended = subprocess.run(
        _command(tmp_path / where),
        preexec_fn=before,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=ENDED_S,
    )
    (*_, last) = [json.loads(line) for line in ended.stdout.splitlines()]
    assert (ended.returncode, last["type"]) == (3, "error"), ended
    assert last["data"]["code"] == "DATA_DIR_UNUSABLE"
    assert "--data-dir" in last["data"]["help"]
    assert "Traceback" not in ended.stderr


def test_a_folder_that_was_full_is_used_once_there_is_room(tmp_path: Path) -> None:
    command = _command(tmp_path)
    full = subprocess.run(
        command, preexec_fn=_no_byte_more, env=_environment(), capture_output=True, timeout=ENDED_S
    )
    assert full.returncode == 3
    with subprocess.Popen(command, env=_environment(), stdout=subprocess.PIPE, text=True) as node:
        assert node.stdout is not None
        started = json.loads(node.stdout.readline())
        node.terminate()
        assert (started["type"], node.wait(ENDED_S)) == ("start", 0)


@contextmanager
def _up(data_dir: Path, **how: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a node; yield its process and its address."""
    how = {"env": _environment(), **how}
    with subprocess.Popen(_command(data_dir), stdout=subprocess.PIPE, text=True, **how) as node:
        assert node.stdout is not None
        try:
            address = ""
            while not address:
                address = json.loads(node.stdout.readline())["data"].get("address", "")
            yield node, address
            node.terminate()
            assert node.wait(ENDED_S) == 0
        finally:
            node.kill()


def test_a_log_on_a_full_disk_costs_lines_and_no_message(tmp_path: Path) -> None:
    async def main(address: str) -> None:
        async with Plain(address) as plain:
            sub, pub = plain.subscribing(), plain.publishing()
            await sub.opened(1, "a")
            for number in range(100):
                await pub.publish(message("a", bytes([number])))
                assert data_of(await sub.next()) == bytes([number])
            assert (await plain.ledger())["a"].owed == 100

    with Path("/dev/full").open("w") as full, _up(tmp_path, stderr=full) as (_, address):
        asyncio.run(main(address))


# Takes the place of libc's in the node's process: its wall clock is off by what the file says.
_CLOCK_C = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static const volatile long *offset_s;
__attribute__((constructor)) static void begin(void)
{
    int fd = open(getenv("CLOCK_OFFSET_FILE"), O_RDONLY);
    void *at = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, fd, 0);
    if (fd < 0 || at == MAP_FAILED) abort();
    offset_s = at;
}
int clock_gettime(clockid_t clock, struct timespec *now)
{
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && clock == CLOCK_REALTIME && offset_s) now->tv_sec += *offset_s;
    return failed;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
@pytest.mark.parametrize("jump_s", [-86_400, 86_400], ids=["back", "forward"])
def test_a_wall_clock_that_jumps_expires_nothing_and_stalls_nobody(
    tmp_path: Path, jump_s: int
) -> None:
    """Waits, ttl and deadlines run on the monotonic clock; `time_ns` is for people only."""
    (tmp_path / "clock.c").write_text(_CLOCK_C)
    library, offset = tmp_path / "clock.so", tmp_path / "offset"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", library, tmp_path / "clock.c"], check=True, timeout=ENDED_S
    )
    offset.write_bytes(bytes(8))
    wrong = {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(offset)}

    def jump() -> None:
        with offset.open("r+b") as file:
            file.write(jump_s.to_bytes(8, sys.byteorder, signed=True))

    async def main() -> None:
        with _up(tmp_path / "data", env=_environment() | wrong) as (_, address):
            async with Plain(address) as plain:
                await _over_a_jump(plain, jump, jump_s)

    asyncio.run(main())


async def _over_a_jump(plain: Plain, jump: Callable[[], None], jump_s: int) -> None:
    """Hold messages and a request across a jump: each comes, and what is over is over."""
    facts, sub, pub = plain.subscribing(), plain.subscribing(), plain.publishing()
    await facts.opened(1, "sira.topic.>")
    await sub.opened(1, "held", window_messages=1)
    hour_ns = 3_600 * 10**9
    waiting = [message("held", bytes([number]), ttl_ns=hour_ns) for number in range(3)]
    for receipt in await pub.publish(*waiting):
        assert not receipt.HasField("error")
    answering = plain.subscribing()
    await answering.opened(1, "asked")
    asking = asyncio.ensure_future(plain.bus.Request(message("asked"), timeout=30))
    request = await answering.next()
    jump()
    for number in range(3):
        assert data_of(await sub.next()) == bytes([number])
    await pub.publish(message(request.reply_to, b"yes", correlation_id=request.correlation_id))
    assert data_of(await within(asking)) == b"yes"
    # The node did live in another day: it says so of what begins now.
    await sub.opened(2, "new.>")
    await plain.create("new.topic")
    told = await facts.next()
    assert abs(told.time_ns / 1e9 - time.time() - jump_s) < 3_600, told
    # One whose time is over is over, on whatever day; the first takes the one place.
    await pub.publish(message("held", b"taken"), message("held", b"late", ttl_ns=1))
    assert data_of(await sub.next()) == b"taken"

    async def expired() -> bool:
        row = (await plain.ledger())["held"]
        return (row.owed, row.delivered, row.expired) == (5, 4, 1)

    await until(expired)
