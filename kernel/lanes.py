"""The ways bytes travel, as Negotiate, receipts and Explain name them."""

from __future__ import annotations

from collections.abc import Mapping

from sira.v1 import bus_pb2

GRPC, SHM, SOCKET = bus_pb2.LANE_GRPC, bus_pb2.LANE_SHM, bus_pb2.LANE_SOCKET
# By number of sira.v1.Lane; native/receipt.c has the same.
NAMES: Mapping[int, str] = {GRPC: "grpc", SHM: "shm", SOCKET: "socket"}
REASONS: Mapping[int, str] = {
    GRPC: "the subscriber came by gRPC, as from another host or by TLS: it shares no memory",
    SHM: "the subscriber is on this host and maps the memory of publishers that lend it: large "
    "tensors of those go by reference, the rest by the node's Unix socket",
    SOCKET: "the subscriber is on this host and came by the node's Unix socket; it maps no memory "
    "of others (SIRA_SHM=off there, or a system without memfd and eventfd)",
}
