"""Names made of texts. The node and the SDK make the same one of the same text."""

from __future__ import annotations

import re
import unicodedata

_CHARS_MAX = 48
_OTHERS = re.compile(r"[^a-z0-9]+")


def slug(text: str) -> str:
    """Return a token of a topic name, made of the first words of a text; "" where it has none."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = _OTHERS.sub("-", plain).strip("-")
    if len(words) > _CHARS_MAX:
        words = words[:_CHARS_MAX].rsplit("-", 1)[0]
    return words
