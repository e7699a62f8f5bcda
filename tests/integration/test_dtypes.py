"""Every dtype between processes: SDK to SDK, and a client of generated stubs alone, bit for bit.

The bits are those of the golden vectors (NaN payloads, -0.0, subnormals). An agent in a process of
its own answers with the tensors it was given and with a digest of what it saw in memory, so that
neither a fault of the way there nor one that the way back undoes can pass.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import sira
import sira.testing
from sira.v1 import bus_pb2, bus_pb2_grpc, message_pb2

pytestmark = pytest.mark.integration
VECTORS = Path(__file__).parents[1] / "vectors"
ARRAYS = sorted(
    path.stem for path in VECTORS.glob("*.json") if path.stem not in ("bytes", "utf8", "envelope")
)
TIMEOUT_S = 60.0
AGENT = """
import hashlib, sys
import numpy as np
import sira

agent = sira.Agent("mirror", topic="lab.mirror", url=sys.argv[1])

@agent.handler
def mirror(message: sira.Message):
    seen = hashlib.sha256()
    for name, array in message.items():
        dtype, shape = message.specs()[name]
        seen.update(f"{name} {dtype} {list(shape)} {array.tobytes().hex()}\\n".encode())
    return {**dict(message.items()), "seen": np.frombuffer(seen.digest(), np.uint8)}

agent.run()
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A node in a process, and the mirror in another."""
    script = tmp_path_factory.mktemp("mirror") / "mirror.py"
    script.write_text(AGENT)
    with sira.testing.node() as found:
        agent = subprocess.Popen([sys.executable, str(script), found.url])
        try:
            with sira.connect_sync(found.url) as bus:
                waited = threading.Event()
                while not bus.explain("lab.mirror").matches:
                    assert agent.poll() is None, "the agent has ended"
                    waited.wait(0.02)
            yield found
        finally:
            agent.kill()
            agent.wait()


def _wanted(dtype: str) -> tuple[message_pb2.Message, dict[str, Any], bytes]:
    """The message of a vector, what stands beside it, and the digest an agent must see."""
    frame = bus_pb2.Frame.FromString((VECTORS / f"{dtype}.bin").read_bytes())
    said = json.loads((VECTORS / f"{dtype}.json").read_text())
    seen = hashlib.sha256()
    for each in said["tensors"]:
        line = f"{each['name']} {each['dtype']} {each['shape']} {each['elements_hex']}\n"
        seen.update(line.encode())
    return frame.items[0].message, {each["name"]: each for each in said["tensors"]}, seen.digest()


def test_there_is_a_vector_for_each_dtype() -> None:
    assert len(ARRAYS) == 21


@pytest.mark.parametrize("dtype", ARRAYS)
def test_a_plain_client_gets_back_the_bits_it_sent(node: Any, dtype: str) -> None:
    sent, tensors, digest = _wanted(dtype)
    asked = message_pb2.Message(id=os.urandom(16), topic="lab.mirror", tensors=sent.tensors)
    with grpc.insecure_channel(node.url.removeprefix("sira://")) as channel:
        reply = bus_pb2_grpc.BusStub(channel).Request(asked, timeout=TIMEOUT_S)
    got = {tensor.name: tensor for tensor in reply.tensors}
    assert got.pop("seen").data == digest
    assert got.keys() == tensors.keys()
    for name, tensor in got.items():
        said = tensors[name]
        assert (tensor.dtype, list(tensor.shape)) == (said["code"], said["shape"])
        assert tensor.data.hex() == said["data_hex"]


@pytest.mark.parametrize("dtype", ARRAYS)
def test_two_processes_exchange_each_bit(node: Any, dtype: str) -> None:
    sent, tensors, digest = _wanted(dtype)
    arrays = sira.Message.decode(sent.SerializeToString())
    with sira.connect_sync(node.url) as bus:
        reply = bus.request("lab.mirror", dict(arrays.items()), timeout_s=TIMEOUT_S)
    assert reply["seen"].tobytes() == digest
    assert set(reply.keys()) == {*tensors, "seen"}
    for name, said in tensors.items():
        assert reply.specs()[name] == (said["dtype"], tuple(said["shape"]))
        assert reply[name].tobytes().hex() == said["elements_hex"]


@pytest.mark.parametrize("dtype", ARRAYS)
def test_a_plain_subscriber_reads_what_the_sdk_published(node: Any, dtype: str) -> None:
    sent, tensors, _ = _wanted(dtype)
    arrays = sira.Message.decode(sent.SerializeToString())
    opening = bus_pb2.Open(subscription=1, pattern=f"plain.{dtype}")
    frames = iter([bus_pb2.Frame(items=[bus_pb2.Item(open=opening)])])
    ended = threading.Event()

    def up() -> Iterator[bus_pb2.Frame]:
        yield from frames
        ended.wait(TIMEOUT_S)  # the stream stays open while messages are awaited

    with grpc.insecure_channel(node.url.removeprefix("sira://")) as channel:
        down = bus_pb2_grpc.BusStub(channel).Subscribe(up(), timeout=TIMEOUT_S)
        items = (item for frame in down for item in frame.items)
        try:
            assert next(items).HasField("opened")
            with sira.connect_sync(node.url) as bus:
                assert bus.publish(opening.pattern, dict(arrays.items())).matched == 1
            got = next(items).message
        finally:
            ended.set()
            down.cancel()
    assert [tensor.name for tensor in got.tensors] == list(tensors)
    for tensor in got.tensors:
        said = tensors[tensor.name]
        assert (tensor.dtype, list(tensor.shape)) == (said["code"], said["shape"])
        assert tensor.data.hex() == said["data_hex"]
