"""Blocks that no library would write, correctly signed by a holder: the worst that can be shown.

A holder has the key that signs the next block, so its bytes are his choice. Whatever they are, a
node answers with a refusal or a decision: no other exception, no panic, no end that does not come.
"""

from __future__ import annotations

import base64
import random
import struct

import biscuit_auth as biscuit
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sira.kernel.errors import Unauthenticated
from sira.kernel.identity import Principal
from sira.kernel.trust import blocks, tokens

ROOT = tokens.new_root_key()
NOW_S = 1_800_000_000.0
VERIFIER = tokens.TokenVerifier([tokens.public_key(ROOT)], cluster="local")
TOKEN = tokens.mint(ROOT, Principal("local", "lab", "agent", "a1"))
SECRET = b"\x22\x22\x0a\x20"  # field 4, the proof: a next secret of 32 bytes


def field(number: int, data: bytes) -> bytes:
    size, head = len(data), bytes([number << 3 | 2])
    while size > 0x7F:
        head, size = head + bytes([size & 0x7F | 0x80]), size >> 7
    return head + bytes([size]) + data


def content_of(source: str) -> bytes:
    """Return the bytes of a block as the library writes it."""
    opened = biscuit.Biscuit.from_base64(TOKEN, biscuit.PublicKey(tokens.public_key(ROOT)))
    data = bytes(opened.append(biscuit.BlockBuilder(source)).to_bytes())
    found = [content for _, content in blocks._blocks(data)]
    return found[1]


def with_block(content: bytes) -> str:
    """Return TOKEN with a block of any bytes, signed as the specification says (version 0)."""
    data = base64.urlsafe_b64decode(TOKEN + "=" * (-len(TOKEN) % 4))
    body, secret = data[: -len(SECRET) - 32], data[-32:]
    assert data[-len(SECRET) - 32 : -32] == SECRET
    following = Ed25519PrivateKey.generate()
    public = following.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    signature = Ed25519PrivateKey.from_private_bytes(secret).sign(
        content + struct.pack("<i", 0) + public
    )
    key = b"\x08\x00" + field(2, public)
    signed = field(1, content) + field(2, key) + field(3, signature)
    proof = field(4, field(1, following.private_bytes_raw()))
    return base64.urlsafe_b64encode(body + field(3, signed) + proof).decode()


def shown(content: bytes) -> bool:
    """Show it and, where it is believed, ask; True: it was believed."""
    try:
        found = VERIFIER.verify(with_block(content), NOW_S)
    except Unauthenticated:
        return False
    assert found.scope is not None and found.principal.name == "a1"
    for action in ("call", "publish"):
        answer = found.scope.denies(action, "lab.a", NOW_S)
        assert answer is None or isinstance(answer, str)
    found.scope.readable("lab.>")
    return True


def test_the_hand_signed_block_is_one_that_is_believed() -> None:
    assert shown(content_of('check if resource($r), $r.starts_with("lab.");'))


@pytest.mark.parametrize(
    "source",
    [
        'check if action("call") or resource($r), $r.matches("^lab\\\\.[^.>]+$");',
        "check if time($t), $t < 2030-01-01T00:00:00Z, $t > 2020-01-01T00:00:00Z;",
        'reject if action($a), ["publish", "x"].contains($a) || $a == "y" && 1 + 2 > 3;',
        'check all resource($r), $r.length() > 1, {"a", "b"}.length() == 2, hex:00ff == hex:00ff;',
    ],
)
def test_bytes_changed_in_a_signed_block_are_refused_or_decided(source: str) -> None:
    good, chance = content_of(source), random.Random(source)
    believed = 0
    for _ in range(400):
        content = bytearray(good)
        for _ in range(chance.choice((1, 1, 2, 5))):
            at = chance.randrange(len(content))
            match chance.randrange(3):
                case 0:
                    content[at] = chance.randrange(256)
                case 1:
                    del content[at]
                case _:
                    content.insert(at, chance.randrange(256))
        believed += shown(bytes(content))
    assert 0 < believed < 400  # the changes reach the library, and are not all harmless


def test_a_fact_whose_name_looks_like_a_check_is_still_a_fact() -> None:
    content = content_of("nnnnnnnn(0); check if nnnnnnnn($a), nnnnnnnn($b);")
    hidden = content.replace(b"nnnnnnnn", b"check if")
    assert hidden != content
    with pytest.raises(Unauthenticated, match="facts or rules"):
        VERIFIER.verify(with_block(hidden), NOW_S)


def test_a_text_that_would_end_its_own_quotation_is_refused() -> None:
    content = content_of('check if resource($r), $r != "AAAAAAAAAAAA";')
    for text in (b'x" || "a"=="a', b"line\nend....", b"\xe2\x80\xa8line..end"):
        with pytest.raises(Unauthenticated, match="cannot be printed"):
            VERIFIER.verify(with_block(content.replace(b"A" * 12, text[:12])), NOW_S)


def test_random_bytes_are_no_block() -> None:
    chance = random.Random(5)
    for size in (0, 1, 10, 1_000):
        for _ in range(20):
            content = chance.randbytes(size)
            assert not shown(content) or size == 0
