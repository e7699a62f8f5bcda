"""`sira config show` and `sira version`."""

from __future__ import annotations

import json
import platform
from argparse import Namespace
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from typing import Any

from sira import __version__
from sira.cli.link import Stop, connected
from sira.cli.output import Output, Result
from sira.cli.up import settings_of
from sira.kernel.settings import SCHEMA, Settings


def setting_rows(settings: Settings) -> list[dict[str, Any]]:
    """Return every setting as JSON has it."""
    return [
        {
            "name": name,
            "value": spec.shown(getattr(settings, name)),
            "unit": spec.unit,
            "origin": settings.origins[name],
            "reason": f"{spec.reason}; {spec.breaks}" if spec.breaks else spec.reason,
            "schema": json.loads(spec.json_schema()),
        }
        for name, spec in SCHEMA.items()
    ]


async def config_show(args: Namespace, out: Output, stop: Stop) -> Result:
    """Show every setting, its value, where it comes from, and why it is there."""
    from rich.table import Table

    out.start()
    if args.running:
        async with connected(args) as bus:
            rows = [_running_row(setting) for setting in (await bus.introspect()).settings]
    else:
        rows = setting_rows(settings_of(args))
    table = Table("setting", "value", "unit", "from", "why")
    for row in rows:
        out.item(row)
        table.add_row(row["name"], row["value"], row["unit"], row["origin"], row["reason"])
    out.show(table)
    return Result({"count": len(rows)})


def _running_row(setting: Any) -> dict[str, Any]:
    return {
        "name": setting.name,
        "value": setting.value,
        "unit": setting.unit,
        "origin": setting.source,
        "reason": setting.reason,
        "schema": json.loads(setting.schema or "{}"),
    }


def version(args: Namespace, out: Output) -> Result:
    """Show the version of this command and of what it stands on."""
    from sira import _native
    from sira.kernel.introspect import PROTOCOL

    data = {
        "sira": __version__,
        "native": _native.version(),
        "protocol": PROTOCOL,
        "python": platform.python_version(),
        "grpcio": _installed("grpcio"),
        "numpy": _installed("numpy"),
    }
    out.text(__version__)
    return Result(data)


def _installed(name: str) -> str:
    try:
        return installed(name)
    except PackageNotFoundError:
        return "not installed"
