"""From the table of verbs to parsed arguments and help. No verb is named here."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from sira.cli.output import UsageError
from sira.cli.table import COMMON, Argument, Verb, common
from sira.cli.verbs import groups

_TYPES: dict[str, Any] = {"string": str, "integer": int, "number": float, "path": str}

EPILOG = (
    "`sira VERB --help` tells more; `--json` and `--url` go with every verb. `sira verbs` shows "
    "those that services have brought to the node. "
    "`sira --emit-spec` prints all of this as JSON Schema, `sira --completion bash|zsh|fish` a "
    "completion script."
)


class _Parser(argparse.ArgumentParser):
    """argparse, with errors of our form: raised, and with the way out."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, help=f"see `{self.prog} --help`")


def expand_default(words: Sequence[str]) -> list[str]:
    """Write the second word of a two-word verb where it was left out."""
    table = groups()
    for index, word in enumerate(words):
        if word.startswith("-"):
            continue
        verbs = table.get(word, [])
        if any(verb.name == word for verb in verbs) or not verbs:
            return list(words)
        seconds = {verb.name.split()[1]: verb for verb in verbs}
        following = words[index + 1] if index + 1 < len(words) else ""
        if following in seconds or following in ("-h", "--help"):
            return list(words)
        default = next((name for name, verb in seconds.items() if verb.default), None)
        return [*words[: index + 1], *([default] if default else []), *words[index + 1 :]]
    return list(words)


def beyond(words: Sequence[str]) -> argparse.Namespace | None:
    """Return what the words say where they name a verb that is not this command's own, else None.

    It may be a service's: what every verb has is parsed, the rest is in `words`, the verb first.
    """
    parser = _Parser(prog="sira", add_help=False, allow_abbrev=False)
    for argument in COMMON:
        _add(parser, argument, default=None)
    try:
        found, rest = parser.parse_known_args(list(words))
    except UsageError:
        return None  # the whole parser says it better
    if not rest or rest[0].startswith("-") or rest[0] in groups():
        return None
    found.words = rest
    return found


def parser_of(verb: Verb) -> argparse.ArgumentParser:
    """Return the parser of what follows the name of a service's verb."""
    parser = _Parser(prog=f"sira {verb.name}", add_help=False, allow_abbrev=False)
    said = _said(verb)
    parser.description, parser.epilog = said["description"], said["epilog"]
    for argument in verb.arguments:
        _add(parser, argument, default=argument.default)
    for argument in common(verb):  # for people to read: `beyond` has parsed them
        _add(parser, argument, default=argparse.SUPPRESS)
    return parser


def build() -> argparse.ArgumentParser:
    """Return the parser of the whole command; the parsed verb is in `verb`."""
    parser = _Parser(
        prog="sira",
        description="Sira, a tensor-native message bus: run a node, use it, and see what it does.",
        epilog=EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="store_true", dest="tell_version", help="print the version"
    )
    parser.add_argument("--emit-spec", action="store_true", help="print every verb as JSON Schema")
    parser.add_argument("--completion", choices=("bash", "zsh", "fish"), help="print a script")
    for argument in COMMON:
        _add(parser, argument, default=None)
    verbs = parser.add_subparsers(metavar="VERB", title="verbs", parser_class=_Parser)
    for first, members in groups().items():
        if members[0].name == first:
            _add_verb(verbs, first, members[0])
            continue
        summary = "; ".join(verb.summary for verb in members if verb.default) or first
        group = verbs.add_parser(
            first, help=summary, description=f"sira {first}", allow_abbrev=False
        )
        seconds = group.add_subparsers(metavar="WORD", required=True, parser_class=_Parser)
        for verb in members:
            _add_verb(seconds, verb.name.split()[1], verb)
    return parser


def _add_verb(into: Any, word: str, verb: Verb) -> None:
    parser = into.add_parser(word, help=verb.summary, allow_abbrev=False, **_said(verb))
    parser.set_defaults(verb=verb)
    for argument in (*verb.arguments, *common(verb)):
        _add(
            parser, argument, default=argparse.SUPPRESS if argument in COMMON else argument.default
        )


def _said(verb: Verb) -> dict[str, str]:
    ends = "; ".join(f"{code} {meaning}" for code, meaning in verb.exit_codes.items())
    return {
        "description": f"{verb.summary[0].upper()}{verb.summary[1:].removesuffix('.')}.",
        "epilog": f"Exit codes: {ends}. Effects: {verb.effects}.",
    }


def _add(parser: argparse.ArgumentParser, argument: Argument, *, default: Any) -> None:
    how: dict[str, Any] = {"help": argument.help.replace("%", "%%"), "default": default}
    if argument.kind == "boolean":
        how["action"] = "store_true"
        how["default"] = False if default is None else default
    else:
        how["type"] = _reader(argument)
        if argument.choices:
            how["choices"] = argument.choices
        if argument.metavar:
            how["metavar"] = argument.metavar
        if argument.many:
            how["action"] = "append"
            how["default"] = []
    if argument.positional:
        if not argument.required:
            how["nargs"] = "?"
        how.setdefault("metavar", argument.name.upper())
        parser.add_argument(argument.key, **how)
    else:
        parser.add_argument(argument.name, dest=argument.key, **how)


def _reader(argument: Argument) -> Any:
    convert = _TYPES[argument.kind]

    def read(text: str) -> Any:
        try:
            value = convert(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no {argument.kind}") from None
        if argument.minimum is not None and not value >= argument.minimum:
            raise argparse.ArgumentTypeError(f"{text} is below {argument.minimum}")
        return value

    return read
