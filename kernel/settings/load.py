"""Where values come from: flags, environment, file, default."""

from __future__ import annotations

import difflib
import os
import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sira.kernel.errors import BadSetting
from sira.kernel.settings.schema import SCHEMA, Settings
from sira.kernel.settings.services import ServiceSpec, read_services
from sira.kernel.settings.spec import Spec, Value

ENVIRONMENT_PREFIX = "SIRA_"
FILE_NAME = "sira.toml"
_HOSTNAME_CHARS_MAX = 64


def load(
    *,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    file: str | Path | None = None,
) -> Settings:
    """Read the settings.

    Args:
        flags: by setting name; a value of None was not given.
        environ: the environment; None: the process's own.
        file: TOML file, which must exist; None: SIRA_CONFIG, else `sira.toml` of the data folder
            where there is one.

    Raises:
        BadSetting: unknown name, wrong type, outside the limits, or a file that cannot be read.
    """
    environ = os.environ if environ is None else environ
    flags = {name: value for name, value in (flags or {}).items() if value is not None}
    values: dict[str, Value] = {}
    origins = dict.fromkeys(SCHEMA, "default")
    services: tuple[ServiceSpec, ...] = ()

    def take(name: str, value: object, origin: str, source: str) -> None:
        values[name] = _spec(name, source).read(value, source)
        origins[name] = origin

    path = _file(file, flags, environ)
    if path is not None:
        for name, value in _read_toml(path).items():
            if name == "services":
                services = read_services(value, str(path))
                continue
            if name == "http_mounts" and isinstance(value, dict):
                value = ", ".join(f"{mount}={app}" for mount, app in value.items())
            take(name, value, "file", str(path))
    for name in SCHEMA:
        variable = ENVIRONMENT_PREFIX + name.upper()
        if variable in environ:
            take(name, environ[variable], "environment", variable)
    for name, value in flags.items():
        take(name, value, "flag", "--" + name.replace("_", "-"))
    values["data_dir"] = values.get("data_dir") or default_data_dir(environ)
    values["node_name"] = values.get("node_name") or _node_name()
    settings = Settings(**values, origins=origins, services=services)  # type: ignore[arg-type]  # read() saw to it
    for name in ("listen", "listen_mtls", "http"):  # a bad one is said now, not at the port
        if name == "listen" or getattr(settings, name):
            settings.host_port(name)
    return settings


def _file(
    file: str | Path | None, flags: Mapping[str, object], environ: Mapping[str, str]
) -> Path | None:
    """Return the file to read: one that was named, or that of the data folder if it is there."""
    named = file or environ.get("SIRA_CONFIG")
    if named:
        return Path(named)
    folder = flags.get("data_dir") or environ.get("SIRA_DATA_DIR") or environ.get("SIRA_HOME")
    path = Path(str(folder or default_data_dir(environ))) / FILE_NAME
    return path if path.is_file() else None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadSetting(
            f"settings file {path} cannot be read: {error}", details={"file": str(path)}
        ) from error


def _spec(name: str, source: str) -> Spec:
    if name in SCHEMA:
        return SCHEMA[name]
    near = difflib.get_close_matches(name, SCHEMA, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise BadSetting(
        f"{source} has no setting {name[:80]!r}{hint}", details={"setting": name, "origin": source}
    )


def default_data_dir(environ: Mapping[str, str]) -> str:
    """Return where a node keeps its data when no setting says."""
    home = environ.get("SIRA_HOME")
    if home:
        return home
    base = environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return str(Path(base) / "sira")


def _node_name() -> str:
    """Return the host's name as far as a principal may carry it."""
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in socket.gethostname())
    return name.lstrip("._-")[:_HOSTNAME_CHARS_MAX] or "node"
