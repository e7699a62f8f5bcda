"""What the demo prints and draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import sira

SHOWN_RECEIPTS = 3


def show(report: dict[str, Any], ledger: list[sira.LedgerRow]) -> None:
    """Print who answered, receipts, ledger, latencies and throughput."""
    print("calls     what was asked, who answered how often, why")
    for name, words in report["asked"].items():
        answered = ", ".join(f"{who} {n}" for who, n in sorted(report["answered"][name].items()))
        print(f"  {words!r}: {answered}")
        print(f"    {report['reasons'][name][0]}")
    print("tensors   " + ", ".join(f"{name}: {dtype}" for name, dtype in report["dtypes"].items()))
    print(f"receipts  the first {SHOWN_RECEIPTS} of {len(report['receipts'])}")
    for receipt in report["receipts"][:SHOWN_RECEIPTS]:
        print(
            f"  {receipt['id']}  {receipt['grade']}  matched {receipt['matched']}  "
            f"{'+'.join(receipt['lanes'])}  copies {receipt['copies']}  {receipt['bytes']} bytes"
        )
    print("ledger")
    for row in ledger:
        state = "balanced" if row.balanced else "NOT BALANCED"
        dropped = ", ".join(f"{n} {reason}" for reason, n in row.dropped.items()) or "0"
        print(
            f"  {row.topic:28} published {row.published:4}  delivered {row.delivered:4}  "
            f"dropped {dropped}  {state}"
        )
    print("step             p50 ms   p99 ms     MB/s   agents' work included")
    for name, laps in report["laps_us"].items():
        p50, p99 = np.percentile(laps, [50, 99]) / 1e3
        rate = report["moved_bytes"][name] / (sum(laps) / 1e6) / 1e6
        print(f"  {name:12} {p50:8.2f} {p99:8.2f} {rate:8.1f}")
    print(f"  {'pipeline':12} {report['rounds'] / report['seconds']:8.1f} images/s")


def plot(tensors: dict[str, np.ndarray], report: dict[str, Any], target: Path) -> None:
    """Draw what went in, what came out, and how long it took."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 4, figsize=(16, 4), layout="constrained")
    mask = tensors["edges"].view(ml_dtypes.bfloat16).astype(np.float32)
    for axis, title, image in (
        (axes[0], "decoded, float32", tensors["image"]),
        (axes[1], "edges, bfloat16", mask),
        (axes[2], "thumbnail, uint8", tensors["thumbnail"]),
    ):
        axis.imshow(image, cmap="gray" if image.ndim == 2 else None)
        axis.set(title=title, xticks=[], yticks=[])
    laps_ms = [np.array(laps) / 1e3 for laps in report["laps_us"].values()]
    axes[3].boxplot(laps_ms, tick_labels=list(report["laps_us"]), showfliers=True)
    axes[3].set(title=f"latency of {report['rounds']} rounds", ylabel="ms", yscale="log")
    figure.savefig(target, dpi=110)
    pyplot.close(figure)
