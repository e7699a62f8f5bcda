"""What a Biscuit may hold before it is believed or run: a look at its bytes, with a limit on each.

Whoever holds a token may append blocks to it, so their content is a stranger's. Its signature says
who wrote it, not that running it is cheap: a join over ten facts in one appended block was seen to
take 80 s (biscuit-auth 6.0 looks at its time limit only between rules and checks), and a regular
expression of seven characters 0.1 s. So appended blocks may hold checks alone, over the four facts
that we state, without closures; regular expressions are literals, without counted repetition and
without classes of letters (`\\w`). What is left costs time in proportion to its length.

Layout: https://github.com/eclipse-biscuit/biscuit/blob/main/schema.proto
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator

from sira.kernel.errors import Unauthenticated

TOKEN_CHARS_MAX = 16 << 10  # gRPC's metadata of one call holds no more by default
BLOCKS_MAX = 16  # each costs two signatures to check
AUTHORITY_STATEMENTS_MAX = 64  # facts, rules and checks that the issuer wrote
APPENDED_STATEMENTS_MAX = 128
MATCHES_MAX = 256  # regular expressions in all blocks: each is compiled at every decision
EXPRESSION_CHARS_MAX = 1_024  # of regular expressions that are not ours, in all blocks
PREDICATES_MAX = 64  # of one foreign check
PLUSES_MAX = 8  # in one foreign check: texts joined again and again grow with its square
FACTS = frozenset({"action", "resource", "time", "principal"})

# Field numbers of schema.proto.
_AUTHORITY, _BLOCKS = 2, 3  # of Biscuit
_CONTENT, _EXTERNAL = 1, 4  # of SignedBlock
_SYMBOLS, _CONTEXT, _VERSION, _FACTS, _RULES, _CHECKS = 1, 2, 3, 4, 5, 6  # of Block

_TEXT = re.compile(r"[A-Za-z0-9_-]+={0,2}")
_STRING = re.compile(r'"[^"]*"')
_MATCHES = re.compile(r'\.matches\("([^"]*)"\)')
_PREDICATE = re.compile(r"(?<![.\w])([A-Za-z_][\w:]*)\(")
_COSTLY = re.compile(r"\{|\\[A-Za-z]")


def unpacked(text: str) -> bytes:
    """Return the bytes of a token whose structure is within limits; nothing is verified yet.

    Raises:
        Unauthenticated: too long, no Biscuit, or one that holds what only its issuer may write.
    """
    if len(text) > TOKEN_CHARS_MAX:
        raise Unauthenticated(f"the token is longer than {TOKEN_CHARS_MAX} characters")
    if not _TEXT.fullmatch(text):
        raise Unauthenticated("the token is no Biscuit: not base64url")
    try:
        data = base64.urlsafe_b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4))
        blocks = list(_blocks(data))
    except (binascii.Error, IndexError, ValueError):
        raise Unauthenticated("the token is no Biscuit, or a part of one") from None
    if not 1 <= len(blocks) <= BLOCKS_MAX:
        raise Unauthenticated(f"the token has {len(blocks)} blocks, and may have 1 to {BLOCKS_MAX}")
    for index, (external, content) in enumerate(blocks):
        try:
            _check_block(index, external, content)
        except (IndexError, ValueError):
            raise Unauthenticated(f"block {index} of the token cannot be read") from None
    return data


def check_source(index: int, source: str, *, canonical: frozenset[str]) -> tuple[int, int]:
    """Refuse an appended block whose checks could take long.

    Args:
        index: of the block; 0, the issuer's, may hold anything.
        source: the block as it is printed. `unpacked` has seen to it that no string in it has a
            quotation mark, so what stands outside of quotation marks is code.
        canonical: statements of it that are of our own form.
    Returns:
        How many regular expressions it has, and how many characters those have that are not ours.
    Raises:
        Unauthenticated: says what may not be there.
    """
    matches = chars = 0
    for line in source.splitlines():
        matches += line.count(".matches(")
        if index == 0 or line.removesuffix(";") in canonical:
            continue
        code = _STRING.sub('""', line)
        if "->" in code:
            raise _refused(index, "a closure")
        predicates = _PREDICATE.findall(code)
        if len(predicates) > PREDICATES_MAX:
            raise _refused(index, f"a check of more than {PREDICATES_MAX} predicates")
        if code.count("+") > PLUSES_MAX:
            raise _refused(index, f"a check with more than {PLUSES_MAX} `+`")
        for name in predicates:
            if name not in FACTS:
                raise _refused(index, f"the predicate {name[:40]!r}")
        if code.count(".matches(") != code.count('.matches("")'):
            raise _refused(index, "a regular expression that is put together")
        if ".matches(" in code and any(_COSTLY.search(s) for s in _STRING.findall(line)):
            raise _refused(index, "a regular expression with `{` or a class such as `\\w`")
        chars += sum(len(text) for text in _MATCHES.findall(line))
    return matches, chars


def _refused(index: int, what: str) -> Unauthenticated:
    return Unauthenticated(
        f"block {index} of the token has {what}: this node runs only what ends soon",
        help="narrow with checks on action, resource and time; see `sira token narrow --help`",
    )


def _check_block(index: int, external: bool, content: bytes) -> None:
    counts = dict.fromkeys((_FACTS, _RULES, _CHECKS), 0)
    for number, value in _fields(content):
        if number in counts:
            counts[number] += 1
        elif number == _SYMBOLS and isinstance(value, bytes):
            text = value.decode()
            if '"' in text or not text.isprintable():
                raise Unauthenticated(f"a text in block {index} of the token cannot be printed")
        elif number not in (_CONTEXT, _VERSION):
            raise _refused(index, "a scope or a key of its own")
    if index == 0:
        if sum(counts.values()) > AUTHORITY_STATEMENTS_MAX:
            raise Unauthenticated(f"the token says more than {AUTHORITY_STATEMENTS_MAX} things")
        return
    if external:
        raise _refused(index, "the signature of a third party")
    if counts[_FACTS] or counts[_RULES]:
        raise _refused(index, "facts or rules")
    if counts[_CHECKS] > APPENDED_STATEMENTS_MAX:
        raise _refused(index, f"more than {APPENDED_STATEMENTS_MAX} checks")


def _blocks(data: bytes) -> Iterator[tuple[bool, bytes]]:
    """Yield (signed by a third party, content) of each block, the issuer's first."""
    first: list[tuple[bool, bytes]] = []
    others: list[tuple[bool, bytes]] = []
    for number, value in _fields(data):
        if number not in (_AUTHORITY, _BLOCKS):
            continue
        if not isinstance(value, bytes):
            raise ValueError(number)
        signed = list(_fields(value))
        contents = [each for n, each in signed if n == _CONTENT and isinstance(each, bytes)]
        if len(contents) != 1:
            raise ValueError(number)
        external = any(n == _EXTERNAL for n, _ in signed)
        (first if number == _AUTHORITY else others).append((external, contents[0]))
        if len(first) > 1 or len(others) > BLOCKS_MAX:
            break
    if len(first) != 1:
        raise ValueError(len(first))
    yield from (*first, *others)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the fields of a protobuf message; IndexError or ValueError: it is none."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
        elif key & 7 == 2:
            size, at = _varint(data, at)
            if size > len(data) - at:
                raise ValueError(size)
            yield key >> 3, data[at : at + size]
            at += size
        else:
            raise ValueError(key)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError(shift)
