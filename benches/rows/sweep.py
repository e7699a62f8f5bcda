"""sweep: float32 tensors one way, filled by the producer and summed by the consumer, by size.

`grpc-ready` sends bytes made beforehand, neither filled nor copied: what raw grpcio could do if the
producer had nothing to do.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from benches.harness import Case, Figures, Stage
from benches.systems import GRPC, NATS, REDIS, SIRA, ZMQ, System, case

SUMMARY = "one-way tensors of 1 MiB to 1 GiB, filled and summed"
MIB = 1 << 20
SIZES_MIB = (1, 4, 16, 64, 256, 1024)
QUICK_SIZES_MIB = (1, 16, 64)
BROKERS_SIZE_MIB_MAX = 1  # NATS and Redis: beyond it they are asked for what they refuse to be


def groups(quick: bool) -> list[list[Case]]:
    """One group a size."""
    made = []
    for size_mib in QUICK_SIZES_MIB if quick else SIZES_MIB:
        moved_mib = (256 if quick else 1024) if size_mib <= 256 else 3 * size_mib
        params = {
            "payload_bytes": size_mib * MIB,
            "count": moved_mib // size_mib,
            "warmup": 32 if size_mib == 1 else 4 if size_mib < 256 else 2 if size_mib < 1024 else 1,
            "buffers": 4 if size_mib <= 64 else 2,
        }
        systems: tuple[System, ...] = (GRPC, SIRA, ZMQ)
        if size_mib <= BROKERS_SIZE_MIB_MAX:
            systems += (NATS, REDIS)
        cases = [case("sweep", s, params, measure) for s in systems]
        ready = {**params, "fill_period": params["buffers"]}
        send_ready = partial(measure, source="bulk_source_ready")
        cases.insert(1, case("sweep", GRPC, ready, send_ready, name="grpc-ready"))
        made.append(cases)
    return made


def measure(system: System, params: dict[str, Any], *, source: str = "bulk_source") -> Figures:
    """GB/s (10**9 bytes of payload) and CPU seconds a GB, from the first fill to the last sum."""
    with Stage(timeout_s=180) as stage:
        url, _server = system.listen(stage)
        sink = stage.participant(system.entry("bulk_sink"), {**params, "url": url})
        stage.hear_all([sink], "listening")
        producer = stage.participant(system.entry(source), {**params, "url": url})
        stage.hear_all([producer], "ready")
        stage.hear_all([sink], "warm")
        cpu_s = stage.cpu_s()
        producer.say("go")
        (sent,) = stage.hear_all([producer], "sent")
        (done,) = stage.hear_all([sink], "done")
        cpu_s = stage.cpu_s() - cpu_s
    moved_gb = params["count"] * params["payload_bytes"] / 1e9
    elapsed_s = (done["end_ns"] - sent["start_ns"]) / 1e9
    return {"gb_per_s": moved_gb / elapsed_s, "cpu_s_per_gb": cpu_s / moved_gb}
