"""The gRPC server of a node: its options, its port, its end."""

from __future__ import annotations

import grpc

from sira.kernel.edge.door import Door
from sira.kernel.errors import AddressInUse
from sira.kernel.settings import Settings

# A chunk comes as one piece, instead of a hundred of 16 KiB, each with its buffer and header.
_HTTP2_FRAME_BYTES = 2 << 20


def options(settings: Settings) -> list[tuple[str, int | str]]:
    """Return the channel options of the server.

    BDP probing is off: it would grow the window until small messages wait behind megabytes of
    large ones on the same connection. The window is a setting instead. SO_REUSEPORT is off, or a
    second node on the same port would get half of the connections instead of an error.
    """
    return [
        ("grpc.max_receive_message_length", settings.grpc_message_bytes_max),
        ("grpc.max_send_message_length", settings.grpc_message_bytes_max),
        ("grpc.max_metadata_size", settings.metadata_bytes_max),
        ("grpc.absolute_max_metadata_size", settings.metadata_bytes_max),
        ("grpc.max_concurrent_streams", settings.streams_per_connection_max),
        ("grpc.server_handshake_timeout_ms", round(settings.handshake_s * 1e3)),
        ("grpc.keepalive_time_ms", round(settings.keepalive_s * 1e3)),
        ("grpc.keepalive_timeout_ms", round(settings.keepalive_timeout_s * 1e3)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.max_frame_size", _HTTP2_FRAME_BYTES),
        ("grpc.http2.lookahead_bytes", settings.stream_window_bytes),
        ("grpc.so_reuseport", 0),
    ]


def listen(settings: Settings, door: Door) -> tuple[grpc.aio.Server, int]:
    """Make a server that listens, and say on which port; it serves once started.

    Raises:
        AddressInUse: somebody else listens there, or the address is not of this machine.
    """
    host, port = settings.address
    server = grpc.aio.server(options=options(settings))
    server.add_generic_rpc_handlers((door,))
    try:
        bound = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        bound, reason = 0, str(error).splitlines()[0]
    else:
        reason = "gRPC gave no reason"
    if bound == 0:
        raise AddressInUse(
            f"cannot listen on {host}:{port}: another process is there, or it is no address "
            "of this machine",
            details={"address": f"{host}:{port}", "reason": reason[:200]},
        )
    return server, bound
