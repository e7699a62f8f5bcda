"""Names that look alike, or are one name in two spellings: refused, or two names. Never one."""

from __future__ import annotations

import asyncio
import itertools
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import grpc
import pytest

import sira
from sira.kernel.errors import BadRequest, Denied, SiraError
from sira.kernel.identity import Principal
from sira.kernel.node import Node as InProcess
from sira.testing import Node
from sira.v1 import bus_pb2
from tests.integration.door.keys import ONLY_CALLS
from tests.integration.http.calls import Http, listening
from tests.integration.node.plain import Plain, frame, message, session, within

pytestmark = pytest.mark.integration
COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"
# Each family: names that a person, a font or a normaliser may take for one another.
FAMILIES = {
    "composed and decomposed": (COMPOSED, DECOMPOSED, "cafe"),
    "compatibility forms": ("file", "\ufb01le", "\uff46\uff49\uff4c\uff45"),
    "Latin and Cyrillic": ("admin", "\u0430dmin", "adm\u0456n"),
    "zero width": ("admin", "ad\u200bmin", "ad\u200dmin", "admin\u2060", "\ufeffadmin"),
    "direction": ("admin", "\u202eadmin", "admin\u202c", "\u2066admin"),
    "case": ("admin", "Admin", "ADMIN", "\u0131nd", "Ind", "\u0130nd"),
    "sharp s and Kelvin": ("strasse", "stra\u00dfe", "K", "\u212a", "k"),
    "dots that are none": ("a\uff0eb", "a\u2024b", "a\u3002b", "a\u00b7b"),
    "order of marks": ("q\u0307\u0323", "q\u0323\u0307"),
    "white space": ("ab", "a\u00a0b", "a\u2003b", "a\u2028b"),
    "variation": ("\u2764", "\u2764\ufe0f", "\u2764\ufe0e"),
}
OVERLONG = {
    "overlong dot": b"\xc0\xae", "overlong slash": b"\xe0\x80\xaf", "overlong nul": b"\xc0\x80",
    "a surrogate": b"\xed\xa0\x80", "past the end": b"\xf4\x90\x80\x80", "cut": b"\xc3",
    "a continuation": b"\x80", "no byte of it": b"\xff",
}  # fmt: skip


@pytest.fixture(scope="module")
def stage() -> Iterator[tuple[Node, Http]]:
    with listening() as both:
        yield both


def test_the_families_are_what_they_say() -> None:
    assert unicodedata.normalize("NFC", DECOMPOSED) == COMPOSED
    assert unicodedata.normalize("NFKC", FAMILIES["compatibility forms"][1]) == "file"
    for family in FAMILIES.values():
        assert len(set(family)) == len(family)


@pytest.mark.parametrize("family", FAMILIES)
def test_topics_that_look_alike_are_refused_or_two(stage: tuple[Node, Http], family: str) -> None:
    """Each that is taken gets its own messages and none of another's, from both doors."""
    node, http = stage
    with sira.connect_sync(node.url) as bus:
        heard: dict[str, sira.SyncSubscription] = {}
        for name in FAMILIES[family]:
            try:
                heard[name] = bus.subscribe(f"twin.{name}").open()
            except SiraError as error:
                assert error.code == "BAD_TOPIC"
                with pytest.raises(SiraError) as caught:
                    bus.publish(f"twin.{name}", b"x")
                assert caught.value.code == "BAD_TOPIC"
                answer = http.post(f"/v1/publish/twin.{quote(name)}", "x")
                answer.problem(400, "BAD_TOPIC")
        assert heard, "all of them were refused"
        for name in heard:
            assert bus.publish(f"twin.{name}", f"sdk {name}").matched == 1, name
            answer = http.post(f"/v1/publish/twin.{quote(name)}", f"http {name}".encode())
            assert answer.json["matched"] == 1, name
        for name, messages in heard.items():
            for door in ("sdk", "http"):
                got = messages.next(timeout_s=60)
                assert bytes(got.bytes).decode() == f"{door} {name}"
                assert got.topic == f"twin.{name}", "as it was written, in no other form"
            messages.close()
        listed = {each.name for each in bus.topics.list("twin.*")}
        assert {f"twin.{name}" for name in heard} <= listed


@pytest.mark.parametrize("family", FAMILIES)
def test_groups_that_look_alike_are_refused_or_two(stage: tuple[Node, Http], family: str) -> None:
    """A message goes to each group once: two that were one would share it."""
    with sira.connect_sync(stage[0].url) as bus:
        members: dict[str, sira.SyncSubscription] = {}
        for name in FAMILIES[family]:
            try:
                members[name] = bus.subscribe("herd.work", group=name).open()
            except SiraError as error:
                assert error.code == "BAD_REQUEST"
        assert members
        assert bus.publish("herd.work", b"x").matched == len(members)
        for each in members.values():
            assert bytes(each.next(timeout_s=60).bytes) == b"x"
            each.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_headers_and_tensors_that_look_alike_arrive_each_under_its_name(
    stage: tuple[Node, Http], family: str
) -> None:
    import numpy as np

    with sira.connect_sync(stage[0].url) as bus, bus.subscribe("named.x") as messages:
        headers = {name: f"header {number}" for number, name in enumerate(FAMILIES[family])}
        tensors = {name: np.int64(number) for number, name in enumerate(FAMILIES[family])}
        bus.publish("named.x", tensors, headers=headers)
        got = messages.next(timeout_s=60)
        assert dict(got.headers) == headers
        assert {name: int(value) for name, value in got.items()} == {
            name: int(value) for name, value in tensors.items()
        }


@pytest.mark.parametrize(
    "name", sorted({name for family in FAMILIES.values() for name in family if not name.isascii()})
)
def test_a_principal_is_of_ascii_alone(name: str) -> None:
    """So none can look like another: agents, users, tenants, clusters."""
    for part in range(4):
        parts = ["test", "default", "user", "ann"]
        parts[part] = name
        with pytest.raises(BadRequest):
            Principal(*parts)
        with pytest.raises(BadRequest):
            Principal.parse("sira://" + "/".join(parts))


def test_an_agent_in_two_spellings_is_two(stage: tuple[Node, Http]) -> None:
    """What an agent calls itself is told as it was written; who it is says the node."""
    with (
        sira.connect_sync(stage[0].url, name=COMPOSED) as one,
        sira.connect_sync(stage[0].url, name=DECOMPOSED) as two,
        one.subscribe("agents.x") as messages,
    ):
        one.publish("agents.x", b"1")
        two.publish("agents.x", b"2")
        got = {bytes(each.bytes): each for each in (messages.next(timeout_s=60) for _ in "12")}
        assert len({each.source for each in got.values()}) == 2
        assert len({each.principal for each in got.values()}) == 1


@pytest.mark.parametrize("data", OVERLONG.values(), ids=OVERLONG)
def test_bytes_that_are_no_utf8_are_refused_in_every_name(data: bytes) -> None:
    mark = b"MARK"  # replaced in the encoded bytes, at the same length

    async def work(_: InProcess, plain: Plain) -> None:
        raw = (data + b"abcd")[:4]
        sent = message("utf.MARK")
        whole = frame(bus_pb2.Item(message=sent)).SerializeToString().replace(mark, raw)
        answer = await _answered(plain, "Publish", whole)
        assert answer.items[0].receipt.error.code == "BAD_TOPIC"
        headed = message("utf.x", headers={"MARK": "v"})
        whole = frame(bus_pb2.Item(message=headed)).SerializeToString().replace(mark, raw)
        answer = await _answered(plain, "Publish", whole)
        assert answer.items[0].receipt.error.code == "BAD_REQUEST"
        for fields, code in (({"pattern": "MARK"}, "BAD_TOPIC"),
                             ({"pattern": "a", "group": "MARK"}, "BAD_REQUEST")):  # fmt: skip
            opening = bus_pb2.Open(subscription=1, **fields)
            whole = frame(bus_pb2.Item(open=opening)).SerializeToString().replace(mark, raw)
            try:
                answer = await _answered(plain, "Subscribe", whole)
            except grpc.aio.AioRpcError as error:
                assert "FRAME_CORRUPT" in str(error.trailing_metadata()), error
            else:
                assert answer.items[0].ended.error.code == code, answer

    session(work)


async def _answered(plain: Plain, method: str, data: bytes) -> bus_pb2.Frame:
    call = plain.channel.stream_stream(f"/sira.v1.Bus/{method}")()
    await call.write(data)
    answer = await within(call.read())
    assert answer is not grpc.aio.EOF
    return bus_pb2.Frame.FromString(answer)


@pytest.mark.parametrize("data", OVERLONG.values(), ids=OVERLONG)
def test_bytes_that_are_no_utf8_are_refused_in_every_part_of_a_url(
    stage: tuple[Node, Http], data: bytes
) -> None:
    """Were they replaced by one mark, two topics of different bytes would be one."""
    http, text = stage[1], "".join(f"%{byte:02x}" for byte in data)
    http.post(f"/v1/publish/utf.{text}", "x").problem(400, "BAD_REQUEST")
    http.post(f"/v1/request/utf.{text}", "x").problem(400, "BAD_REQUEST")
    http.get(f"/v1/subscribe/utf.{text}").problem(400, "BAD_REQUEST")
    http.post(f"/v1/publish/utf.x?key={text}", "x").problem(400, "BAD_REQUEST")
    http.get(f"/v1/subscribe/utf.x?group={text}").problem(400, "BAD_REQUEST")
    http.post("/v1/publish/utf.x", "x", Sira_Header_A=text).problem(400, "BAD_REQUEST")


RULES = f"""{ONLY_CALLS}
[[rule]]
name = "one-spelling"
effect = "allow"
principals = "*"
actions = ["publish", "subscribe"]
topics = ["spelt.{COMPOSED}", "spelt.admin", "spelt.file"]
"""


@pytest.mark.parametrize(
    "name",
    [
        name
        for first, *rest in (FAMILIES[each] for each in (
            "composed and decomposed", "compatibility forms", "Latin and Cyrillic", "zero width",
            "direction"))
        for name in itertools.chain(rest)
    ],
)  # fmt: skip
def test_a_rule_for_one_spelling_opens_no_other(tmp_path: Path, name: str) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text(RULES)

    async def work(node: InProcess, _: Plain) -> None:
        async with sira.connect(f"sira://{node.address}") as bus:
            assert (await bus.publish(f"spelt.{COMPOSED}", b"x")).matched == 0
            with pytest.raises(SiraError) as caught:
                await bus.publish(f"spelt.{name}", b"x")
            assert isinstance(caught.value, Denied) or caught.value.code == "BAD_TOPIC"
            with pytest.raises(SiraError):
                async with asyncio.timeout(60), bus.subscribe(f"spelt.{name}"):
                    pass

    session(work, policy=str(rules))
