"""`sira up`. Loads no gRPC, no event loop, no numpy: this process becomes the supervisor."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from sira.cli.output import EXIT_UNACCOUNTED, Output, Result
from sira.kernel.errors import SiraError
from sira.kernel.settings import SCHEMA, Settings, load
from sira.kernel.supervisor.run import run


def settings_of(args: Namespace) -> Settings:
    """Return the settings that flags, environment and file give."""
    flags = {name: getattr(args, name, None) for name in SCHEMA}
    for name, spec in SCHEMA.items():
        if spec.kind is bool and not flags[name]:
            flags[name] = None  # a switch that was left alone says nothing
    return load(flags=flags, file=args.config)


def up(args: Namespace, out: Output) -> Result:
    """Run a node until SIGTERM or SIGINT, which drain it."""
    from sira.cli.verbs import VERBS

    settings = settings_of(args)
    found: dict[str, Any] = {"node": settings.node_name, "data_dir": settings.data_dir}

    def ready(address: str) -> None:
        found["address"] = address
        out.start(**found)
        scheme = "siras" if settings.tls_cert else "sira"
        http = ""
        if settings.http and settings.host_port("http")[1]:  # port 0: the log says which it was
            http = f", {'https' if settings.tls_cert else 'http'}://{settings.http}"
        where = f"{scheme}://{address}{http}, data in {settings.data_dir}"
        out.text(f"{settings.node_name} is up at {where}")

    failures: list[SiraError] = []
    verbs = [(verb.name, verb.summary) for verb in VERBS]
    exit_code = run(settings, ready=ready, failed=failures.append, verbs=verbs)
    if failures:
        raise failures[0]
    return Result(found, EXIT_UNACCOUNTED if exit_code else 0)
