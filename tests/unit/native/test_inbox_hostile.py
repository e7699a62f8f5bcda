"""Inbox: frames that a node should not send get a typed error and leave it whole."""

from __future__ import annotations

import pytest

from sira import _native
from sira.v1 import tensor_pb2

from .client_harness import (
    MIB,
    abort_item,
    attached,
    chunk_item,
    drain,
    frame,
    head,
    head_item,
    inline_item,
    message,
)


def code_of(inbox: _native.Inbox, encoded: bytes) -> str:
    with pytest.raises(Exception) as caught:
        inbox.feed(encoded)
    return str(getattr(caught.value, "code", repr(caught.value)))


def broken_chunks() -> list[tuple[str, list[tuple[int, int, bytes]]]]:
    return [
        ("gap", [(0, 0, b"ab"), (0, 3, b"d")]),
        ("overlap", [(0, 0, b"ab"), (0, 1, b"bc")]),
        ("past the end", [(0, 0, b"abcde")]),
        ("past the end at the far end", [(0, 0, b"ab"), (0, 2**64 - 1, b"x")]),
        ("next tensor too early", [(0, 0, b"ab"), (1, 0, b"xy")]),
        ("no such tensor", [(9, 0, b"ab")]),
        ("no data", [(0, 0, b"")]),
    ]


@pytest.mark.parametrize(("name", "chunks"), broken_chunks(), ids=[n for n, _ in broken_chunks()])
def test_chunks_against_the_rules_end_their_transfer_and_nothing_else(
    name: str, chunks: list[tuple[int, int, bytes]]
) -> None:
    inbox, box = attached()
    bad, good = head(4, 2), head(2, topic="lab.good")
    inbox.feed(frame(head_item(bad), head_item(good), inline_item(message("behind"))))
    *before, last = chunks
    for tensor, offset, data in before:
        inbox.feed(frame(chunk_item(bad, tensor, offset, data)))
    assert code_of(inbox, frame(chunk_item(bad, *last))) == "PROTOCOL_ERROR"
    assert (inbox.transfers, inbox.aborted) == (1, 1)
    assert box.texts() == ["behind"]
    inbox.feed(frame(chunk_item(good, 0, 0, b"ok")))
    assert box.texts() == ["t0"]
    assert box.take_credit() == 3


def test_a_chunk_of_nothing_announced_is_refused() -> None:
    inbox, _ = attached()
    assert code_of(inbox, frame(chunk_item(head(4), 0, 0, b"ab"))) == "PROTOCOL_ERROR"


def test_the_same_announcement_twice_is_refused_and_the_first_goes_on() -> None:
    inbox, box = attached()
    big = head(2)
    inbox.feed(frame(head_item(big)))
    assert code_of(inbox, frame(head_item(big))) == "PROTOCOL_ERROR"
    inbox.feed(frame(chunk_item(big, 0, 0, b"ab")))
    assert box.texts() == ["t0"]


def test_an_announcement_over_the_limit_is_refused() -> None:
    inbox, _ = attached(message_bytes_max=MIB)
    assert code_of(inbox, frame(head_item(head(MIB + 1)))) == "MESSAGE_TOO_LARGE"
    assert code_of(inbox, frame(head_item(head(MIB, 1)))) == "MESSAGE_TOO_LARGE"
    inbox.feed(frame(head_item(head(MIB))))
    assert inbox.transfers == 1


def test_lengths_past_64_bits_are_refused() -> None:
    inbox, _ = attached()
    made = head(1)
    made.tensors[0].shape[:] = [2**63, 2**63]
    made.tensors[0].data_bytes = 0
    assert code_of(inbox, frame(head_item(made))) in ("FRAME_CORRUPT", "MESSAGE_TOO_LARGE")
    assert inbox.transfers == 0


def test_a_message_that_does_not_parse_is_refused_and_those_before_it_are_kept() -> None:
    inbox, box = attached()
    bad = message("x")
    bad.tensors[0].dtype = tensor_pb2.DTYPE_F64
    box.arm()
    assert code_of(inbox, frame(inline_item(message("a")), inline_item(bad))) == "FRAME_CORRUPT"
    assert box.wakes == 1
    assert box.texts() == ["a"]


def test_every_prefix_of_a_frame_is_taken_in_part_or_refused() -> None:
    big = head(5)
    encoded = frame(
        inline_item(message("a")), head_item(big), chunk_item(big, 0, 0, b"01234"), abort_item(big)
    )
    for cut in range(len(encoded)):
        inbox, box = attached()
        try:
            inbox.feed(encoded[:cut])
        except Exception as error:
            assert getattr(error, "code", "") == "FRAME_CORRUPT", error
        assert box.depth <= 2
        inbox.reset()
        inbox.feed(frame(inline_item(message("after"))))
        assert box.texts()[-1] == "after"


def test_every_byte_may_be_wrong_and_the_inbox_goes_on() -> None:
    big = head(5)
    encoded = frame(
        inline_item(message("a"), 7, 8), head_item(big), chunk_item(big, 0, 0, b"01234")
    )
    for at in range(len(encoded)):
        for bit in range(8):
            inbox, box = attached()
            flipped = bytearray(encoded)
            flipped[at] ^= 1 << bit
            try:
                inbox.feed(bytes(flipped))
            except Exception as error:
                assert getattr(error, "code", None), repr(error)
            inbox.reset()
            after = message("after")
            inbox.feed(frame(inline_item(after)))
            assert after.id in [m.id_bytes for m in drain(box)]


def test_a_frame_past_the_limit_or_not_bytes_is_refused() -> None:
    inbox, _ = attached()
    assert code_of(inbox, bytes((2 << 20) + 1)) == "MESSAGE_TOO_LARGE"
    with pytest.raises(TypeError):
        inbox.feed(memoryview(b""))  # type: ignore[arg-type]
