"""The documents are true to the code: dumps decode, tables agree, examples run."""

from __future__ import annotations

import asyncio
import re
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import sira.kernel.binding  # noqa: F401  (dtypes of the codec)
from sira import _native
from sira.client.later import _FEATURES
from sira.kernel.introspect import PROTOCOL
from sira.testing import LocalBus
from sira.v1 import bus_pb2, message_pb2, tensor_pb2
from tests import docs_tables
from tests.docs_blocks import DOCS, blocks, run_async, table

ROOT = DOCS.parent
WIRE, OPERATIONS, SDK = (DOCS / f"{name}.md" for name in ("wire-format", "operations", "sdk"))
EXAMPLES = list(blocks(SDK, "python"))
HEADER = (ROOT / "native" / "wire.h").read_text()


# ---- wire-format.md ------------------------------------------------------------------------------


def dump() -> bytes:
    """Return the bytes of the worked frame."""
    (_, text), *more = blocks(WIRE, "hexdump")
    assert not more
    data = [re.match(r" *((?:[0-9a-f]{2} ?)+)", line) for line in text.splitlines()]
    assert all(data), text
    return bytes.fromhex("".join(match[1] for match in data if match))


def test_the_dump_is_what_protobuf_reads_and_writes() -> None:
    frame = bus_pb2.Frame.FromString(dump())
    (item,) = frame.items
    message = item.message
    assert (message.topic, message.priority) == ("lab.scan", 3)
    assert message.id.hex() == "0199a6b8c0007a3b8c5d6e7f80910213"
    (tensor,) = message.tensors
    assert (tensor.name, tensor.dtype, tensor.shape) == ("x", tensor_pb2.DTYPE_F32, [2])
    assert struct.unpack("<2f", tensor.data) == (1, -2)
    assert frame.SerializeToString() == dump()


def test_the_dump_is_what_our_codec_reads_and_joins() -> None:
    (message,) = _native.split_frame(dump())
    assert (message.topic, message.priority, message.keys()) == ("lab.scan", 3, ("x",))
    assert message["x"].dtype == np.float32 and message["x"].tolist() == [1, -2]
    assert _native.join_frame([bytes(message.encoded)]) == dump()


def test_lengths_said_in_the_dump_are_those_of_its_bytes() -> None:
    ((_, text),) = blocks(WIRE, "hexdump")
    said = re.findall(r"^\w{2} (\w{2}) .*, (\d+) bytes$", text, re.MULTILINE)
    assert [int(length, 16) for length, _ in said] == [int(bytes_) for _, bytes_ in said]
    assert len(said) == 4 and len(dump()) == 2 + int(said[0][1])


def test_dtype_codes_and_sizes_are_those_of_proto_and_codec() -> None:
    heading = "| code | dtype | bits | code | dtype | bits | code | dtype | bits |"
    said = {}
    for row in table(WIRE, heading):
        for code, name, bits in (row[0:3], row[3:6], row[6:9]):
            if code:
                said[int(code)] = (name, int(bits))
    declared = tensor_pb2.DType.items()
    assert {c: n for c, (n, _) in said.items()} == {
        code: name.removeprefix("DTYPE_").lower() for name, code in declared if code
    }
    for code, (name, bits) in said.items():
        one = message_pb2.Message(topic="a")
        count = 2 if bits == 4 else 1
        one.tensors.add(name="x", dtype=code, shape=[count], data=bytes(count * bits // 8))
        if name in ("bytes", "utf8"):
            one.tensors[0].name = ""
            assert _native.Message.decode(one.SerializeToString()).payload_bytes == 1
        else:
            found = _native.Message.decode(one.SerializeToString())
            assert found.specs() == {"x": (name, (count,))}


def test_four_bits_are_packed_as_said() -> None:
    data = _native.encode_message("a", {"q": np.array([1, -2, 3], ml_dtypes.int4)})
    packed = message_pb2.Message.FromString(data).tensors[0].data
    assert f"i4 `[1, -2, 3]` is `{packed.hex(' ')}`" in WIRE.read_text()


def test_limits_are_those_of_the_header() -> None:
    rows = table(WIRE, "| limit | value |")
    for name, value in rows:
        macro = re.match(r"`(\w+)`", name)
        assert macro
        constant = re.search(rf"\b{macro[1]} = ([^,}}/]+)", HEADER)
        assert constant, macro[1]
        left, _, shift = constant[1].partition("<<")
        assert int(value) == int(left) << int(shift or 0), macro[1]
    assert len(rows) >= 10


def test_the_largest_inline_message_is_that_of_the_node() -> None:
    around = re.search(r"at most ([\d,]+) bytes \(a frame", WIRE.read_text())
    assert around
    limit = int(around[1].replace(",", ""))
    source = (ROOT / "native" / "hub_ingress.c").read_text()
    assert "INLINE_BYTES_MAX = SIRA_FRAME_BYTES_MAX - SIRA_STAMP_BYTES_MAX - 64" in source
    assert limit == (2 << 20) - (1 << 10) - 64


def test_every_field_of_the_envelope_is_explained_and_mapped() -> None:
    fields = {field.name for field in message_pb2.Message.DESCRIPTOR.fields}
    envelope = table(WIRE, "| field | set by | on its way |")
    assert {name for row in envelope for name in re.findall(r"`(\w+)`", row[0])} == fields
    events = table(WIRE, "| field | CloudEvents attribute | form |")
    assert len(events) == len(fields)
    assert {row[0].strip("`") for row in events} == fields
    attributes = [row[1].strip("`") for row in events if row[0] != "`headers`"]
    assert len(set(attributes)) == len(attributes)
    assert all(re.fullmatch(r"[a-z0-9]{1,20}", name) for name in attributes)


def test_every_kind_of_item_stands_in_the_table_of_streams() -> None:
    heading = "| item | Publish up | Publish down | Subscribe up | Subscribe down |"
    said = {name for row in table(WIRE, heading) for name in re.findall(r"`(\w+)`", row[0])}
    assert said == {f.name for f in bus_pb2.Item.DESCRIPTOR.oneofs_by_name["kind"].fields}


# ---- operations.md -------------------------------------------------------------------------------


def test_tables_made_from_the_code_are_up_to_date() -> None:
    text = OPERATIONS.read_text()
    assert set(re.findall(r"<!-- table: ([\w ]+) -->", text)) == set(docs_tables.TABLES)
    assert text == docs_tables.written(text), "run: python -m tests.docs_tables"


def test_every_metric_is_explained_and_no_other() -> None:
    async def names() -> tuple[set[str], str]:
        async with LocalBus() as bus:
            stats = await bus.stats(prometheus=True)
            return set(stats.values), stats.prometheus

    values, prometheus = asyncio.run(names())
    rows = table(OPERATIONS, "| name | kind | what it counts |")
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row[0])} == values
    text = OPERATIONS.read_text()
    for name, kind in re.findall(r"^# TYPE sira_(\w+) (\w+)$", prometheus, re.MULTILINE):
        assert name in values or name.removesuffix("_total") in values or f"`sira_{name}" in text
        for row in rows:
            if f"`{name}`" in row[0] and kind == "gauge":
                assert "level" in row[1], row


def test_reasons_of_drops_that_the_data_plane_names_are_explained() -> None:
    source = (ROOT / "native" / "hub.c").read_text()
    listed = re.search(r"named\[R_NAMED\] = \{(.*?)\}", source, re.DOTALL)
    assert listed
    reasons = set(re.findall(r'"(\w+)"', listed[1])) - {"EXPIRED"}  # a count of its own
    said = {
        row[0].strip("`") for row in table(OPERATIONS, "| reason | what happened | what to do |")
    }
    assert reasons and reasons <= said


# ---- sdk.md --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("line", "text"), EXAMPLES, ids=[f"line{line}" for line, _ in EXAMPLES])
def test_examples_of_the_sdk_run(line: int, text: str) -> None:
    asyncio.run(run_async(SDK, line, text))


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 10


def test_every_name_of_later_is_listed_and_no_longer_than_it_is_missing() -> None:
    rows = table(SDK, "| name | comes with |")
    listed = " ".join(row[0] for row in rows)
    said = set(re.findall(r"`bus\.([\w.]+)`", listed))
    said |= set(re.findall(r"`(Agent\.\w+)`", listed))
    assert said == set(_FEATURES)


# ---- all -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", [*sorted(DOCS.glob("*.md")), ROOT / "README.md"])
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]*)(?:#[^)]*)?\)", document.read_text()):
        assert not target or (document.parent / target).exists(), target


def test_anchors_between_the_documents_exist() -> None:
    for document in (WIRE, OPERATIONS, SDK):
        for target, anchor in re.findall(r"\]\(([\w.-]+)#([\w-]+)\)", document.read_text()):
            headings = re.findall(r"^#+ (.*)$", (DOCS / target).read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}
            assert anchor in slugs, (document.name, target, anchor)


def test_the_protocol_of_the_document_is_that_of_the_node() -> None:
    assert f"(protocol {PROTOCOL})" in WIRE.read_text()
