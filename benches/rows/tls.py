"""tls: our node over TLS 1.3 with a token, beside itself without, and raw grpcio both ways.

At 256 B the figures of `rtt256` and `rate256`, at 1 and 16 MiB those of `sweep`. `grpc-ready` and
`grpc-tls-ready` send bytes made beforehand. A raw grpcio that copies each tensor into new bytes
takes far more new pages plain than over TLS, which hides what TLS costs it.
"""

from __future__ import annotations

import socket
import ssl
from functools import partial
from pathlib import Path
from typing import Any

from benches.harness import BenchError, Case, Figures, Stage
from benches.nodes import GRPC_TLS, SIRA_TLS
from benches.rows import beside, sweep
from benches.systems import GRPC, SIRA, System, case

SUMMARY = "TLS 1.3 beside plain: request/reply and one way at 256 B, tensors of 1 and 16 MiB"
RAW = (GRPC, GRPC_TLS)
SYSTEMS = (SIRA, SIRA_TLS, *RAW)


def groups(quick: bool) -> list[list[Case]]:
    """One group a size, each with both systems, plain and over TLS."""
    made = beside.groups("tls", SYSTEMS, measure_small, quick=quick, payload_bytes=256)
    send_ready = partial(sweep.measure, source="bulk_source_ready")
    for group in made[1:]:  # of tensors
        ready = {**group[0].params, "fill_period": group[0].params["buffers"]}
        group += [case("tls", s, ready, send_ready, name=f"{s.name}-ready") for s in RAW]
    return made


def measure_small(system: System, params: dict[str, Any]) -> Figures:
    """Request and reply, then one way; each on a server of its own."""
    looked = partial(_tls_seen, wanted=system in (SIRA_TLS, GRPC_TLS))
    return beside.both_ways(system, params, looked)


def _tls_seen(stage: Stage, url: str, *, wanted: bool) -> Figures:
    """Shake hands as a client that takes TLS 1.3 alone; the version.

    Raises:
        BenchError: there is TLS where there should be none, or none where there should.
    """
    host, _, port = url.rpartition(":")
    ca = stage.shared.get("tls_ca")
    if (ca is not None) != wanted:
        raise BenchError(f"TLS is {wanted}, the authority {ca}")
    context = ssl.create_default_context(cadata=Path(ca).read_text() if ca else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    if not wanted:  # any certificate at all would be wrong
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, int(port)), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=host) as shaken,
        ):
            version = shaken.version()
    except OSError as error:
        if wanted:
            raise BenchError(f"no TLS 1.3 at {url}: {error}") from error
        return {}
    if not wanted or version != "TLSv1.3":
        raise BenchError(f"{url} speaks {version}")
    return {"tls_version": 1.3}
