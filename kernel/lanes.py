"""The ways bytes travel, as Negotiate, receipts and Explain name them."""

from __future__ import annotations

from collections.abc import Mapping

from sira.v1 import bus_pb2

GRPC, SOCKET = bus_pb2.LANE_GRPC, bus_pb2.LANE_SOCKET
# By number of sira.v1.Lane; native/receipt.c has the same.
NAMES: Mapping[int, str] = {GRPC: "grpc", SOCKET: "socket"}
REASONS: Mapping[int, str] = {
    GRPC: "the subscriber came by gRPC",
    SOCKET: "the subscriber is on this host and came by the node's Unix socket",
}
