"""Write the golden vectors: one frame a dtype, made with the protobuf classes, not with our codec.

    python tests/vectors/make.py            write what is missing or different
    python tests/vectors/make.py --check    write nothing; exit 1 when anything differs

NAME.bin is an encoded sira.v1.Frame with one message. NAME.json says what a reader must find: for
each tensor its name, dtype, shape, `data_hex` (the bytes on the wire) and `elements_hex` (each
element in memory, little-endian, C order; 4-bit elements one a byte, i4 sign-extended). The bit
patterns are those that a codec which converts would lose: NaN payloads, -0.0, infinities,
subnormals, extremes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from sira.v1 import bus_pb2, error_pb2, message_pb2, tensor_pb2

HERE = Path(__file__).parent
ID = bytes.fromhex("0190163d8694739b80002492b4bd7a00")

# Element bits of each dtype, hex digits most significant first, to be looked up in the
# tables of the formats. Eight each: they fill the (2, 4) matrix too.
_INTEGERS = {
    8: "00 01 7f 80 ff 55 aa fe",
    16: "0000 0001 7fff 8000 ffff 1234 00ff ff00",
    32: "00000000 00000001 7fffffff 80000000 ffffffff 12345678 000000ff ff000000",
    64: """0000000000000000 0000000000000001 7fffffffffffffff 8000000000000000
           ffffffffffffffff 0123456789abcdef 00000000000000ff ff00000000000000""",
}
_FLOATS = {
    # -0.0; +inf; -inf; quiet NaN with payload; signalling NaN; negative NaN; subnormal; largest
    "f16": "8000 7c00 fc00 7e01 7d01 fe02 0001 7bff",
    "bf16": "8000 7f80 ff80 7fc1 7f81 ffc2 0001 7f7f",
    "f32": "80000000 7f800000 ff800000 7fc12345 7f812345 ffc00001 00000001 7f7fffff",
    "f64": """8000000000000000 7ff0000000000000 fff0000000000000 7ff8000000012345
              7ff0000000012345 fff8000000000001 0000000000000001 7fefffffffffffff""",
    "f8e5m2": "80 7c fc 7e 7d ff 01 7b",
    # No infinity; NaN is 7f and ff.
    "f8e4m3fn": "80 7f ff 7e fe 01 00 38",
    # Neither infinity nor -0.0: 80 is the one NaN.
    "f8e4m3fnuz": "80 7f ff 01 81 00 40 38",
    "f8e5m2fnuz": "80 7f ff 01 81 00 40 38",
    # The imaginary part is the more significant half.
    "c64": """8000000080000000 7fc123457f800000 ff8000007f812345 000000017f7fffff
              3f800000c0000000 0000000000000000 ffc00001ffc00002 7f80000000000000""",
    "c128": """80000000000000008000000000000000 7ff80000000123457ff0000000000000
               fff00000000000007ff0000000012345 00000000000000017fefffffffffffff
               3ff0000000000000c000000000000000 00000000000000000000000000000000
               fff8000000000001fff8000000000002 7ff00000000000000000000000000000""",
}
BITS: dict[str, list[str]] = {
    "bool": ["00", "01", "01", "00", "01", "00", "00", "01"],
    **{f"{sign}{bits}": text.split() for bits, text in _INTEGERS.items() for sign in "ui"},
    **{dtype: text.split() for dtype, text in _FLOATS.items()},
    "i4": list("0178f5ae"),
    "u4": list("0178f5ae"),
}
ITEM_BITS = {dtype: len(bits[0]) * 4 for dtype, bits in BITS.items()}
# Name of a tensor -> its shape; it takes the first elements of BITS, in order.
SHAPES: dict[str, tuple[int, ...]] = {
    "scalar": (),
    "empty": (0, 3),
    "odd": (7,),
    "matrix": (2, 4),
    "deep": (1, 2, 1, 2, 2),
}


def element_bytes(dtype: str, index: int) -> bytes:
    """One element as it lies in memory, little-endian."""
    value = int(BITS[dtype][index], 16)
    if dtype == "i4" and value & 8:
        value |= 0xF0
    return value.to_bytes(max(ITEM_BITS[dtype], 8) // 8, "little")


def wire_bytes(dtype: str, count: int) -> bytes:
    """The first `count` elements as tensor.proto lays them out."""
    if ITEM_BITS[dtype] >= 8:
        return b"".join(element_bytes(dtype, i) for i in range(count))
    nibbles = [int(BITS[dtype][i], 16) for i in range(count)] + [0] * (count % 2)
    return bytes(nibbles[i] | nibbles[i + 1] << 4 for i in range(0, len(nibbles), 2))


def frame_bytes(message: message_pb2.Message) -> bytes:
    """One message in a frame, as protobuf writes it."""
    frame = bus_pb2.Frame(items=[bus_pb2.Item(message=message)])
    return frame.SerializeToString(deterministic=True)


def of_dtype(dtype: str) -> tuple[bytes, dict[str, Any]]:
    """Frame and description of one element type."""
    message = message_pb2.Message(id=ID, topic=f"vectors.{dtype}")
    tensors: list[dict[str, Any]] = []
    for name, shape in SHAPES.items():
        count = 1
        for size in shape:
            count *= size
        data = wire_bytes(dtype, count)
        code: Any = tensor_pb2.DType.Value(f"DTYPE_{dtype.upper()}")
        message.tensors.add(name=name, dtype=code, shape=shape, data=data)
        elements = b"".join(element_bytes(dtype, i) for i in range(count))
        tensors.append(
            {
                "name": name,
                "dtype": dtype,
                "code": code,
                "shape": list(shape),
                "data_hex": data.hex(),
                "elements_hex": elements.hex(),
            }
        )
    return frame_bytes(message), {"topic": message.topic, "id": ID.hex(), "tensors": tensors}


def of_body(dtype: str, body: bytes) -> tuple[bytes, dict[str, Any]]:
    """Frame and description of a body that is not arrays."""
    code: Any = tensor_pb2.DType.Value(f"DTYPE_{dtype.upper()}")
    tensor = tensor_pb2.Tensor(dtype=code, shape=[len(body)], data=body)
    message = message_pb2.Message(id=ID, topic=f"vectors.{dtype}", tensors=[tensor])
    what: dict[str, Any] = {"topic": message.topic, "id": ID.hex(), "body_hex": body.hex()}
    return frame_bytes(message), what


def of_envelope() -> tuple[bytes, dict[str, Any]]:
    """Every field of an envelope that a publisher may set."""
    fields: dict[str, Any] = {
        "priority": 7, "ttl_ns": 2**63 + 1, "reply_to": "_r.1", "content_type": "application/json",
        "time_ns": 1_700_000_000_123_456_789, "type": "t", "schema": "s", "source": "src",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "dedupe_key": "d",
        "key": "k", "stream_seq": 2**64 - 1, "stream_end": True, "reply_kind": 4,
        "headers": {"study": "7", "ü": ""},
    }  # fmt: skip
    ids: dict[str, Any] = {
        name: bytes([number]) * 16
        for number, name in enumerate(
            ["correlation_id", "causation_id", "intent_id", "stream_id"], start=1
        )
    }
    error = error_pb2.Error(code="HANDLER_FAILED", message="m", retryable=True)
    message = message_pb2.Message(
        id=ID,
        topic="vectors.envelope",
        error=error,
        **fields,
        **ids,
    )
    message.fence.lease, message.fence.token = "lease", 2**40
    what: dict[str, Any] = {
        "topic": message.topic,
        "id": ID.hex(),
        "fields": fields,
        "ids": {name: value.hex() for name, value in ids.items()},
        "error_hex": error.SerializeToString(deterministic=True).hex(),
    }
    return frame_bytes(message), what


def all_vectors() -> dict[str, tuple[bytes, dict[str, Any]]]:
    """Name -> frame and description."""
    vectors = {dtype: of_dtype(dtype) for dtype in BITS}
    vectors["bytes"] = of_body("bytes", bytes(range(256)))
    vectors["utf8"] = of_body("utf8", '{"größe": "∞"}'.encode())
    vectors["envelope"] = of_envelope()
    return vectors


def main() -> int:
    """Write or compare; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--check", action="store_true", help="write nothing, exit 1 on a difference"
    )
    check = parser.parse_args().check
    different: list[str] = []
    for name, (frame, what) in all_vectors().items():
        text = json.dumps(what, indent=1, ensure_ascii=True) + "\n"
        for path, data in (
            (HERE / f"{name}.bin", frame),
            (HERE / f"{name}.json", text.encode()),
        ):
            if path.exists() and path.read_bytes() == data:
                continue
            different.append(path.name)
            if not check:
                path.write_bytes(data)
    print(f"{len(different)} files {'differ' if check else 'written'} {different}".rstrip(" []"))
    return int(check and bool(different))


if __name__ == "__main__":
    raise SystemExit(main())
