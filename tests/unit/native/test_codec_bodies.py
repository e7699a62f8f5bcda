"""What may be sent, and how each kind of refusal reads."""

from __future__ import annotations

import array
import gc
import re
import weakref
from collections import UserDict, deque
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from sira import _native
from sira.kernel import errors
from sira.kernel.binding import DTYPES
from sira.v1 import bus_pb2, message_pb2

assert DTYPES


def without_address(value: object) -> str:
    """Return what names a value in a test's name: the same in every worker of a run."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def sent(body: Any) -> _native.Message:
    return _native.Message.decode(_native.encode_message("a.b", body))


@pytest.mark.parametrize(
    ("value", "dtype", "shape"),
    [
        (3, np.int64, ()),
        (2.5, np.float64, ()),
        (True, np.bool_, ()),
        (1 + 2j, np.complex128, ()),
        ([[1, 2], [3, 4]], np.int64, (2, 2)),
        ((1.5, 2), np.float64, (2,)),
        ([], np.float64, (0,)),
        (np.float32(1.5), np.float32, ()),
        (ml_dtypes.bfloat16(1.5), ml_dtypes.bfloat16, ()),
        (array.array("h", [1, -1]), np.int16, (2,)),
        (b"\x00\xff", np.uint8, (2,)),
        (bytearray(b"12"), np.uint8, (2,)),
        (memoryview(b"1234").cast("I"), np.uint32, (1,)),
        (np.ma.asarray([1.0]), np.float64, (1,)),
        (np.arange(3, dtype=np.longlong), np.int64, (3,)),
        (np.arange(3, dtype=np.ulonglong), np.uint64, (3,)),
    ],
)
def test_what_numpy_reads_as_an_array_is_sent(value: Any, dtype: Any, shape: Any) -> None:
    got = sent({"x": value})["x"]
    assert got.dtype == dtype
    assert got.shape == shape
    assert got.tolist() == np.asarray(value).tolist() or isinstance(value, bytes | bytearray)


@pytest.mark.parametrize(
    "value",
    [
        None, "text", object(), {}, {1, 2}, np.array([object()]), np.array(["2020"], "M8[s]"),
        np.array(["a"]), np.array([b"a"]), np.zeros(2, np.longdouble), [[1], [1, 2]], [None],
        np.zeros(2, "i4,f4"), np.zeros(2, np.timedelta64), 2**80, deque,
    ],
    ids=without_address,
)  # fmt: skip
def test_what_is_not_a_tensor_is_a_bad_request_that_names_it(value: Any) -> None:
    with pytest.raises(errors.BadRequest, match="'weight'"):
        sent({"weight": value})


def test_a_mask_is_never_dropped_in_silence() -> None:
    masked = np.ma.masked_array([1.0, 2.0], mask=[True, False])
    with pytest.raises(errors.BadRequest, match="mask"):
        sent({"x": masked})
    assert sent({"x": masked.filled(0), "mask": masked.mask}).keys() == ("x", "mask")


@pytest.mark.parametrize("name", ["", 7, None, b"x", "n" * 256, "\ud800"], ids=ascii)
def test_a_name_that_cannot_travel_is_a_bad_request(name: Any) -> None:
    with pytest.raises(errors.BadRequest):
        sent({name: 1})


@pytest.mark.parametrize(
    "body", [7, 1.5, object(), [1, 2], np.zeros(3), {1}, iter(())], ids=without_address
)
def test_a_body_of_another_kind_is_a_bad_request(body: Any) -> None:
    with pytest.raises(errors.BadRequest, match="a body is"):
        sent(body)


def test_an_array_alone_is_refused_with_the_way_to_send_it() -> None:
    with pytest.raises(errors.BadRequest, match=r"\{\"x\": array\}"):
        sent(np.zeros(3))


@pytest.mark.parametrize("kind", [dict, UserDict, MappingProxyType])
def test_any_mapping_is_a_body(kind: Any) -> None:
    assert sent(kind({"x": [1], "y": [2]})).keys() == ("x", "y")


def test_a_mapping_that_gives_a_name_twice_is_refused() -> None:
    class Twice(UserDict[str, Any]):
        def items(self) -> Any:
            return [("x", 1), ("y", 2), ("x", 3)]

    with pytest.raises(errors.BadRequest, match="two tensors"):
        sent(Twice())


@pytest.mark.parametrize(
    ("body", "data"),
    [
        (b"", b""),
        (b"raw\x00", b"raw\x00"),
        (bytearray(b"raw"), b"raw"),
        (memoryview(b"raw"), b"raw"),
        (memoryview(b"r.a.w.")[::2], b"raw"),
        (memoryview(array.array("H", [1, 2])), array.array("H", [1, 2]).tobytes()),
        ("", b""),
        ("grüß", "grüß".encode()),
        (None, b""),
    ],
)
def test_bytes_and_text_travel_as_they_are(body: Any, data: bytes) -> None:
    message = sent(body)
    assert bytes(message.bytes) == data
    assert message.bytes.readonly
    assert message.bytes.format == "B"
    assert message.payload_bytes == len(data)
    assert (len(message), message.keys(), message.specs()) == (0, (), {})
    if isinstance(body, str):
        assert message.text == body
        proto = message_pb2.Message.FromString(message.encoded.tobytes())
        assert proto.tensors[0].dtype == 23
        assert list(proto.tensors[0].shape) == [len(data)]


def test_tensors_are_not_bytes_and_broken_text_is_not_text() -> None:
    message = sent({"x": [1]})
    for read in (lambda: message.bytes, lambda: message.text, lambda: sent(b"\xff").text):
        with pytest.raises(errors.BadRequest):
            read()
    with pytest.raises(errors.BadRequest):
        sent("\ud800")


def test_a_received_message_is_sent_again_without_decoding() -> None:
    message = sent({"x": np.arange(6).reshape(2, 3), "half": np.ones(3, ml_dtypes.int4)})
    pieces = _native.encode_iovec("c", message)
    assert np.shares_memory(np.frombuffer(pieces[1], np.int64), message["x"])
    again = _native.Message.decode(b"".join(pieces))
    assert again.specs() == message.specs()
    assert again["x"].tolist() == message["x"].tolist()
    assert again.packed("half").tobytes() == message.packed("half").tobytes()
    assert sent(sent("text")).text == "text"
    assert sent(sent(None)).payload_bytes == 0


def test_slices_hold_the_callers_memory_and_let_go_of_it() -> None:
    source = np.arange(100.0)
    gone = weakref.ref(source)
    pieces = _native.encode_iovec("a", {"x": source})
    assert np.shares_memory(np.frombuffer(pieces[1]), source)
    del source
    gc.collect()
    assert gone() is not None
    del pieces
    gc.collect()
    assert gone() is None


def test_more_tensors_dimensions_or_envelope_than_the_limit_are_refused() -> None:
    assert len(sent({f"t{i}": 0 for i in range(256)})) == 256
    too_many: list[Any] = [
        {f"t{i}": 0 for i in range(257)},
        {f"t{i}": np.zeros((1,) * 30) for i in range(35)},
        {"n" * 250 + str(i): [0] for i in range(255)},
    ]
    for body in too_many:
        with pytest.raises(errors.MessageTooLarge):
            sent(body)


def test_a_body_that_changes_while_it_is_read_is_an_error_not_a_crash() -> None:
    body: dict[str, Any] = {}

    class Grows:
        def __array__(self, *_: Any, **__: Any) -> Any:
            body.update({f"k{i}": 1 for i in range(1000)})
            return np.zeros(1)

    body["x"] = Grows()
    with pytest.raises(RuntimeError, match="changed"):
        sent(body)


@pytest.mark.parametrize(
    "topic", ["", "a..b", "a.*", ">", "a b", "a" * 256, "\ud800", ".".join("a" * 17)]
)
def test_a_malformed_topic_is_refused_everywhere(topic: str) -> None:
    with pytest.raises(errors.BadTopic):
        _native.encode_message(topic, None)
    with pytest.raises(errors.BadTopic):
        _native.check_topic(topic)
    if topic:
        with pytest.raises(errors.BadTopic):
            _native.Options(reply_to=topic)


def test_patterns_match_tokens() -> None:
    for pattern in ("a.*", "a.>", ">", "*.b", "a.b"):
        _native.check_pattern(pattern)
        assert _native.topic_match(pattern, "a.b")
    assert not _native.topic_match("a.*", "a.b.c")
    assert not _native.topic_match(">", "_r.1")
    for pattern in ("a.>.b", "a*", "", "a..b"):
        with pytest.raises(errors.BadTopic):
            _native.check_pattern(pattern)
    with pytest.raises(errors.BadTopic):
        _native.topic_match("a", "a.*")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"priority": 8}, errors.BadRequest),
        ({"reply_kind": 5}, errors.BadRequest),
        ({"grade": 5}, errors.BadRequest),
        ({"id": b"short"}, errors.BadRequest),
        ({"stream_id": b"short"}, errors.BadRequest),
        ({"type": "\ud800"}, errors.BadRequest),
        ({"headers": {"k": "\ud800"}}, errors.BadRequest),
        ({"headers": {str(i): "" for i in range(65)}}, errors.MessageTooLarge),
        ({"headers": {"k": "v" * 70_000}}, errors.MessageTooLarge),
        ({"headers": {"k": 7}}, TypeError),
        ({"priority": -1}, OverflowError),
        ({"ttl_ns": 2**64}, OverflowError),
        ({"no_such": 1}, TypeError),
    ],
)
def test_options_are_checked_when_they_are_made(options: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        _native.Options(**options)


def test_options_are_reusable_and_each_message_gets_an_id_of_its_own() -> None:
    options = _native.Options(source="s", priority=2)
    ids = [
        _native.Message.decode(_native.encode_message("a", None, options)).id_bytes
        for _ in range(1000)
    ]
    assert ids == sorted(set(ids))
    assert all(len(id_) == 16 and id_[6] >> 4 == 7 for id_ in ids)


def test_functions_take_keywords_and_refuse_unknown_ones() -> None:
    options = _native.Options(priority=1)
    encoded = _native.encode_message(topic="a", options=options, body=None)
    assert _native.Message.decode(encoded).priority == 1
    for wrong in (("a",), ("a", None, None, None), ("a", None, 7), (7, None)):
        with pytest.raises(TypeError):
            _native.encode_message(*wrong)
    with pytest.raises(TypeError):
        _native.encode_message("a", None, other=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        _native.encode_message("a", None, topic="b")  # type: ignore[misc]


def test_frames_are_joined_and_split_as_protobuf_does() -> None:
    messages = [_native.encode_message("a", text) for text in ("one", "two")]
    frame = _native.join_frame(messages)
    parsed = bus_pb2.Frame.FromString(frame)
    assert [item.message.SerializeToString() for item in parsed.items] == [
        message_pb2.Message.FromString(message).SerializeToString() for message in messages
    ]
    assert [message.text for message in _native.split_frame(frame)] == ["one", "two"]
    assert _native.split_frame(b"") == []
    with pytest.raises(errors.MessageTooLarge):
        _native.join_frame([bytes(2 << 20)])


def test_a_control_frame_is_one_item_and_no_message() -> None:
    closing = bus_pb2.Close(subscription=7)
    frame = _native.control_frame(10, closing.SerializeToString())
    assert bus_pb2.Frame.FromString(frame).items[0].close == closing
    assert _native.split_frame(frame) == []
    for kind in (0, 12):
        with pytest.raises(errors.BadRequest):
            _native.control_frame(kind, b"")


def test_a_receipt_says_what_it_was_given() -> None:
    receipt = _native.Receipt(
        id=bytes(range(16)), matched=2, grade="disk", offset=0, lanes=["grpc", "shm"], copies=1,
        bytes=2**40, nodes=3, spooled=True,
    )  # fmt: skip
    assert receipt.id == "00010203-0405-0607-0809-0a0b0c0d0e0f"
    assert (receipt.matched, receipt.grade, receipt.offset) == (2, "disk", 0)
    assert (receipt.lanes, receipt.copies, receipt.bytes) == (["grpc", "shm"], 1, 2**40)
    assert (receipt.nodes, receipt.spooled) == (3, True)
    plain = _native.Receipt(id=bytes(16))
    assert (plain.grade, plain.offset, plain.lanes, plain.spooled) == ("accepted", None, [], False)
    with pytest.raises(AttributeError):
        receipt.matched = 3  # type: ignore[misc]
    for wrong in ({"id": b"1"}, {"grade": "best"}, {"lanes": ["fax"]}, {"lanes": [7]}):
        with pytest.raises(errors.BadRequest):
            _native.Receipt(**{"id": bytes(16), **wrong})  # type: ignore[arg-type]


def test_a_contract_checks_messages_and_meets_other_contracts() -> None:
    contract = _native.Contract({"image": "f32|bf16[H<=4, W]", "mask": "bool[H, W]"})
    fits = sent({"image": np.zeros((2, 3), np.float32), "mask": np.zeros((2, 3), bool)})
    assert contract.check(fits) is None
    misfit = contract.check(sent({"image": np.zeros((2, 3)), "mask": np.zeros((2, 3), bool)}))
    assert misfit is not None
    assert "image" in misfit
    assert contract.check(sent({"image": np.zeros((2, 3), np.float32)})) is not None
    assert contract.unify(_native.Contract({"image": "bf16[A, B]", "mask": "bool[A, B]"})) is None
    other = contract.unify(_native.Contract({"image": "f64[A, B]", "mask": "bool[A, B]"}))
    assert other is not None
    assert len(other.splitlines()) == 2
    for wrong in ("f33", "f32[", "f32[-1]"):
        with pytest.raises(errors.BadRequest):
            _native.Contract({"x": wrong})


def test_ids_and_clock_are_of_the_c_core() -> None:
    assert _native.new_id() < _native.new_id()
    first = _native.now_ns()
    assert 0 < first <= _native.now_ns()
