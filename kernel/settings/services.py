"""`[services.NAME]` of the settings file: processes that the supervisor starts beside the node."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sira.kernel.errors import BadSetting

RESTARTS = ("always", "failed", "never")
SERVICES_MAX = 64
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_RUN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_TAKEN = ("node", "http")  # children of the supervisor's own


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """One service to be started.

    Attributes:
        name: in facts and logs.
        run: `package.module:factory`; the factory returns a `sira.Service` or `sira.Agent`.
        command: a command line instead; it connects by itself.
        token_file: what it shows to the node (`SIRA_TOKEN_FILE`); "": nothing.
        restart: `always`, `failed` (unless it ends with 0), `never`.
        folder: where it runs, and where `run` is looked for first; "": where `sira up` runs.
        env: what is added to its environment.
    """

    name: str
    run: str = ""
    command: tuple[str, ...] = ()
    token_file: str = ""
    restart: str = "always"
    folder: str = ""
    env: tuple[tuple[str, str], ...] = ()


def read_services(table: object, source: str) -> tuple[ServiceSpec, ...]:
    """Read the section `services` of a TOML file.

    Raises:
        BadSetting: a key or a value that cannot be; it names both.
    """
    if not isinstance(table, Mapping):
        raise _bad("services", source, "is no table of services")
    if len(table) > SERVICES_MAX:
        raise _bad("services", source, f"has {len(table)} services, at most {SERVICES_MAX}")
    return tuple(_read(str(name), value, source) for name, value in table.items())


def _read(name: str, value: object, source: str) -> ServiceSpec:
    where = f"services.{name[:63]}"
    if not _NAME.fullmatch(name) or name in _TAKEN:
        raise _bad(where, source, "is no name of a service: lower case, not node or http")
    if not isinstance(value, Mapping):
        raise _bad(where, source, "is no table")
    given: dict[str, Any] = dict(value)
    texts = {key: given.pop(key, "") for key in ("run", "token_file", "folder")}
    restart, command, env = (
        given.pop("restart", "always"), given.pop("command", []), given.pop("env", {}),
    )  # fmt: skip
    for key in given:
        known = "run, command, token_file, restart, folder, env"
        raise _bad(f"{where}.{key[:63]}", source, f"is not known; {known} are")
    for key, text in texts.items():
        if not isinstance(text, str):
            raise _bad(f"{where}.{key}", source, "is no text")
    if restart not in RESTARTS:
        raise _bad(f"{where}.restart", source, f"is none of {', '.join(RESTARTS)}")
    if not isinstance(command, list) or not all(isinstance(each, str) for each in command):
        raise _bad(f"{where}.command", source, "is no list of texts")
    if not isinstance(env, Mapping) or not all(isinstance(each, str) for each in env.values()):
        raise _bad(f"{where}.env", source, "is no table of texts")
    if bool(texts["run"]) == bool(command):
        raise _bad(where, source, "has either run or command")
    if texts["run"] and not _RUN.fullmatch(texts["run"]):
        raise _bad(f"{where}.run", source, "is not package.module:factory")
    pairs = tuple((str(key), str(each)) for key, each in env.items())
    return ServiceSpec(name, command=tuple(command), restart=restart, env=pairs, **texts)


def _bad(name: str, source: str, why: str) -> BadSetting:
    return BadSetting(f"{name} ({source}) {why}", details={"setting": name, "origin": source})
