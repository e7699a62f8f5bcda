"""The process that learns: `python -m sira.registry.learning.child PARENT_PID FOLDER ...`.

It is given the folder of the model ("": none is in use), tenant, kind, and CPU seconds. It reads
FOLDER/given, writes FOLDER/learned, synced, and ends with 0. It is nice, has one thread, so much
memory and CPU time and no more, and dies with the node.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

from sira.kernel.supervisor.child import die_with

GIVEN, LEARNED = "given", "learned"
EXIT_NOTHING = 5  # too little to learn from
_NICE = 15
# Training at 20,000 entries takes some 500 MB, a model and its runtime as much again.
_DATA_BYTES_MAX = 3 << 30


def main(parent: str, folder: str, model_dir: str, tenant: str, kind: str, cpu_s: str) -> int:
    """Learn."""
    die_with(int(parent))
    os.nice(_NICE)
    resource.setrlimit(resource.RLIMIT_DATA, (_DATA_BYTES_MAX, _DATA_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_s), int(cpu_s)))
    # Loaded here: what they may take is limited by now.
    from sira.registry.embed.onnx_model import OnnxEmbedder
    from sira.registry.learning import stored
    from sira.registry.rank.learn import learn

    model = OnnxEmbedder(model_dir) if model_dir else None
    data = (Path(folder) / GIVEN).read_bytes()
    pairs = list(stored.given(data, model))
    entries, marks = [each for _, each in pairs], {mark: len(each.examples) for mark, each in pairs}
    found = learn(entries, model)
    if found.head is None:
        return EXIT_NOTHING
    trained = stored.Trained(
        tenant=tenant,
        kind=kind,
        head=found.head,
        calibration=found.calibration,
        held_out=found.held_out,
        right=found.right,
        entries=len(entries),
        examples=sum(marks.values()),
        marks=marks,
        embedder=model.name if model is not None else "",
        trained_ns=time.time_ns(),
        took_ms=round(time.process_time() * 1e3),
    )
    with (Path(folder) / LEARNED).open("wb") as file:
        file.write(stored.to_bytes(trained))
        file.flush()
        os.fsync(file.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
