"""What the figures were taken on: machine, versions, commit, load, and two bare costs of it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benches.harness import ROOT
from benches.stats import median

PACKAGES = (
    "sira-kernel",
    "grpcio",
    "protobuf",
    "numpy",
    "uvloop",
    "pyzmq",
    "nats-py",
    "redis",
    "hiredis",
    "eclipse-zenoh",
    "iceoryx2",
    "pyarrow",
)
MALLOC_VARIABLES = ("GLIBC_TUNABLES", "LD_PRELOAD", "MALLOC_ARENA_MAX", "PYTHONMALLOC")
PROBE_CALLS = 5_000


def _cpu_model() -> str:
    """Model name from /proc/cpuinfo, else what Python knows."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _output(*argv: str) -> str:
    """First line a command prints; empty when it is not there or fails."""
    if shutil.which(argv[0]) is None:
        return ""
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=20, check=False)
    return (done.stdout or done.stderr).partition("\n")[0] if done.returncode == 0 else ""


def commit() -> str:
    """Short commit of the working tree, with `-dirty` when it has changes; empty outside git."""
    name = _output("git", "rev-parse", "--short", "HEAD")
    return name + "-dirty" if name and _output("git", "status", "--porcelain") else name


def versions() -> dict[str, str]:
    """Versions of what is compared; `not installed` where it is not."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    found["nats-server"] = _output("nats-server", "--version") or "not installed"
    found["redis-server"] = _output("redis-server", "--version") or "not installed"
    return found


def eventfd_round_trip_us() -> float:
    """Median round trip of one eventfd ping-pong between two processes, µs; NaN where none is.

    The least that any two processes of this machine need to wake each other once, both ways.
    """
    if not hasattr(os, "eventfd"):
        return float("nan")
    ping, pong = os.eventfd(0), os.eventfd(0)
    child = os.fork()  # no thread has been started in this process yet
    if child == 0:
        try:
            for _ in range(PROBE_CALLS):
                os.eventfd_read(ping)
                os.eventfd_write(pong, 1)
        finally:
            os._exit(0)
    samples_us = []
    for _ in range(PROBE_CALLS):
        start_ns = time.perf_counter_ns()
        os.eventfd_write(ping, 1)
        os.eventfd_read(pong)
        samples_us.append((time.perf_counter_ns() - start_ns) / 1e3)
    os.waitpid(child, 0)
    os.close(ping)
    os.close(pong)
    return median(samples_us)


def memcpy_gb_per_s() -> dict[str, float]:
    """Copy of 64 MiB into memory already touched, and into new memory, GB/s, best of 5."""
    source = np.ones(64 << 20, np.uint8)
    target = np.ones_like(source)
    warm, fresh = [], []
    for _ in range(5):
        start_s = time.perf_counter()
        np.copyto(target, source)
        warm.append(time.perf_counter() - start_s)
        start_s = time.perf_counter()
        source.copy()
        fresh.append(time.perf_counter() - start_s)
    gigabytes = source.nbytes / 1e9
    return {"warm": gigabytes / min(warm), "new_pages": gigabytes / min(fresh)}


def describe() -> dict[str, Any]:
    """Everything of the above, as it is now."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": ".".join(platform.release().split(".")[:2]),
        "os": sys.platform,
        "eventfd_round_trip_us": eventfd_round_trip_us(),
        "memcpy_gb_per_s": memcpy_gb_per_s(),
        "load_average": list(os.getloadavg()),
        "malloc_environment": {k: os.environ[k] for k in MALLOC_VARIABLES if k in os.environ},
        "versions": versions(),
        "commit": commit(),
    }
