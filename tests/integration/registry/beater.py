"""Beats once over the node's socket, then waits to be killed: SOCKET NAME GENERATION."""

from __future__ import annotations

import socket
import sys
import time

from sira.kernel.local import record
from sira.v1 import registry_pb2, socket_pb2


def main(path: str, name: str, generation: str) -> None:
    hello = socket_pb2.SocketHello(
        version=1, window_bytes=1 << 18, record_bytes_max=record.BODY_BYTES_MAX
    ).SerializeToString()
    call = record.call("/sira.v1.Registry/Heartbeat", [], None)
    beat = registry_pb2.Beat(name=name, generation=int(generation), in_flight=7)
    request = registry_pb2.HeartbeatRequest(beats=[beat]).SerializeToString()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        for kind, number, body in (
            (record.HELLO, 0, hello), (record.CALL, 1, call), (record.MESSAGE, 1, request),
        ):  # fmt: skip
            sock.sendall(record.head(kind, number, len(body)) + body)
        time.sleep(600)


if __name__ == "__main__":
    main(*sys.argv[1:])
