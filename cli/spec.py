"""What programs read about the command, made from the table: specification, completion scripts."""

from __future__ import annotations

from typing import Any

from sira import __version__
from sira.cli import schemas
from sira.cli.output import ENVELOPE_VERSION
from sira.cli.table import COMMON, Argument, Verb, common
from sira.cli.verbs import VERBS, groups

_JSON_TYPES = {
    "string": "string",
    "path": "string",
    "integer": "integer",
    "number": "number",
    "boolean": "boolean",
}


def specification() -> dict[str, Any]:
    """Return every verb with arguments, results, effects and exit codes, as JSON Schema."""
    return {
        "v": ENVELOPE_VERSION,
        "sira": __version__,
        "schema": "https://json-schema.org/draft/2020-12/schema",
        "common": {
            "start": schemas.envelope("start", {"type": "object"}),
            "progress": schemas.envelope("progress", schemas.PROGRESS),
            "warning": schemas.envelope("warning", schemas.WARNING),
            "error": schemas.envelope("error", schemas.ERROR),
        },
        "verbs": [_verb(verb) for verb in VERBS],
    }


def _verb(verb: Verb) -> dict[str, Any]:
    arguments = (*verb.arguments, *common(verb))
    return {
        "name": verb.name,
        "summary": verb.summary,
        "effects": verb.effects,
        "default": verb.default,
        "endless": verb.endless,
        "arguments": {
            "type": "object",
            "properties": {a.key: _argument(a) for a in arguments},
            "required": [a.key for a in arguments if a.required],
            "additionalProperties": False,
        },
        "order": [a.key for a in arguments if a.positional],
        "item": None if verb.item is None else schemas.envelope("item", dict(verb.item)),
        "result": schemas.envelope("result", dict(verb.result)),
        "exit_codes": {str(code): meaning for code, meaning in verb.exit_codes.items()},
    }


def _argument(argument: Argument) -> dict[str, Any]:
    one: dict[str, Any] = {"type": _JSON_TYPES[argument.kind]}
    if argument.choices:
        one["enum"] = list(argument.choices)
    if argument.minimum is not None:
        one["minimum"] = argument.minimum
    schema: dict[str, Any] = {"type": "array", "items": one} if argument.many else one
    schema["description"] = argument.help
    schema["x-flag"] = None if argument.positional else argument.name
    if argument.default is not None:
        schema["default"] = argument.default
    return schema


def completion(shell: str) -> str:
    """Return a script for `shell` (bash, zsh or fish) that completes verbs and options."""
    return _fish() if shell == "fish" else _bash(zsh=shell == "zsh")


def _words() -> dict[str, list[str]]:
    """What may follow: "" -> verbs, "topics" -> second words and options, "pub" -> options."""
    everywhere = [argument.name for argument in COMMON]
    found: dict[str, list[str]] = {
        "": [*groups(), "--help", "--version", "--emit-spec", *everywhere]
    }
    for verb in VERBS:
        options = [a.name for a in verb.arguments if not a.positional]
        shared = [a.name for a in common(verb)]
        found[verb.name] = [*options, *shared, "--help"]
        first, _, second = verb.name.partition(" ")
        if second:
            row = found.setdefault(first, [*shared, "--help"])
            row.insert(0, second)
    return found


def _bash(*, zsh: bool) -> str:
    cases = "\n".join(
        f'    "{name}") words="{" ".join(words)}" ;;' for name, words in sorted(_words().items())
    )
    seconds = " ".join(verb.name.replace(" ", ":") for verb in VERBS if " " in verb.name)
    own = " ".join(groups())
    head = "autoload -U +X bashcompinit && bashcompinit\n" if zsh else ""
    return f"""{head}_sira() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" verb="" word words=""
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    [[ $word == -* ]] && continue
    if [[ -z $verb ]]; then verb=$word
    elif [[ " {seconds} " == *" $verb:$word "* ]]; then verb="$verb $word"; break; fi
  done
  case $verb in
{cases}
    *) words="--help" ;;
  esac
  if [[ " {own} " != *" ${{verb%% *}} "* ]]; then  # nothing yet, or a verb of a service
    word="${{COMP_WORDS[*]:1:COMP_CWORD-1}}"
    words+=" $("${{COMP_WORDS[0]}}" verbs --complete "$word" 2> /dev/null)"
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _sira sira
"""


def _fish() -> str:
    lines = [
        "complete -c sira -f",
        # What services brought, where no verb of the command's own stands.
        f"complete -c sira -n 'not __fish_seen_subcommand_from {' '.join(groups())}' "
        "-a '(set -l typed (commandline -opc); "
        'sira verbs --complete "$typed[2..]" 2> /dev/null)\'',
    ]
    for first, verbs in groups().items():
        summary = next((v.summary for v in verbs if v.default), verbs[0].summary)
        lines.append(f"complete -c sira -n __fish_use_subcommand -a {first} -d {_quoted(summary)}")
        for verb in verbs:
            _, _, second = verb.name.partition(" ")
            if second:
                lines.append(
                    f"complete -c sira -n '__fish_seen_subcommand_from {first}' "
                    f"-a {second} -d {_quoted(verb.summary)}"
                )
            for argument in (*verb.arguments, *common(verb)):
                if not argument.positional:
                    lines.append(
                        f"complete -c sira -n '__fish_seen_subcommand_from {first}' "
                        f"-l {argument.name[2:]} -d {_quoted(argument.help)}"
                    )
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
