"""`sira doctor`: is this machine, this installation and the way to the node fit for Sira?

A check is a function that returns what it found; nothing is changed, but a file of a few bytes that
is written to the data folder and removed again.
"""

from __future__ import annotations

import os
import platform
import resource
import socket
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires
from importlib.metadata import version as installed
from pathlib import Path

import psutil

from sira import __version__
from sira.cli.link import Stop, connected, security_of, url_of
from sira.cli.output import EXIT_UNACCOUNTED, Output, Result, bytes_text
from sira.cli.up import settings_of
from sira.client.address import url_of as to_url
from sira.kernel.admission import limits
from sira.kernel.edge.tls import read_pair
from sira.kernel.errors import SiraError
from sira.kernel.policy import load as policy_file
from sira.kernel.settings import Settings
from sira.kernel.toml_table import read_text
from sira.kernel.trust import jwt, revocations
from sira.kernel.trust.tokens import parse_keys_file

_PYTHON_MIN = (3, 11)
_FILES_WANTED = 4_096  # a thousand clients, each with a socket, and room beside them
_MEMORY_WANTED_BYTES = 512 << 20  # two subscribers at their byte limits and the node itself
_DISK_WANTED_BYTES = 1 << 30
_CLOCK_MAX_S = 0.05  # drift of the wall clock against the monotonic one while we look
_REACH_TIMEOUT_S = 3.0
_THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@dataclass(frozen=True)
class Check:
    """What one check found: `state` is ok, warning or failed."""

    name: str
    state: str
    found: str
    why: str
    help: str = ""


def _python(settings: Settings) -> Check:
    good = sys.version_info >= _PYTHON_MIN
    wanted = ".".join(map(str, _PYTHON_MIN))
    return Check(
        "python",
        "ok" if good else "failed",
        f"{platform.python_implementation()} {platform.python_version()}",
        f"Sira needs {wanted} or newer",
        "" if good else f"install Python {wanted}",
    )


def _native(settings: Settings) -> Check:
    why = "messages are encoded, matched and counted in C"
    try:
        from sira import _native as core

        built = core.version()
    except ImportError as error:
        return Check("native core", "failed", str(error), why, "reinstall: pip install sira-kernel")
    if built != __version__:
        help_text = "build again: `make native` in a checkout, else reinstall"
        return Check("native core", "failed", f"{built}, package is {__version__}", why, help_text)
    warm = "warm memory" if hasattr(core, "keep_memory_warm") else "no warm memory"
    return Check("native core", "ok", f"{built}, {warm}", why)


def _versions(settings: Settings) -> Check:
    why = "the generated files refuse older versions"
    wanted = [line for line in requires("sira-kernel") or [] if "extra ==" not in line]
    shown, missing = [], []
    for line in wanted:
        name = line.split(";")[0].split("[")[0]
        for mark in "<>=!~ (":
            name = name.split(mark)[0]
        try:
            found = installed(name)
        except PackageNotFoundError:
            missing.append(name)
            continue
        if name in ("grpcio", "protobuf", "numpy", "ml_dtypes"):
            shown.append(f"{name} {found}")
    if missing:
        help_text = "pip install " + " ".join(missing)
        return Check("versions", "failed", f"missing: {', '.join(missing)}", why, help_text)
    return Check("versions", "ok", ", ".join(shown), why)


def _uvloop(settings: Settings) -> Check:
    why = "the loop of the node; without it, small messages are a third slower"
    try:
        return Check("uvloop", "ok", installed("uvloop"), why)
    except PackageNotFoundError:
        return Check("uvloop", "failed", "not installed", why, "pip install uvloop")


def _data_dir(settings: Settings) -> Check:
    folder = settings.data_path
    why = "the node keeps its state and its lock there"
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    free = psutil.disk_usage(str(nearest)).free
    if not folder.exists():
        good = os.access(nearest, os.W_OK)
        state = "ok" if good else "failed"
        help_text = "" if good else f"make {nearest} writable, or choose another with --data-dir"
        return Check("data folder", state, f"{folder}, made when a node starts", why, help_text)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"sira doctor")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        help_text = "make it writable, or choose another with --data-dir"
        return Check("data folder", "failed", f"{folder}: {error.strerror}", why, help_text)
    found = f"{folder}, writable, {bytes_text(free)} free"
    if free < _DISK_WANTED_BYTES:
        return Check("data folder", "warning", found, why, "free some space")
    return Check("data folder", "ok", found, why)


def _clock(settings: Settings) -> Check:
    why = "ids are ordered by the wall clock; ages and timeouts use the monotonic one"
    wall, mono = time.time(), time.monotonic()
    for _ in range(1000):
        time.monotonic()
    drift = abs((time.time() - wall) - (time.monotonic() - mono))
    info = time.get_clock_info("monotonic")
    found = f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')}, monotonic to {info.resolution * 1e9:.0f} ns"
    if drift > _CLOCK_MAX_S or time.time() < 1.6e9:
        return Check(
            "clock", "failed", f"{found}, jumped {drift:.3f} s", why, "synchronise it (NTP)"
        )
    return Check("clock", "ok", found, why)


def _open_files(settings: Settings) -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    state = "ok" if soft >= _FILES_WANTED or soft == resource.RLIM_INFINITY else "warning"
    help_text = "" if state == "ok" else f"ulimit -n {min(hard, 65_536) if hard > 0 else 65_536}"
    why = "every client of the node is an open file"
    return Check("open files", state, f"{soft} of at most {hard}", why, help_text)


def _memory(settings: Settings) -> Check:
    memory = psutil.virtual_memory()
    state = "ok" if memory.available >= _MEMORY_WANTED_BYTES else "warning"
    help_text = "" if state == "ok" else "stop something, or lower queue_bytes_max"
    found = f"{bytes_text(memory.available)} of {bytes_text(memory.total)} available"
    return Check("memory", state, found, "queues and messages in transit live there", help_text)


def _thp(settings: Settings) -> Check:
    why = "large messages pay for new pages, huge ones are 512 times fewer"
    try:
        text = _THP.read_text()
    except OSError:
        return Check("huge pages", "warning", "not offered by this kernel", why, "none is needed")
    chosen = text.partition("[")[2].partition("]")[0]
    if chosen == "never":
        return Check("huge pages", "warning", chosen, why, f"echo madvise | sudo tee {_THP}")
    return Check("huge pages", "ok", chosen, why)


def _port(settings: Settings) -> Check:
    host, port = settings.address
    why = "the address a node would listen on"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except OSError as error:
            help_text = "fine if it is your node (see below), else choose another with --listen"
            found = f"{settings.listen}: {error.strerror}"
            return Check("port", "warning", found, why, help_text)
    return Check("port", "ok", f"{settings.listen} is free", why)


def _files(settings: Settings) -> Check:
    """Read what a node would read, as it would: a node with one that is wrong does not start."""
    why = "a node whose files cannot be used does not start"
    readers: dict[str, Callable[[], object]] = {
        "tls_cert": lambda: read_pair(settings),
        "token_keys": lambda: parse_keys_file(read_text(settings.token_keys)),
        "jwt_issuers": lambda: jwt.load(settings.jwt_issuers),
        "revocations": lambda: revocations.load(settings.revocations),
        "limits_file": lambda: limits.parse(read_text(settings.limits_file)),
        "policy": lambda: policy_file.load(settings.policy),
    }
    good = []
    for name, read in readers.items():
        if not getattr(settings, name):
            continue
        try:
            read()
        except SiraError as error:
            return Check("door files", "failed", f"{name}: {error}", why, error.help)
        good.append(name)
    return Check("door files", "ok", ", ".join(good), why)


CHECKS: tuple[Callable[[Settings], Check], ...] = (
    _python,
    _native,
    _versions,
    _uvloop,
    _data_dir,
    _clock,
    _open_files,
    _memory,
    _thp,
    _port,
    _files,
)


def _shown(args: Namespace) -> Check:
    """Read what the other verbs would show to the node."""
    why = "what the other verbs show to the node"
    tls = url_of(args).startswith("siras://")
    try:
        shown = security_of(args).settled(tls=tls)
        shown.proof()
        authorized = shown.authorization()
    except SiraError as error:
        help_text = error.help or "see --token-file, --tls-ca, --tls-cert and --tls-key"
        return Check("shown", "failed", str(error), why, help_text)
    parts = ["a token"] if authorized else []
    parts += ["a certificate"] if tls and shown.cert else []
    found = " and ".join(parts) or "nothing"
    return Check("shown", "ok", f"{found}, over {'TLS' if tls else 'plain text'}", why)


async def _reach(args: Namespace) -> Check:
    url = url_of(args)
    why = "where the other verbs go"
    try:
        start_ns = time.monotonic_ns()
        async with connected(args, timeout_s=_REACH_TIMEOUT_S) as bus:
            took_ms = (time.monotonic_ns() - start_ns) / 1e6
            hello = bus.node
            url = to_url(bus.connection.address, tls=url.startswith("siras:"))
    except SiraError as error:
        named = bool(args.url or os.environ.get("SIRA_URL"))
        help_text = "start it with `sira up`, or name another with --url"
        return Check("node", "failed" if named else "warning", f"{url}: {error}", why, help_text)
    way = ", ".join(hello.lanes)
    found = (
        f"{hello.node} {hello.version} at {url} (lane {way}) in {took_ms:.0f} ms, "
        f"as {hello.principal}"
    )
    if hello.version.split(".")[:2] != __version__.split(".")[:2]:
        return Check(
            "node", "warning", found, why, f"this command is {__version__}: upgrade the older"
        )
    return Check("node", "ok", found, why)


async def doctor(args: Namespace, out: Output, stop: Stop) -> Result:
    """Make every check; exit code 1 when one failed. A warning is no failure."""
    settings = settings_of(args)
    out.start()
    counts = {"ok": 0, "warning": 0, "failed": 0}
    for make in CHECKS:
        _tell(make(settings), out, counts)
    # Here --tls-cert and --tls-key are the node's own; what we show comes from the environment.
    ours = Namespace(**{**vars(args), "tls_cert": None, "tls_key": None})
    _tell(_shown(ours), out, counts)
    _tell(await _reach(ours), out, counts)
    data = {"ok": counts["ok"], "warnings": counts["warning"], "failed": counts["failed"]}
    out.text(f"{data['ok']} ok, {data['warnings']} warnings, {data['failed']} failed")
    return Result(data, EXIT_UNACCOUNTED if counts["failed"] else 0)


def _tell(check: Check, out: Output, counts: dict[str, int]) -> None:
    counts[check.state] += 1
    line = f"{check.state:8} {check.name:12} {check.found}"
    if check.state != "ok":
        line += f"\n{'':22}{check.why}" + (f": {check.help}" if check.help else "")
    out.item(asdict(check), line)
