"""What a child is started with: its module, its first message, its folder and environment."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sira.kernel.settings import Settings
from sira.kernel.settings.services import ServiceSpec
from sira.kernel.supervisor import pure
from sira.kernel.supervisor.child import ONE_THREAD
from sira.kernel.supervisor.control import Control

HTTP = "http"
# By name: what a child loads is none of ours.
_MODULES = {pure.NODE: "sira.services.node.daemon", HTTP: "sira.services.http.daemon"}
_RUN, _COMMAND = "sira.client.host", "sira.kernel.supervisor.command"
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
# What of our own environment would speak for the node, not for a service.
_OURS = ("SIRA_TOKEN", "SIRA_TOKEN_FILE", "SIRA_URL", "SIRA_FD")


@dataclass(frozen=True, slots=True)
class Plan:
    """How to start a child: what stands in its first message, where and with what it runs."""

    module: str
    begin: dict[str, Any]
    folder: str | None = None
    env: dict[str, str] | None = None


def plan(name: str, settings: Settings, verbs: Iterable[tuple[str, str]]) -> Plan:
    """Return how a child is started."""
    if name in _MODULES:
        values = {each.name: getattr(settings, each.name) for each in dataclasses.fields(settings)}
        values |= {"origins": dict(settings.origins), "services": ()}
        env = ONE_THREAD | dict(os.environ)
        return Plan(_MODULES[name], {"settings": values, "verbs": list(verbs)}, env=env)
    (spec,) = (each for each in settings.services if each.name == name)
    env = {key: value for key, value in os.environ.items() if key not in _OURS}
    env |= {"SIRA_URL": _url(settings)} | dict(spec.env)
    if spec.token_file:
        env["SIRA_TOKEN_FILE"] = os.path.abspath(spec.token_file)
    begin: dict[str, Any] = _begin(spec)
    return Plan(_RUN if spec.run else _COMMAND, begin, spec.folder or None, env)


def start(made: Plan, held: tuple[int, ...]) -> tuple[subprocess.Popen[bytes], Control]:
    """Start a process; it inherits the descriptors `held`.

    Raises:
        OSError: no process, no memory, no such folder.
    """
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-P", "-m", "sira.kernel.supervisor.child"]
    command += [str(os.getpid()), str(theirs.fileno()), made.module]
    try:
        popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=2,  # stdout is ours: one line, or envelopes
            pass_fds=(theirs.fileno(), *held),
            start_new_session=True,  # Ctrl-C comes to us alone, and we pass it on
            cwd=made.folder,
            env=made.env,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    control = Control(ours)
    control.send(begin=made.begin)
    return popen, control


def _begin(spec: ServiceSpec) -> dict[str, Any]:
    if spec.run:
        return {"name": spec.name, "run": spec.run}
    return {"command": list(spec.command)}


def _url(settings: Settings) -> str:
    """Return where a service on this host finds the node."""
    host, port = settings.host_port("listen")
    scheme = "siras" if settings.tls_cert else "sira"
    return f"{scheme}://{_ANYWHERE.get(host, host)}:{port}"
