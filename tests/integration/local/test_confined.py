"""A process that may open no file and make no socket works from the descriptor it was handed."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sira
from sira.kernel.identity import Principal
from sira.kernel.trust.credential import Credential

from . import seccomp
from .raw import run, running, until, url_of
from .test_lent import image, mapping

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not seccomp.supported(), reason="syscall numbers of this machine"),
]
MIB = 1 << 20


def environ() -> dict[str, str]:
    """Without what would have it find a node, or write down at its end what it ran."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("SIRA_", "COV"))}


CONFINED = (
    Path(seccomp.__file__).read_text()
    + """
import socket
import numpy as np
import sira, sira.client.local.transport

connect = sira.connect_sync  # imports what it needs, while files can be opened
confine()
for forbidden in (lambda: open("/dev/null"), lambda: socket.socket(socket.AF_UNIX)):
    try:
        forbidden()
    except PermissionError:
        continue
    raise SystemExit("it is not confined")

with connect() as bus, bus.subscribe("in.>") as messages:
    print(bus.node.principal, flush=True)
    lanes = ""
    for message in messages:
        what = message.topic.removeprefix("in.")
        if what == "stop":
            break
        if what == "loan":
            with bus.loan("out.loan", {"x": "u8[4194304]"}) as out:
                out["x"][:] = message["x"][::-1]
            receipt = out.receipt
        elif what == "large":
            receipt = bus.publish("out.large", {"x": message["x"][::-1].copy()})
        else:
            receipt = bus.publish("out.small", {"x": message["x"]}, headers={"before": lanes})
        lanes = f"{','.join(receipt.lanes)} {receipt.copies}"
        if what != "small":
            bus.publish("out.receipt", lanes)
"""
)


@pytest.fixture(scope="module", autouse=True)
def _a_kernel_with_filters() -> None:
    told = subprocess.run(
        [sys.executable, "-c", Path(seccomp.__file__).read_text() + "confine()"],
        capture_output=True, text=True, env=environ(), timeout=60, check=False,
    )  # fmt: skip
    if told.returncode and "seccomp: " in told.stderr:
        pytest.skip(told.stderr.splitlines()[-1])


@pytest.mark.parametrize("direct", ["on", "off"])
def test_tensors_and_messages_past_the_node_need_nothing_but_the_descriptor(
    tmp_path: Path, direct: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIRA_DIRECT", direct)

    async def work() -> None:
        async with (
            running(tmp_path) as node,
            sira.connect(url_of(node)) as bus,
            bus.subscribe("out.large") as larges,
            bus.subscribe("out.loan") as loans,
            bus.subscribe("out.receipt") as receipts,
            bus.subscribe("out.small") as smalls,
        ):
            ours, theirs = socket.socketpair()
            who = Credential(Principal("local", "default", "agent", "worker"), "uid")
            node.local.adopt(ours, who)
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", CONFINED, pass_fds=(theirs.fileno(),),
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                env=environ() | {"SIRA_FD": str(theirs.fileno()), "SIRA_DIRECT": direct},
            )  # fmt: skip
            theirs.close()
            try:
                assert process.stdout is not None
                line = (await process.stdout.readline()).decode()
                assert line == f"{who.principal}\n", line + (await process.stdout.read()).decode()

                sent = image(4 * MIB)
                for topic, messages, told in (("large", larges, "shm 1"), ("loan", loans, "shm 0")):
                    receipt = await bus.publish(f"in.{topic}", {"x": sent})
                    assert receipt.lanes == ["shm"]
                    got = await messages.next(timeout_s=60)
                    np.testing.assert_array_equal(got["x"], sent[::-1])
                    where = mapping(got["x"])
                    assert where is not None and where[0] == "r--s"
                    assert (await receipts.next(timeout_s=60)).text == told

                async def exchange() -> bool:
                    """Whether a small message went past the node, there and back."""
                    receipt = await bus.publish("in.small", {"x": np.arange(32)})
                    got = await smalls.next(timeout_s=60)
                    assert got["x"].tolist() == list(range(32))
                    assert got.principal == str(who.principal)
                    return receipt.lanes == ["shm"] and got.headers["before"] == "shm 1"

                found = [await exchange() for _ in range(20)]
                while direct == "on" and not found[-1]:
                    found.append(await exchange())
                assert any(found) == (direct == "on")
                await bus.publish("in.stop", b"")
                rest = (await process.stdout.read()).decode()
                assert (await process.wait(), rest) == (0, "")
                await until(lambda: len(node.local) == 1)
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()

    run(work)
