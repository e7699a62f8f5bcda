"""A text's features: stemmed words, pairs of words, and character n-grams inside words.

Hashed into 2^18 places by CRC-32 (zlib), which has no seed and is the same everywhere. Character
n-grams are taken of ` word `, so that a beginning and an end differ from a middle, as in fastText
(Bojanowski et al., 2017). Changing anything here changes vectors: raise `VERSION`, and the golden
values in tests/unit/registry/test_features.py with it. They are made in C (native/words.c), which
has the same words, endings and function words as are told here; a test holds both beside a third.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sira import _native

VERSION = 1
BITS = 18
PLACES = 1 << BITS
CHARS_MAX = 8_192  # of a text; what is beyond is not looked at
_WORD_CHARS_MAX = 32  # a longer run is no word; its beginning stands for it
_CACHED_WORDS = 1 << 16  # their stems
# 1 + ln(count) of counts from 0 on: no feature stands more often than a text has characters.
_VALUES = (1 + np.log(np.maximum(np.arange(CHARS_MAX * 18 + 2), 1).astype(np.float32))).astype(
    np.float32
)

# Function words of English: they say nothing of what is wanted. No list is needed of other
# languages' words: idf takes their weight once there are some dozens of texts.
_STOP_WORDS = """
a an and any are as at be by can could do does for from has have how i if in is it its me my of on
or our so that the their them there these this those to us was we what when where which who will
with would you your
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_")
_WORD = re.compile(r"[a-z]+|\d+|[^\W\d_a-z]+")
# Suffix -> what stands in its place; the first that fits is taken. After Porter (1980), one step.
_SUFFIXES = (
    ("ational", "ate"), ("izations", "ize"), ("ization", "ize"), ("nesses", ""), ("ness", ""),
    ("ments", ""), ("ment", ""), ("ations", "at"), ("ation", "at"), ("ings", ""), ("ing", ""),
    ("ies", "y"), ("edly", ""), ("ers", ""), ("er", ""), ("ed", ""), ("ly", ""), ("es", ""),
    ("s", ""), ("e", ""),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rows:
    """Sparse rows: row i has `places[starts[i]:starts[i + 1]]`, ascending, with their `values`."""

    starts: NDArray[np.int64]
    places: NDArray[np.int32]
    values: NDArray[np.float32]

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.starts) - 1


def words(text: str) -> list[str]:
    """Return the words of a text, lower case; `getHTTPStatus` and `get_http_status` give three."""
    plain = unicodedata.normalize("NFKC", text[:CHARS_MAX])
    return [word[:_WORD_CHARS_MAX] for word in _WORD.findall(_CAMEL.sub(" ", plain).lower())]


@lru_cache(_CACHED_WORDS)
def stem(word: str) -> str:
    """Return a word without its ending: enough that `booking`, `booked` and `books` meet."""
    if len(word) > 4 and not word.endswith("ss"):
        for suffix, instead in _SUFFIXES:
            if word.endswith(suffix) and len(word) - len(suffix) >= 3:
                return word[: -len(suffix)] + instead
    return word


def stems(text: str) -> list[str]:
    """Return the stems of a text's words, without function words, in their order."""
    return _native.text_stems(plain(text))


def features(text: str) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return a text's places, ascending, and in each 1 + ln(count)."""
    places, counts = _native.text_features(plain(text))
    return places, _VALUES[counts]


def plain(text: str) -> str | list[str]:
    """Return a text as the C core takes it: it splits ASCII itself, of others it gets the words."""
    return text if text.isascii() else words(text)


def rows(texts: Sequence[str]) -> Rows:
    """Return the features of texts as sparse rows."""
    if len(texts) == 1:
        places, values = features(texts[0])
        return Rows(np.array([0, len(places)]), places, values)
    return joined(features(text) for text in texts)


def joined(parts: Iterable[tuple[NDArray[np.int32], NDArray[np.float32]]]) -> Rows:
    """Return sparse rows made of single ones."""
    listed = list(parts)
    starts = np.zeros(len(listed) + 1, np.int64)
    np.cumsum([len(places) for places, _ in listed], out=starts[1:])
    return Rows(
        starts,
        np.concatenate([places for places, _ in listed] or [np.empty(0, np.int32)]),
        np.concatenate([values for _, values in listed] or [np.empty(0, np.float32)]),
    )


def packed(texts: Sequence[str]) -> _native.Features:
    """Return the features of texts as they are compared: a row each."""
    return _native.Features([_native.text_features(plain(text)) for text in texts])


def unpacked(made: _native.Features, i: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return row i as `features` does."""
    places, counts = made.row(i)
    return places, _VALUES[counts]
