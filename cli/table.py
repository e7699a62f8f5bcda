"""What a verb and an argument are, and what every verb has: --json, --url, and what we show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sira.cli.output import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
)

Kind = Literal["string", "integer", "number", "boolean", "path"]
Effects = Literal["read", "idempotent", "once"]


@dataclass(frozen=True, kw_only=True)
class Argument:
    """One argument. A name with dashes is an option, else its place counts."""

    name: str
    help: str
    kind: Kind = "string"
    default: Any = None
    choices: tuple[str, ...] = ()
    metavar: str = ""
    many: bool = False
    required: bool = False
    minimum: float | None = None

    @property
    def positional(self) -> bool:
        """Whether it is told by its place."""
        return not self.name.startswith("-")

    @property
    def key(self) -> str:
        """Its name in the parsed arguments and in the specification."""
        return self.name.lstrip("-").replace("-", "_")


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One verb: what it takes, does, gives, and how it may end."""

    name: str
    summary: str
    run: str
    """`module:function` of sira.cli; loaded when the verb runs."""
    arguments: tuple[Argument, ...] = ()
    effects: Effects = "read"
    result: Mapping[str, Any] = field(default_factory=dict)
    item: Mapping[str, Any] | None = None
    exits: Mapping[int, str] = field(default_factory=dict)
    endless: bool = False
    """Ctrl-C is the usual way to end it: then it ends with a result, not with INTERRUPTED."""
    connects: bool = True
    default: bool = False

    @property
    def exit_codes(self) -> dict[int, str]:
        """Exit code -> meaning, the common ones included."""
        common = {EXIT_OK: "done, and all is accounted for", EXIT_USAGE: "the arguments are wrong"}
        if self.connects:
            common[EXIT_REFUSED] = "the node refused, or the request failed"
            common[EXIT_UNREACHABLE] = "no node answers at the address"
        common[EXIT_INTERRUPTED] = "interrupted before it was done"
        return dict(sorted({**common, **self.exits}.items()))


JSON = Argument(
    name="--json", kind="boolean", help="print one JSON envelope a line, and nothing else"
)
URL = Argument(
    name="--url",
    metavar="URL",
    help="the node; several are joined by commas (default: SIRA_URL, else that of this host)",
)
SHOWN = (
    Argument(
        name="--token-file",
        kind="path",
        metavar="FILE",
        help="token shown to the node, a file of mode 0600 (SIRA_TOKEN_FILE, else SIRA_TOKEN)",
    ),
    Argument(
        name="--tls-ca",
        kind="path",
        metavar="FILE",
        help="PEM of who may vouch for a siras:// node (SIRA_TLS_CA)",
    ),
    Argument(
        name="--tls-cert",
        kind="path",
        metavar="FILE",
        help="PEM of our certificate (SIRA_CLIENT_CERT)",
    ),
    Argument(
        name="--tls-key", kind="path", metavar="FILE", help="PEM of its key (SIRA_CLIENT_KEY)"
    ),
)
COMMON = (JSON, URL, *SHOWN)


def common(verb: Verb) -> tuple[Argument, ...]:
    """Return the arguments that a verb has beside its own.

    One that it has itself is left out: `sira doctor --tls-cert` names the node's certificate.
    """
    own = {argument.name for argument in verb.arguments}
    return tuple(
        each for each in (COMMON if verb.connects else (JSON, URL)) if each.name not in own
    )
