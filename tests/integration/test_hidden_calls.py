"""The SDK on a machine without memfd and eventfd: the grpc lane needs neither."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

import sira.testing

pytestmark = pytest.mark.integration

# The calls are hidden before anything of ours is loaded; that the C core loads without them is the
# other test.
_PROGRAM = """
import os, sys
for name in ("memfd_create", "eventfd", "eventfd_read", "eventfd_write"):
    if hasattr(os, name):
        delattr(os, name)
for name in [each for each in dir(os) if each.startswith(("MFD_", "EFD_"))]:
    delattr(os, name)
import asyncio
import numpy as np
import sira

async def main(url):
    async with sira.connect(url) as bus, bus.subscribe("lab.x") as messages:
        x = np.arange(1 << 18, dtype=np.float32)
        receipt = await bus.publish("lab.x", {"x": x})
        message = await messages.next(timeout_s=60)
        assert np.array_equal(message["x"], x), message
        assert list(receipt.lanes) == ["grpc"], receipt.lanes
        async with bus.subscribe("lab.ask") as questions:
            async def answer():
                await (await questions.next(timeout_s=60)).reply("yes")
            task = asyncio.ensure_future(answer())
            assert (await bus.request("lab.ask", "so?")).text == "yes"
            await task
    print("works")

asyncio.run(main(sys.argv[1]))
"""


def test_publish_subscribe_and_request_work_without_memfd_and_eventfd() -> None:
    with sira.testing.node() as node:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(_PROGRAM), node.url],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "works"


def test_the_c_core_loads_where_the_c_library_has_neither() -> None:
    """What is imported from the C library is in the dynamic symbol table of the module."""
    from sira import _native

    with open(_native.__file__, "rb") as file:
        library = file.read()
    assert b"\0malloc\0" in library  # the table is there to be read: names between zeros
    assert b"\0memfd_create\0" not in library and b"\0eventfd\0" not in library
