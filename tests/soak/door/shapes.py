"""Messages of any type by its descriptor, filled with what tends to hurt; and bytes, broken."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

DEPTH_MAX = 4
BYTES_MAX = 1 << 20
_F = FieldDescriptor
_SIGNED = {
    _F.TYPE_INT32, _F.TYPE_INT64, _F.TYPE_SINT32, _F.TYPE_SINT64, _F.TYPE_SFIXED32, _F.TYPE_SFIXED64
}  # fmt: skip
_WIDE = {_F.TYPE_INT64, _F.TYPE_UINT64, _F.TYPE_SINT64, _F.TYPE_FIXED64, _F.TYPE_SFIXED64}
_STRINGS = (
    "", "x", "fuzz.a", "fuzz.b", "fuzz..c", "fuzz.>", "fuzz.*", ">", "*", "sira.>", "sira.audit",
    "_reply.0", "secret.>", "secret.box", "\0", "\n", "ü" * 20, "e\u0301", "a" * 300, "a" * 70_000,
    "fuzz." * 40 + "z", "f32[N]", "f32[", "bf16|f32[A<=3,*]", "[" * 500, "latest", "publish",
    "call", "subscribe", "administer", "/sira.v1.Bus/Publish", "%s%n", "../../etc/passwd", "💥",
    "sira://test/vault/user/witness", "sira://test/open/user/witness",
)  # fmt: skip


def filled(
    rng: random.Random, kind: Descriptor, words: Sequence[str], ids: Sequence[bytes], depth: int = 0
) -> Any:
    """Return a message of a type: a few fields, each sound, odd or at the edge of its range.

    Args:
        words: strings worth trying, beside our own.
        ids: 16-byte ids worth trying.
    """
    made = GetMessageClass(kind)()
    fields = list(kind.fields)
    if depth > DEPTH_MAX or not fields:
        return made
    dense = rng.random()
    for field in fields:
        if rng.random() > dense:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            _fill_map(rng, made, field, words)
        elif field.is_repeated:
            values = [
                _value(rng, field, words, ids, depth)
                for _ in range(rng.choice([1, 1, 2, 3, 70] if depth < 2 else [1, 2]))
            ]
            getattr(made, field.name).extend(values)
        else:
            value = _value(rng, field, words, ids, depth)
            if isinstance(value, Message):
                getattr(made, field.name).CopyFrom(value)
            else:
                setattr(made, field.name, value)
    return made


def _fill_map(rng: random.Random, made: Any, field: FieldDescriptor, words: Sequence[str]) -> None:
    at = getattr(made, field.name)
    value = field.message_type.fields_by_name["value"]
    for _ in range(rng.choice([1, 1, 3, 80])):
        key = rng.choice(words) if rng.random() < 0.5 else f"k{rng.randrange(100)}"
        at[key[:200]] = (
            rng.choice([*_STRINGS, *words])[:2_000]
            if value.type == _F.TYPE_STRING
            else _number(rng, value)
        )


def _value(
    rng: random.Random, field: FieldDescriptor, words: Sequence[str], ids: Sequence[bytes],
    depth: int,
) -> Any:  # fmt: skip
    if field.message_type is not None:
        return filled(rng, field.message_type, words, ids, depth + 1)
    if field.enum_type is not None:
        return rng.choice([each.number for each in field.enum_type.values] + [99, 2**31 - 1])
    if field.type == _F.TYPE_STRING:
        return rng.choice(words) if rng.random() < 0.6 else rng.choice(_STRINGS)
    if field.type == _F.TYPE_BYTES:
        return rng.choice([b"", rng.randbytes(16), rng.randbytes(rng.randrange(200)), *ids])
    if field.type == _F.TYPE_BOOL:
        return rng.random() < 0.5
    if field.type in (_F.TYPE_DOUBLE, _F.TYPE_FLOAT):
        return rng.choice([0.0, -1.0, 1e308, float("nan"), float("inf")])
    return _number(rng, field)


def _number(rng: random.Random, field: FieldDescriptor) -> int:
    bits = 64 if field.type in _WIDE else 32
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if field.type in _SIGNED else (0, 2**bits)
    return rng.choice([0, 1, 1, 2, 3, rng.randrange(20), low, high - 1, rng.randrange(low, high)])


def _flip(rng: random.Random, data: bytearray, at: int) -> None:
    data[at] ^= 1 << rng.randrange(8)


def _cut(_: random.Random, data: bytearray, at: int) -> None:
    del data[at:]


def _huge_length(_: random.Random, data: bytearray, at: int) -> None:
    data[at : at + 1] = b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f"


def _doubled(_: random.Random, data: bytearray, at: int) -> None:
    data += data[at:]


def _inserted(rng: random.Random, data: bytearray, at: int) -> None:
    data[at:at] = rng.randbytes(rng.choice([1, 1, 4, 40]))


def _removed(rng: random.Random, data: bytearray, at: int) -> None:
    del data[at : at + rng.randrange(1, 5)]


def _interesting(rng: random.Random, data: bytearray, at: int) -> None:
    data[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, 0x0A, 0x22, 0x3E])


_WAYS: tuple[Callable[[random.Random, bytearray, int], None], ...] = (
    _flip, _cut, _huge_length, _doubled, _inserted, _removed, _interesting
)  # fmt: skip


def broken(rng: random.Random, whole: bytes, *, times: int | None = None) -> bytes:
    """Return the bytes with a few faults; `times` None: none to three, half of them none."""
    data = bytearray(whole)
    for _ in range(rng.choice([0, 0, 0, 1, 1, 3]) if times is None else times):
        if not data:
            break
        rng.choice(_WAYS)(rng, data, rng.randrange(len(data)))
    return bytes(data[:BYTES_MAX])
