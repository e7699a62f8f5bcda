"""Publishers that write into their link whatever they like: the worst is that this link ends."""

from __future__ import annotations

import contextlib
import mmap
import random
import struct

import numpy as np
import pytest

from sira import _native
from sira.kernel.errors import SiraError
from sira.v1 import message_pb2, tensor_pb2

from .client_harness import Box
from .link_harness import STAMP, TOPIC, Link, bound

SLOT_BYTES = 512
# Of a slot: state, two counts, then the place: kind, chunk, deadline, offset, bytes.
KIND_AT, CHUNK_AT, OFFSET_AT, BYTES_AT, INLINE_AT = 24, 32, 48, 56, 64


def memory_of(link: Link) -> mmap.mmap:
    return mmap.mmap(link.node.fileno(), link.node.bytes)


class Slot:
    """The one message in a link, as its publisher may write it over."""

    def __init__(self, link: Link) -> None:
        self._memory = memory_of(link)
        at = self._memory.find(TOPIC.encode())
        assert at > 0
        self.start = at // SLOT_BYTES * SLOT_BYTES

    def word(self, at: int) -> int:
        (value,) = struct.unpack_from("<Q", self._memory, self.start + at)
        return int(value)

    def set_word(self, at: int, value: int) -> None:
        struct.pack_into("<Q", self._memory, self.start + at, value)

    def set_inline(self, data: bytes) -> None:
        at = self.start + INLINE_AT
        self._memory[at : at + len(data)] = data
        self.set_word(KIND_AT, self.word(KIND_AT) & ~0xFFFF | len(data))


def encoded(**fields: object) -> bytes:
    made = {"id": bytes(range(16)), "topic": TOPIC, **fields}
    return bytes(message_pb2.Message(**made).SerializeToString())  # type: ignore[arg-type]


def test_an_honest_message_that_is_written_over_with_another_is_that_one() -> None:
    link, box = bound()
    link.send("a")
    Slot(link).set_inline(encoded(source="pub"))
    got = box.pop()
    assert got is not None
    assert (got.source, got.principal, link.reader.broken) == ("pub", "alice", None)


REFUSED = {
    "principal": encoded(principal="root"),
    "tenant": encoded(tenant="other"),
    "attempt": encoded(attempt=7),
    "offset": encoded(offset=9),
    "no id": encoded(id=b""),
    "short id": encoded(id=b"short"),
    "other topic": encoded(topic="lab.other"),
    "no topic": encoded(topic=""),
    "pattern": encoded(topic="lab.*"),
    "priority": encoded(priority=3),
    "no priority": encoded(priority=9),
    "reply_to": encoded(reply_to="no topic.*"),
    "two topics": encoded() + encoded(topic="lab.y"),
    "cut": encoded()[:-1],
    "empty": b"",
    "bits": b"\xff" * 40,
    "announced": encoded(
        tensors=[tensor_pb2.Tensor(dtype=tensor_pb2.DTYPE_U8, shape=[4], data_bytes=4)]
    ),
}


@pytest.mark.parametrize("stamp", [STAMP, b""], ids=["stamped", "bare"])
@pytest.mark.parametrize("what", REFUSED)
def test_a_message_that_a_node_would_refuse_ends_its_link_and_is_given_to_nobody(
    what: str, stamp: bytes
) -> None:
    link, other, box = Link(), Link(), Box()
    box.bind(link.reader, 0, TOPIC, stamp)
    box.bind(other.reader, 0, TOPIC, STAMP)
    link.send("a")
    other.send("good")
    Slot(link).set_inline(REFUSED[what])
    assert box.texts() == ["good"]
    assert link.reader.broken
    assert other.reader.broken is None


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (KIND_AT, 449),  # inline bytes
        (KIND_AT, 0xFFFF),
        (KIND_AT, 9 << 24 | 40),  # priority
        (KIND_AT, 16 << 32 | 40),  # cell
        (KIND_AT, 1 << 32 | 40),  # another cell than it was queued for
        (CHUNK_AT, 1 << 32 | 64),  # hold
        (CHUNK_AT, 77 << 32 | 1),  # segment
        (OFFSET_AT, 1 << 40),
        (OFFSET_AT, 1),
        (BYTES_AT, 1 << 60),
        (BYTES_AT, (1 << 64) - 1),
        (BYTES_AT, 64),  # less than the tensors take
    ],
)
def test_a_place_that_is_none_ends_its_link(at: int, value: int) -> None:
    link, box = bound()
    link.send({"x": np.zeros(1000)})
    link.reader.distribute()
    Slot(link).set_word(at, value)
    assert box.pop() is None
    assert link.reader.broken
    assert link.reader.distribute() == 0
    assert box.pop() is None


@pytest.mark.parametrize("length", [None, 0, 100, 1 << 20, (1 << 64) - 1])
def test_a_length_behind_the_tensors_that_is_not_the_heads_ends_the_link(
    length: int | None,
) -> None:
    link, box = bound()
    chunk = link.arena.take(40 * 64 + 8192)
    memory = np.frombuffer(chunk, np.uint8)
    names = [f"tensor-{i:03d}-with-a-rather-long-name" for i in range(40)]
    body = {name: memory[i * 64 : i * 64 + 50] for i, name in enumerate(names)}
    post = _native.ShmPost(TOPIC, body, None, link.arena, chunk)
    link.introduce()
    assert link.writer.post(post, 0) > 0
    if length is not None:
        struct.pack_into("<Q", memory, post.chunk_bytes - 8, length)
    got = box.pop()
    assert (got is None) == (length is not None)
    assert (link.reader.broken is None) == (length is None)


@pytest.mark.parametrize("seed", range(40))
def test_random_bits_in_a_link_end_at_most_that_link(seed: int) -> None:
    dice = random.Random(seed)
    link, box = Link(slots=16, holds=16), Box()
    other = Link()
    for cell in range(4):
        box.bind(link.reader, cell, TOPIC, STAMP)
    box.bind(other.reader, 0, "lab.other", STAMP)
    memory = memory_of(link)
    kept, good = [], []
    for round_index in range(30):
        for _ in range(dice.randrange(4)):
            body: object = dice.choice(["text", {"x": np.zeros(dice.randrange(2000))}])
            with contextlib.suppress(SiraError):  # its own end notices what it did
                link.post(body, dice.randrange(4), priority=dice.randrange(8))
        for _ in range(dice.randrange(4)):
            at = dice.randrange(64, link.node.bytes - 8) & ~7
            struct.pack_into("<Q", memory, at, dice.choice([dice.getrandbits(64), 0, 1, 2**64 - 1]))
        if dice.random() < 0.3:  # look here, and there
            struct.pack_into("<Q", memory, 3 * 64, 0xFFFF)
        other.send(str(round_index), topic="lab.other")
        link.reader.distribute()
        box.arm()
        while (got := box.pop()) is not None:
            if got.topic == "lab.other":
                good.append(got.text)
            kept.append([array.sum() for array in got.values()])  # mapped, as far as it says
    assert good == [str(i) for i in range(30)]
    assert other.reader.broken is None
    link.reader.unbind_all()
    assert link.reader.bound == 0


def test_a_publisher_that_withdraws_and_posts_for_ever_fills_no_mailbox() -> None:
    link, box = bound(slots=16)
    for _ in range(50):
        tickets = [link.post("x", 0) for _ in range(10)]
        link.reader.distribute()
        for ticket in tickets:
            link.writer.withdraw(ticket, 1)
        link.writer.collect()
    assert box.depth <= 16
    link.send("last")
    assert box.texts() == ["last"]
