"""Keys of tokens, Ed25519: made, written to files, read back. The private one is a secret."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import biscuit_auth as biscuit

from sira.kernel.errors import BadSetting

KEYS_FORMAT = "sira-token-keys 1"  # public keys that a node believes
KEY_FORMAT = "sira-token-key 1"  # one private key
KEYS_MAX = 8  # each is tried with a token that no other signed

_KEY = re.compile(r"ed25519/[0-9a-f]{64}")
_PRIVATE = re.compile(r"ed25519-private/[0-9a-f]{64}")


def new_root_key() -> str:
    """Return a new private key, `ed25519-private/<hex>`: a secret."""
    return str(biscuit.KeyPair().private_key)


def public_key(root: str) -> str:
    """Return the public key of a private one, `ed25519/<hex>`.

    Raises:
        BadSetting: it is no private key.
    """
    return str(pair(root).public_key)


def key_file(root: str) -> str:
    """Return the file of a private key; a secret."""
    return f"{KEY_FORMAT}\n{root}\n"


def keys_file(public_keys: Sequence[str]) -> str:
    """Return the file of public keys that a node is to believe."""
    return "\n".join((KEYS_FORMAT, *public_keys, ""))


def parse_key_file(text: str) -> str:
    """Return the private key of a key file.

    Raises:
        BadSetting: it is none; the text is not repeated.
    """
    found = _rows(text, KEY_FORMAT, "the token key")
    if len(found) != 1 or not _PRIVATE.fullmatch(found[0]):
        raise BadSetting("the token key file holds no ed25519-private key")
    return found[0]


def parse_keys_file(text: str) -> tuple[str, ...]:
    """Return the public keys of a key file: one a line, `#` begins a comment.

    Raises:
        BadSetting: another format, no key, one that is none, or more than KEYS_MAX.
    """
    found = tuple(dict.fromkeys(_rows(text, KEYS_FORMAT, "the file of token keys")))
    if not 1 <= len(found) <= KEYS_MAX:
        raise BadSetting(f"the file of token keys has {len(found)} keys, of 1 to {KEYS_MAX}")
    for key in found:
        checked(key)
    return found


def _rows(text: str, form: str, what: str) -> list[str]:
    rows = [line.split("#", 1)[0].strip() for line in text.splitlines()]
    if not rows or rows[0] != form:
        raise BadSetting(f"{what} does not begin with the line `{form}`")
    return [row for row in rows[1:] if row]


def checked(key: str) -> biscuit.PublicKey:
    """Return the public key that a text is.

    Raises:
        BadSetting: it is none.
    """
    if not _KEY.fullmatch(key):
        # Never repeated: who mixes the files up has a private key here.
        raise BadSetting("what stands for a token key is not `ed25519/` and 64 hex digits")
    try:
        with no_panic():
            return biscuit.PublicKey(key)
    except Exception:
        raise BadSetting(f"{key!r} is no point of the curve of Ed25519") from None


def pair(root: str) -> biscuit.KeyPair:
    """Return the keys of a private one.

    Raises:
        BadSetting: it is none; the text is not repeated.
    """
    if not _PRIVATE.fullmatch(root):
        raise BadSetting("what stands for a token's root key is no ed25519-private key")
    return biscuit.KeyPair.from_private_key(biscuit.PrivateKey(root))


@contextmanager
def no_panic() -> Iterator[None]:
    """Turn a panic of the library, which is no Exception, into one."""
    try:
        yield
    except Exception:
        raise
    except BaseException as panic:
        if type(panic).__name__ != "PanicException":
            raise
        raise ValueError("the library gave up") from None
