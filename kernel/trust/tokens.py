"""Biscuit tokens: made by who holds the root key, narrowed by any holder, believed by a node.

A token is a chain of signed blocks. The first says `principal("sira://...")` and what it may do;
each holder may append a block of checks that all must hold, and nobody can take one away. Offline:
nobody is asked. The node runs the checks with three facts of its own: `action(...)`,
`resource(...)` (a topic, a pattern or a method) and `time(...)`.

https://doc.biscuitsec.org/reference/specifications
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import biscuit_auth as biscuit

from sira.kernel.errors import BadRequest, BadSetting, SiraError, Unauthenticated
from sira.kernel.identity import Principal
from sira.kernel.trust import blocks, checks, token_keys
from sira.kernel.trust.checks import Right, Window
from sira.kernel.trust.credential import Credential
from sira.kernel.trust.token_keys import (
    checked,
    key_file,
    keys_file,
    new_root_key,
    no_panic,
    parse_key_file,
    parse_keys_file,
    public_key,
)

__all__ = [
    "Block",
    "Description",
    "TokenScope",
    "TokenVerifier",
    "describe",
    "key_file",
    "keys_file",
    "mint",
    "narrow",
    "new_root_key",
    "parse_key_file",
    "parse_keys_file",
    "public_key",
]

# A check about time that is not plainly "until then": its answer is believed for so long, then the
# token is looked at again.
UNREAD_TIME_S = 60.0
_READABLE_MAX = 256  # patterns that a subscription is cut to; past it: it cannot be said

# What one decision may cost. The time is a wall clock's: room for a machine that is busy.
_FACTS_MAX = 256
_ITERATIONS_MAX = 32
_TIME_MAX = timedelta(milliseconds=250)

_FAILED = "following checks failed: "
_Name = TypeVar("_Name")


# ---- making -------------------------------------------------------------------------------------


def mint(
    root: str,
    principal: Principal,
    *,
    rights: Sequence[Right] = (),
    expires_s: float = math.inf,
) -> str:
    """Return a new token.

    Args:
        root: the private key.
        principal: for whom it speaks.
        rights: one of which each use must have; () leaves it all to the node's policy.
        expires_s: wall clock, s since 1970; cut to whole seconds.

    Raises:
        BadRequest: rights or a time that a token cannot say.
    """
    pair = token_keys.pair(root)
    # The key is told so that a holder who has the token alone can narrow it. No node believes it.
    source = (
        f'principal("{principal}");\nissuer(hex:{pair.public_key.to_bytes().hex()});\n'
        + _restrictions(rights, expires_s)
    )
    return _fitting(biscuit.BiscuitBuilder(source).build(pair.private_key))


def narrow(
    token: str,
    *,
    actions: Sequence[str] = (),
    topics: Sequence[str] = (),
    expires_s: float = math.inf,
    public_keys: Sequence[str] = (),
) -> str:
    """Return a token that can do less; the one given still does what it did.

    Args:
        token: any token that `mint` or `narrow` made.
        actions, topics: all that is left; () leaves what there was.
        expires_s: wall clock, s since 1970.
        public_keys: of its issuer; needed only for tokens that others than Sira made.

    Raises:
        BadRequest: nothing to narrow, or nothing a token can say.
        Unauthenticated: the token is broken, or would become too long.
    """
    source = _restrictions((Right(tuple(actions), tuple(topics)),), expires_s)
    if not source:
        raise BadRequest("nothing to narrow: name actions, topics or an end")
    data = blocks.unpacked(token)
    opened = _opened(data, [token_keys.checked(k) for k in public_keys or _claimed_keys(token)])
    narrowed = _fitting(opened.append(biscuit.BlockBuilder(source)))
    blocks.unpacked(narrowed)
    return narrowed


def _restrictions(rights: Sequence[Right], expires_s: float) -> str:
    return checks.written_expiry(expires_s) + (checks.written(rights) if rights else "")


def _fitting(token: biscuit.Biscuit) -> str:
    text = token.to_base64()
    if len(text) > blocks.TOKEN_CHARS_MAX:
        raise BadRequest(
            f"the token would have {len(text)} characters, at most {blocks.TOKEN_CHARS_MAX}"
        )
    return text


def _claimed_keys(token: str) -> tuple[str, ...]:
    """Return the key that an unverified token names as its issuer's."""
    with no_panic():
        source = biscuit.UnverifiedBiscuit.from_base64(token).block_source(0)
    found = re.search(r"^issuer\(hex:([0-9a-f]{64})\);$", source, re.MULTILINE)
    if found is None:
        raise Unauthenticated("the token does not name its issuer's key: give the public keys")
    return (f"ed25519/{found[1]}",)


# ---- looking ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a token, for people.

    Attributes:
        id: what revokes it and all that was narrowed from it: `biscuit:<hex>`.
        source: its statements in Datalog.
        rights: those of our own form; each of the tuples must be met by one of its rights.
        window: when it holds, as far as its checks of time can be read.
        unread: statements that are neither.
    """

    id: str
    source: str
    rights: tuple[tuple[Right, ...], ...]
    window: Window
    unread: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Description:
    """What a token says; `verified` tells whether a key that was given has signed it."""

    principal: str
    blocks: tuple[Block, ...]
    window: Window
    verified: bool


def describe(token: str, *, public_keys: Sequence[str] = ()) -> Description:
    """Read a token, with the issuer's key or without.

    Raises:
        Unauthenticated: it is no token, or, where keys are given, none of these signed it.
    """
    data = blocks.unpacked(token)
    keys = public_keys or _claimed_keys(token)
    opened = _opened(data, [token_keys.checked(key) for key in keys])
    reading = _Reading.of(opened)
    found = tuple(
        Block(*each)
        for each in zip(
            reading.ids,
            reading.sources,
            reading.rights,
            reading.windows,
            reading.unread,
            strict=True,
        )
    )
    return Description(reading.principal, found, reading.window, bool(public_keys))


@dataclass(frozen=True, slots=True)
class _Reading:
    """What a token whose signatures hold says, block by block."""

    principal: str
    ids: tuple[str, ...]
    sources: tuple[str, ...]
    rights: tuple[tuple[tuple[Right, ...], ...], ...]
    windows: tuple[Window, ...]
    unread: tuple[tuple[str, ...], ...]  # statements that are not of our form

    @property
    def window(self) -> Window:
        return Window(
            max(window.begins_s for window in self.windows),
            min(window.expires_s for window in self.windows),
        )

    @classmethod
    def of(cls, token: biscuit.Biscuit) -> _Reading:
        """Read every block.

        Raises:
            Unauthenticated: no principal, or blocks that may not be there.
        """
        try:
            with no_panic():
                sources = tuple(token.block_source(i) for i in range(token.block_count()))
                ids = tuple(f"biscuit:{each}" for each in token.revocation_ids)
                asked = _authorizer(token).query(biscuit.Rule("p($x) <- principal($x)"))
                principals = [fact.terms[0] for fact in asked]
        except Exception:
            raise Unauthenticated("the token cannot be read") from None
        if len(principals) != 1 or not isinstance(principals[0], str):
            raise Unauthenticated(f"the token names {len(principals)} principals, not one")
        rights, windows, unread, matches, chars = [], [], [], 0, 0
        for index, source in enumerate(sources):
            read, window, rest = _statements(index, source)
            canonical = frozenset(checks.lines(source)).difference(rest)
            more, longer = blocks.check_source(index, source, canonical=canonical)
            matches, chars = matches + more, chars + longer
            rights.append(read)
            windows.append(window)
            unread.append(rest)
        if matches > blocks.MATCHES_MAX or chars > blocks.EXPRESSION_CHARS_MAX:
            raise Unauthenticated(
                f"the token has {matches} regular expressions (at most {blocks.MATCHES_MAX}), with "
                f"{chars} characters in foreign ones (at most {blocks.EXPRESSION_CHARS_MAX})"
            )
        return cls(
            principals[0],
            ids,
            sources,
            tuple(rights),
            tuple(windows),
            tuple(unread),
        )


def _statements(
    index: int, source: str
) -> tuple[tuple[tuple[Right, ...], ...], Window, tuple[str, ...]]:
    """Read one block: its rights, when it holds, and the statements that are not of our form."""
    rights, rest, begins_s, expires_s = [], [], -math.inf, math.inf
    for line in checks.lines(source):
        if index == 0 and re.fullmatch(r'principal\("[^"]*"\)|issuer\(hex:[0-9a-f]*\)', line):
            continue
        window, read = checks.read_window(line), checks.read_rights(line)
        if window is not None:
            begins_s = max(begins_s, window.begins_s)
            expires_s = min(expires_s, window.expires_s)
        elif read is not None:
            rights.append(read)
        elif line:
            rest.append(line)
    return tuple(rights), Window(begins_s, expires_s), tuple(rest)


# ---- believing ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TokenScope:
    """What one token allows; asks its checks."""

    token: biscuit.Biscuit
    rights: tuple[tuple[Right, ...], ...]
    unread: bool

    def denies(self, action: str, resource: str, now_s: float) -> str | None:
        """Return None, or the checks that fail; about 0.1 ms."""
        try:
            with no_panic():
                asked = biscuit.AuthorizerBuilder(
                    "action({action}); resource({resource}); time({now});"
                    "allow if principal($someone);",
                    {
                        "action": action,
                        "resource": resource,
                        "now": datetime.fromtimestamp(now_s, UTC),
                    },
                )
                _authorizer(self.token, asked).authorize()
        except Exception as error:
            text = str(error)
            return (text.partition(_FAILED)[2] or text)[:400]
        return None

    def readable(self, pattern: str) -> tuple[str, ...] | None:
        """Return what of a pattern may be subscribed to, as far as its rights can be read."""
        if self.unread:
            return None
        found = {pattern: None}
        for alternatives in self.rights:
            found = {
                inner: None
                for each in found
                for right in alternatives
                for inner in right.meets("subscribe", each)
            }
            if len(found) > _READABLE_MAX:
                return None
        return tuple(found)


class TokenVerifier:
    """Believes tokens that one of its keys has signed, of one cluster."""

    def __init__(self, public_keys: Sequence[str], *, cluster: str) -> None:
        """Take the keys, `ed25519/<hex>`.

        Raises:
            BadSetting: one is no key, or there are more than KEYS_MAX.
        """
        if len(public_keys) > token_keys.KEYS_MAX:
            raise BadSetting(f"{len(public_keys)} token keys, at most {token_keys.KEYS_MAX}")
        self._keys = {f"key:{key.to_bytes().hex()}": key for key in map(checked, public_keys)}
        self._cluster = cluster

    @property
    def grounds(self) -> frozenset[str]:
        """What credentials can stand on: one of each key."""
        return frozenset(self._keys)

    def verify(self, text: str, now_s: float) -> Credential:
        """Return what a token proves at a time, s since 1970.

        Raises:
            Unauthenticated: why, without a character of the token.
        """
        data = blocks.unpacked(text)
        ground, opened = _opened_by(data, self._keys)
        reading = _Reading.of(opened)
        try:
            principal = Principal.parse(reading.principal)
        except SiraError:
            raise Unauthenticated("what the token calls a principal is none") from None
        if principal.cluster != self._cluster:
            raise Unauthenticated(
                f"the token is of cluster {principal.cluster!r}, this is {self._cluster!r}"
            )
        window = reading.window
        if now_s >= window.expires_s:
            raise Unauthenticated(
                f"the token ended {now_s - window.expires_s:.0f} s ago",
                details={"reason": "expired"},
            )
        if now_s < window.begins_s:
            raise Unauthenticated(f"the token holds only in {window.begins_s - now_s:.0f} s")
        expires_s = window.expires_s
        unread = [line for block in reading.unread for line in block]
        if any("time(" in line for line in unread):
            expires_s = min(expires_s, now_s + UNREAD_TIME_S)
        every = tuple(right for block in reading.rights for right in block)
        scope = TokenScope(opened, every, bool(unread))
        return Credential(principal, "token", reading.ids, expires_s, scope, (ground,))


def _opened(data: bytes, keys: Sequence[biscuit.PublicKey]) -> biscuit.Biscuit:
    """Return the token, when one of the keys has signed it."""
    return _opened_by(data, dict(enumerate(keys)))[1]


def _opened_by(
    data: bytes, keys: Mapping[_Name, biscuit.PublicKey]
) -> tuple[_Name, biscuit.Biscuit]:
    """Return the name of the key that has signed the token, and the token."""
    for name, key in keys.items():
        try:
            with no_panic():
                return name, biscuit.Biscuit.from_bytes(data, key)
        except Exception:
            continue
    raise Unauthenticated("no key that is believed here has signed the token, or it was changed")


def _authorizer(
    token: biscuit.Biscuit, asked: biscuit.AuthorizerBuilder | None = None
) -> biscuit.Authorizer:
    builder = asked or biscuit.AuthorizerBuilder()
    limits: Any = builder.limits()  # type: ignore[attr-defined]  # not in the library's stubs
    limits.max_facts, limits.max_iterations = _FACTS_MAX, _ITERATIONS_MAX
    limits.max_time = _TIME_MAX
    builder.set_limits(limits)  # type: ignore[attr-defined]
    return builder.build(token)
