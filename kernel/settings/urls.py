"""Settings that are URLs: which are taken, and how one is shown without its password."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit

_USER = re.compile(r"(?<=://)[^/?#]*@")
HIDDEN = "***"


def why_not(text: str, schemes: tuple[str, ...], options: tuple[str, ...]) -> str:
    """Return why a text is no URL as it is wanted; "": it is. Of the text itself nothing is said.

    Args:
        schemes: one of these.
        options: names that may stand in the query; a password there would be seen by everybody.
    """
    try:
        url = urlsplit(text)
        place = url.path if url.scheme == "unix" else url.hostname
        url.port  # noqa: B018  it is looked at when it is asked for
        asked = [name for name, _ in parse_qsl(url.query, keep_blank_values=True)]
    except ValueError:
        return "is no URL"
    if url.scheme not in schemes:
        return f"does not begin with {', '.join(f'{each}://' for each in schemes)}"
    if not place:
        return "names no host" if url.scheme != "unix" else "names no path"
    if not set(asked) <= set(options):
        return f"has other options than {', '.join(options)}"
    return ""


def shown(text: str) -> str:
    """Return a text with the password of a URL in it hidden."""

    def hide(match: re.Match[str]) -> str:
        user, colon, _ = match[0].partition(":")
        return f"{user}:{HIDDEN}@" if colon else match[0]

    return _USER.sub(hide, text)
