"""Rights as Biscuit checks: the form in which we write them, and how they are read back.

A right is some actions on some topics. As a check it is a list of alternatives, one a topic:

    check if action("call")
      or action($a), resource($r), ["publish"].contains($a), $r.matches("^lab\\.[^.>]+$")

Calling a method is always among them: a method asks again for what it does. So are replies: the
name of a private reply topic is known only to those who were asked to answer there.

A pattern becomes a regular expression that matches exactly the names, and the patterns, inside it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from sira import _native
from sira.kernel.authorize import ACTIONS
from sira.kernel.errors import BadRequest, SiraError
from sira.kernel.policy.patterns import meet

TOPICS_MAX = 32  # of one right: each is a regular expression to run at every decision
EXPIRES_S_MAX = 253_402_300_799.0  # end of the year 9999, the last that a date can say
REPLIES = "_reply.*"

_REST = ".+"
_TOKEN = "[^.>]+"
# A wildcard in the first place leaves out `sira` and what begins with `_`; without look-ahead.
_FIRST = (
    "(?:[^_s.>][^.>]*|s|si|sir|s[^i.>][^.>]*|si[^r.>][^.>]*|sir[^a.>][^.>]*|sira[^.>]+)"
)  # fmt: skip
_ALL = rf"(?:>|{_FIRST}(?:\..+)?)"

_LIST = r'\["[a-z_]+"(?:, "[a-z_]+")*\]'
_ALTERNATIVE = re.compile(
    rf"action\(\$a\), resource\(\$r\), (?P<both>{_LIST})\.contains\(\$a\), "
    r'\$r\.matches\("(?P<re>[^"]*)"\)'
    rf"|action\(\$a\), (?P<actions>{_LIST})\.contains\(\$a\)"
    r'|resource\(\$r\), \$r\.matches\("(?P<only>[^"]*)"\)'
)
_CALL = 'action("call")'
_DATE = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
_TIME = re.compile(
    rf"check if time\(\$(?P<v>\w+)\)(?P<terms>(?:, \$(?P=v) (?:<|<=|>|>=) {_DATE})+)"
)
_TERM = re.compile(rf", \$\w+ (<=|<|>=|>) ({_DATE})")


@dataclass(frozen=True, slots=True)
class Right:
    """Some actions on some topics; () stands for all of them.

    Attributes:
        actions: of ACTIONS.
        topics: names and patterns.
    """

    actions: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what a check could not say.

        Raises:
            BadRequest: an unknown action, too many topics, or one that a token cannot tell.
            BadTopic: what stands under `topics` is no pattern.
        """
        for action in self.actions:
            if action not in ACTIONS:
                raise BadRequest(f"{action[:40]!r} is no action ({', '.join(ACTIONS)})")
        if len(self.topics) > TOPICS_MAX:
            raise BadRequest(f"a right names at most {TOPICS_MAX} topics, not {len(self.topics)}")
        for topic in self.topics:
            _native.check_pattern(topic)
            if '"' in topic:
                raise BadRequest(f"a token cannot name {topic!r}: it has a quotation mark in it")

    def meets(self, action: str, pattern: str) -> tuple[str, ...]:
        """Return the patterns inside `pattern` for which it gives an action; replies count."""
        if self.actions and action not in self.actions:
            return ()
        if not self.topics:
            return (pattern,)
        topics = (*self.topics, REPLIES)
        return tuple(p for topic in topics if (p := meet(topic, pattern)) is not None)


@dataclass(frozen=True, slots=True)
class Window:
    """When something holds: from `begins_s` until before `expires_s`, s since 1970."""

    begins_s: float = -math.inf
    expires_s: float = math.inf


# ---- patterns and regular expressions -----------------------------------------------------------


def expression(pattern: str) -> str:
    """Return the regular expression of the names and patterns inside a checked pattern."""
    if pattern == ">":
        return f"^{_ALL}$"
    parts = []
    for index, token in enumerate(pattern.split(".")):
        if token == "*":
            parts.append(_FIRST if index == 0 else _TOKEN)
        else:
            parts.append(_REST if token == ">" else re.escape(token))
    return "^" + "\\.".join(parts) + "$"


def pattern_of(text: str) -> str | None:
    """Return the pattern that `expression` makes `text` of; None: there is none."""
    if text == f"^{_ALL}$":
        return ">"
    inner, at, found = text[1:-1], 0, ""
    while at < len(inner):
        for written, wildcard in ((_FIRST, "*"), (_TOKEN, "*"), (_REST, ">")):
            if inner.startswith(written, at):
                found, at = found + wildcard, at + len(written)
                break
        else:
            at += inner[at] == "\\"
            found, at = found + inner[at : at + 1], at + 1
    try:
        _native.check_pattern(found)
    except SiraError:
        return None
    return found if expression(found) == text else None


# ---- writing ------------------------------------------------------------------------------------


def written(rights: Iterable[Right]) -> str:
    """Return the check that one of the rights must hold; "" where they say nothing."""
    alternatives = [_CALL]
    for right in rights:
        if not right.actions and not right.topics:
            return ""
        actions = ", ".join(f'"{action}"' for action in dict.fromkeys(right.actions))
        if not right.topics:
            alternatives.append(f"action($a), [{actions}].contains($a)")
            continue
        for topic in dict.fromkeys((*right.topics, REPLIES)):
            matches = f'$r.matches("{_quoted(expression(topic))}")'
            if actions:
                alternatives.append(
                    f"action($a), resource($r), [{actions}].contains($a), {matches}"
                )
            else:
                alternatives.append(f"resource($r), {matches}")
    return f"check if {' or '.join(alternatives)};\n"


def written_expiry(expires_s: float) -> str:
    """Return the check of an end, s since 1970, to whole seconds; "" for infinity.

    Raises:
        BadRequest: no time a date can say.
    """
    if expires_s == math.inf:
        return ""
    if not 0 <= expires_s <= EXPIRES_S_MAX:
        raise BadRequest(f"a token cannot end at {expires_s} s since 1970")
    date = datetime.fromtimestamp(int(expires_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"check if time($t), $t < {date};\n"


def _quoted(text: str) -> str:
    """Write text as a Datalog string; it has no quotation mark and no line end."""
    return text.replace("\\", "\\\\")


# ---- reading back -------------------------------------------------------------------------------


def read_rights(line: str) -> tuple[Right, ...] | None:
    """Return the rights of a check as a token prints it; None: it is not of our form.

    Requires: no string of the check has a quotation mark in it, else a string could pass for code.
    """
    if not line.startswith("check if "):
        return None
    alternatives = line.removeprefix("check if ").split(" or ")
    if alternatives[0] != _CALL:
        return None
    everywhere: list[tuple[str, ...]] = []  # actions that some alternative gives on all topics
    on: dict[tuple[str, ...], list[str]] = {}
    for alternative in alternatives[1:]:
        match = _ALTERNATIVE.fullmatch(alternative)
        if match is None:
            return None
        listed = match["both"] or match["actions"]
        actions = tuple(re.findall('"([a-z_]+)"', listed)) if listed else ()
        text = match["re"] if match["re"] is not None else match["only"]
        if text is None:
            everywhere.append(actions)
            continue
        topic = pattern_of(text)
        if topic is None:
            return None
        on.setdefault(actions, []).append(topic)
    try:
        return (
            *(Right(actions) for actions in everywhere),
            *(Right(actions, _without_replies(topics)) for actions, topics in on.items()),
        )
    except SiraError:  # an action that a newer Sira knows, or more topics than one of ours has
        return None


def _without_replies(topics: list[str]) -> tuple[str, ...]:
    return tuple(topic for topic in topics if topic != REPLIES) or (REPLIES,)


def read_window(line: str) -> Window | None:
    """Return when a check holds, where it is about the time alone; None: it is not."""
    match = _TIME.fullmatch(line)
    if match is None:
        return None
    begins_s, expires_s = -math.inf, math.inf
    for comparison, date in _TERM.findall(match["terms"]):
        try:
            at_s = datetime.fromisoformat(date).timestamp()
        except ValueError:  # a year that Python cannot say
            return None
        if comparison in ("<", "<="):
            expires_s = min(expires_s, at_s + (comparison == "<="))
        else:
            begins_s = max(begins_s, at_s + (comparison == ">"))
    return Window(begins_s, expires_s)


def lines(source: str) -> Iterator[str]:
    """Yield the statements of a block as it is printed, one a line, without their ends."""
    for line in source.splitlines():
        yield line.removesuffix(";")
