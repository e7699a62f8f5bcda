"""The gRPC server of a node: its options, its ports, its end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from sira.kernel.edge.door import Door
from sira.kernel.edge.tls import Handshakes
from sira.kernel.errors import AddressInUse, BadSetting
from sira.kernel.loopback import is_loopback
from sira.kernel.settings import Settings

# A chunk comes as one piece, instead of a hundred of 16 KiB, each with its buffer and header.
_HTTP2_FRAME_BYTES = 2 << 20
GATEWAY_SOCKET = "gateway.sock"  # in the data folder: where the HTTP listener hands calls on
_SOCKET_PATH_BYTES_MAX = 107  # sockaddr_un


def options(settings: Settings) -> list[tuple[str, int | str]]:
    """Return the channel options of the server.

    BDP probing is off: it would grow the window until small messages wait behind megabytes of
    large ones on the same connection. The window is a setting instead. SO_REUSEPORT is off, or a
    second node on the same port would get half of the connections instead of an error.

    A call counts against its connection until nothing is left of it here, also when its caller has
    taken it back: so the calls that wait for this process's attention are bounded, too. As many
    again may be on their way out, or a client that makes all it may at once would be refused.
    """
    return [
        ("grpc.max_receive_message_length", settings.grpc_message_bytes_max),
        ("grpc.max_send_message_length", settings.grpc_message_bytes_max),
        ("grpc.max_metadata_size", settings.metadata_bytes_max),
        ("grpc.absolute_max_metadata_size", settings.metadata_bytes_max),
        ("grpc.max_concurrent_streams", settings.streams_per_connection_max),
        ("grpc.http2.max_deallocating_streams", settings.streams_per_connection_max),
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


@dataclass(frozen=True, slots=True)
class Listening:
    """A server that listens; it serves once started. Ports: 0 where there is none."""

    server: grpc.aio.Server
    port: int
    mtls_port: int


def check_exposure(settings: Settings) -> None:
    """Refuse to be reached by strangers without a lock on the door.

    Raises:
        BadSetting: beyond loopback without TLS and without `insecure`, or half of a TLS pair, or a
            TLS listener that nobody could pass.
    """
    if bool(settings.tls_cert) != bool(settings.tls_key):
        missing = "tls_key" if settings.tls_cert else "tls_cert"
        raise BadSetting(
            f"{missing} is missing: a certificate and its key come together",
            details={"setting": missing},
        )
    if settings.listen_mtls and not (settings.tls_cert and settings.tls_client_ca):
        raise BadSetting(
            "listen_mtls needs tls_cert, tls_key and tls_client_ca",
            details={"setting": "listen_mtls"},
            help="`sira tls init DIR` makes all of them",
        )
    for name in ("listen", "http") if settings.http else ("listen",):
        host, _ = settings.host_port(name)
        if not settings.tls_cert and not settings.insecure and not is_loopback(host):
            raise BadSetting(
                f"{name} = {getattr(settings, name)!r} is reached by strangers, "
                "and there is no TLS",
                details={"setting": name},
                help="give --tls-cert and --tls-key (`sira tls init DIR` makes them), "
                "or --insecure",
            )
    believed = settings.token_keys or settings.jwt_issuers or settings.listen_mtls
    if settings.tls_cert and not believed:
        raise BadSetting(
            "the TLS listener would take tokens, and no key or issuer of any is believed",
            details={"setting": "token_keys"},
            help="give --token-keys, --jwt-issuers, or --listen-mtls for certificates",
        )


def listen(settings: Settings, door: Door, handshakes: Handshakes | None) -> Listening:
    """Make a server that listens where the settings say.

    Args:
        handshakes: of the TLS ports; None: `listen` is plain, and there is no other.

    Raises:
        AddressInUse: somebody else listens there, or the address is not of this machine.
        BadSetting: see `Settings.address`.
    """
    server = grpc.aio.server(options=options(settings))
    server.add_generic_rpc_handlers((door,))
    of_listen = handshakes.credentials(client_certificates=False) if handshakes else None
    port = _open(server, settings.address, of_listen)
    mtls_port = 0
    if settings.listen_mtls:
        assert handshakes is not None, "check_exposure saw to it"
        of_mtls = handshakes.credentials(client_certificates=True)
        mtls_port = _open(server, settings.host_port("listen_mtls"), of_mtls)
    if settings.http:
        server.add_insecure_port(f"unix:{gateway_socket(settings)}")
    return Listening(server, port, mtls_port)


def gateway_socket(settings: Settings) -> Path:
    """Return where the HTTP listener reaches the node.

    Raises:
        BadSetting: the data folder's path is longer than a socket's may be.
    """
    path = settings.data_path.absolute() / GATEWAY_SOCKET
    if len(str(path).encode()) > _SOCKET_PATH_BYTES_MAX:
        raise BadSetting(
            f"data_dir = {settings.data_dir!r} is too long for a Unix socket in it",
            details={"setting": "data_dir"},
        )
    return path


def _open(
    server: grpc.aio.Server, address: tuple[str, int], credentials: grpc.ServerCredentials | None
) -> int:
    host, port = address
    text = f"{host}:{port}"
    try:
        if credentials is None:
            bound = server.add_insecure_port(text)
        else:
            bound = server.add_secure_port(text, credentials)
    except RuntimeError as error:
        bound, reason = 0, str(error).splitlines()[0]
    else:
        reason = "gRPC gave no reason"
    if bound == 0:
        raise AddressInUse(
            f"cannot listen on {text}: another process is there, or it is no address "
            "of this machine",
            details={"address": text, "reason": reason[:200]},
        )
    return bound
