"""Offers of strangers: whatever bytes come, an entry or a typed refusal."""

from __future__ import annotations

import random
from typing import Any

import pytest
from google.protobuf import descriptor_pb2

from sira.kernel.attach.descriptors import read_pool
from sira.kernel.attach.offer import read_offer
from sira.kernel.errors import SiraError
from sira.kernel.methods import Brought
from sira.v1 import kernel_pb2
from tests.services.echo import file_proto


async def handler(call: Any, request: Any) -> None:
    raise AssertionError("nobody calls here")


def taken(offer: kernel_pb2.AttachOffer) -> Brought:
    return read_offer(offer, tenant="t", handler=handler, bytes_max=128 << 10)


def offer_of(*files: descriptor_pb2.FileDescriptorProto, method: str) -> kernel_pb2.AttachOffer:
    every = descriptor_pb2.FileDescriptorSet(file=files).SerializeToString()
    methods = [kernel_pb2.AttachMethod(name=method, effects="read")]
    return kernel_pb2.AttachOffer(name="x", descriptors=every, methods=methods)


@pytest.mark.parametrize("seed", range(300))
def test_changed_bytes_give_entries_or_a_typed_refusal(seed: int) -> None:
    rng = random.Random(seed)
    data = bytearray(
        offer_of(file_proto("acme.v1"), method="/acme.v1.Echo/Say").SerializeToString()
    )
    for _ in range(rng.randrange(1, 8)):
        match rng.randrange(3):
            case 0:
                data[rng.randrange(len(data))] = rng.randrange(256)
            case 1:
                del data[rng.randrange(len(data))]
            case _:
                data.insert(rng.randrange(len(data)), rng.randrange(256))
    try:
        offer = kernel_pb2.AttachOffer.FromString(bytes(data))
    except Exception:  # the stream's own decoding refuses it
        return
    try:
        brought = taken(offer)
    except SiraError:
        return
    assert all(each.schemas for each in brought.methods)


def test_a_long_chain_of_types_is_no_recursion() -> None:
    """Each of 600 types holds the one before."""
    file = descriptor_pb2.FileDescriptorProto(name="c.proto", package="acme.v1", syntax="proto3")
    for number in range(600):
        one = file.message_type.add(name=f"M{number}")
        if number:
            one.field.add(
                name="inner", number=1, type=11, label=1, type_name=f".acme.v1.M{number - 1}"
            )
    service = file.service.add(name="S")
    service.method.add(name="Do", input_type=".acme.v1.M599", output_type=".acme.v1.M0")
    (method,) = taken(offer_of(file, method="/acme.v1.S/Do")).methods
    assert method.schemas is not None and method.schemas[0].count('"title"') == 600


def test_files_come_in_any_order_and_the_nodes_own_are_the_nodes() -> None:
    user = descriptor_pb2.FileDescriptorProto(
        name="user.proto", package="acme.v1", dependency=["types.proto", "sira/v1/tensor.proto"]
    )
    user.message_type.add(name="M").field.add(
        name="tensor", number=1, type=11, label=1, type_name=".sira.v1.Tensor"
    )
    types = descriptor_pb2.FileDescriptorProto(name="types.proto", package="acme.v1")
    fake = descriptor_pb2.FileDescriptorProto(name="sira/v1/tensor.proto", package="sira.v1")
    every = descriptor_pb2.FileDescriptorSet(file=[user, fake, types])
    pool, files = read_pool(every.SerializeToString())
    assert sorted(files) == ["types.proto", "user.proto"]
    assert pool.FindMessageTypeByName("sira.v1.Tensor").fields_by_name["dtype"]
