"""The first large message lets malloc keep its pages."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or "LD_PRELOAD" in os.environ,  # a sanitizer brings its own
    reason="asks glibc's malloc",
)

_FAULTS_OF_REUSE = """
import resource, sys
import numpy as np
import sira.kernel.binding, sira.client.binding
from sira import _native
if sys.argv[1] == "send":
    _native.Outbox().push("lab.x", {"x": np.zeros(1 << 20, np.uint8)})
faults = 0
for _ in range(20):  # as gRPC does with each chunk: some buffers of its size, all let go
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    buffers = [bytes([1]) * (2 << 20) for _ in range(4)]
    del buffers
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults)
"""


def _faults(role: str, **env: str) -> int:
    """Page faults of 8 MiB of buffers that were there and let go before."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    run = subprocess.run(
        [sys.executable, "-c", _FAULTS_OF_REUSE, role],
        env={**kept, **env}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(run.stdout)


def test_buffers_keep_their_pages_once_a_large_message_was_sent() -> None:
    assert _faults("send") < 100 < _faults("idle")


def test_thresholds_set_by_the_user_stay() -> None:
    assert _faults("send", MALLOC_TRIM_THRESHOLD_="131072") > 100
