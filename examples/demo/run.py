"""`make demo`: a node, two agents and a gateway, each a process, and a real image through all of
them.

The gateway sends the image file to the first agent (decode, filter, edges), its tensors to the
second (thumbnail), and publishes the result, which this process subscribes to. Then the same
functions run here, in one process, and every pixel is compared. Exit code 0 means: all pixels
equal, every message accounted for by the node's ledger, every process ended by itself.

With `--tls` (`make demo TLS=1`) the node speaks TLS, each process has a token of its own, and rules
give each just what it needs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import keys
import ml_dtypes
import numpy as np
from PIL import Image
from stages import pixels

import sira

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "data" / "coffee.png"
START_TIMEOUT_S = 30.0
GATEWAY_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 20.0
SETTLE_TIMEOUT_S = 20.0
SHOWN_RECEIPTS = 3


class Failed(Exception):
    """Something is not as it should be; the message says what."""


def start(exits: ExitStack, argv: list[str], **popen: Any) -> subprocess.Popen[str]:
    """Start a process that is killed at the latest when the demo ends."""
    process = subprocess.Popen([sys.executable, *argv], text=True, **popen)

    def end() -> None:
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdout, process.stdin):
            if pipe is not None:
                pipe.close()

    exits.callback(end)
    return process


def start_node(
    exits: ExitStack, folder: Path, tls: Path | None
) -> tuple[subprocess.Popen[str], str]:
    """Start a node on a free port, with the keys that it finds in `tls`; returns it and its URL."""
    flags = keys.make(tls) if tls else []
    with (folder / "node.log").open("w") as log:
        argv = [
            "-m",
            "sira.cli",
            "up",
            "--listen",
            "127.0.0.1:0",
            "--data-dir",
            str(folder / "data"),
        ]
        node = start(exits, [*argv, *flags, "--json"], stdout=subprocess.PIPE, stderr=log)
    assert node.stdout is not None
    line = node.stdout.readline()
    if not line:
        raise Failed(f"the node did not start: {(folder / 'node.log').read_text()[-2000:]}")
    data = json.loads(line)["data"]
    return node, f"{'siras' if tls else 'sira'}://{data['address']}"


def wait_until(what: str, condition: Any, *, timeout_s: float) -> Any:
    """Return the first true value of `condition()`.

    Raises:
        Failed: there was none in time.
    """
    deadline_s = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline_s:
            raise Failed(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(0.02)
    return value


def stop(process: subprocess.Popen[str], name: str) -> None:
    """Send SIGTERM; the process must drain and end with 0."""
    process.send_signal(signal.SIGTERM)
    code = process.wait(STOP_TIMEOUT_S)
    if code != 0:
        raise Failed(f"{name} ended with exit code {code}")


def compare(tensors: dict[str, np.ndarray], arrived: list[np.ndarray], rounds: int) -> None:
    """Compare what came over the bus with what one process makes of the same file."""
    image = pixels.decode(np.fromfile(SOURCE, np.uint8))
    mask = pixels.edges(image)
    small = pixels.thumbnail(image, mask)
    came = tensors["edges_bits"].view(ml_dtypes.bfloat16)
    for name, here, there in (
        ("image", image, tensors["image"]),
        ("edges", mask.view(np.uint16), came.view(np.uint16)),
        ("thumbnail", small, tensors["thumbnail"]),
    ):
        if here.dtype != there.dtype or not np.array_equal(here, there):
            raise Failed(f"{name} differs from the one made in a single process")
    if len(arrived) != rounds or not all(np.array_equal(small, other) for other in arrived):
        raise Failed(f"{len(arrived)} of {rounds} published thumbnails arrived, or one differs")


def settled_ledger(bus: sira.SyncBus) -> Any:
    """Return the ledger once nothing is pending: what was taken is confirmed a little later."""

    def settled() -> Any:
        ledger = bus.ledger("demo.>")
        return None if any(row.pending for row in ledger) else ledger

    return wait_until("nothing pending", settled, timeout_s=SETTLE_TIMEOUT_S)


def main() -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(description="Sira's demo")
    parser.add_argument(
        "--out", type=Path, default=Path("build/demo"), help="folder of the results"
    )
    parser.add_argument("--tls", action="store_true", help="TLS, tokens, and rules")
    parser.add_argument("--rounds", type=int, default=30, help="how often the image goes through")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        with ExitStack() as exits:
            folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="sira-demo-")))
            run(exits, folder, args.out, args.rounds, folder / "keys" if args.tls else None)
    except (Failed, sira.SiraError, subprocess.TimeoutExpired) as error:
        print(f"demo: FAILED: {error}", file=sys.stderr)
        return 1
    return 0


def environment(tls: Path | None, name: str) -> dict[str, str]:
    """Return the environment of a process that speaks as `name`."""
    return os.environ | (keys.environment(tls, name) if tls else {})


def run(exits: ExitStack, folder: Path, out: Path, rounds: int, tls: Path | None) -> None:
    """Start all, send the image through, check, show, stop all."""
    node, url = start_node(exits, folder, tls)
    print(f"node      pid {node.pid} at {url}")
    for name, principal in keys.WHO.items() if tls else ():
        print(f"who       {name:10} is sira://local/{principal}")
    agents = {
        name: start(exits, [str(HERE / "stages" / f"{name}.py"), url], env=environment(tls, name))
        for name in ("edges", "thumbnail")
    }
    shown = sira.Security(tls_ca=tls / "ca.pem", token_file=tls / "watcher.token") if tls else None
    with sira.connect_sync(url, security=shown) as bus:
        for name, process in agents.items():
            wait_until(
                f"agent {name}",
                lambda name=name: list(bus.explain(f"demo.{name}")),
                timeout_s=START_TIMEOUT_S,
            )
            print(f"agent     pid {process.pid}, serves demo.{name}")
        with bus.subscribe("demo.results") as results:
            report, tensors = run_gateway(exits, folder, url, rounds, tls)
            arrived = [np.array(message["thumbnail"]) for message in take(results, rounds)]
        compare(tensors, arrived, rounds)
        ledger = settled_ledger(bus)
    show(report, ledger)
    if not ledger.balanced or any(row.dropped or row.unknown for row in ledger):
        raise Failed("the ledger does not account for every message")
    Image.fromarray(tensors["thumbnail"]).save(out / "thumbnail.png")
    plot(tensors, report, out / "demo.png")
    for name, process in agents.items():
        stop(process, f"agent {name}")
    stop(node, "the node")
    print(f"verified  every pixel equals the single-process run; results are in {out}")


def run_gateway(
    exits: ExitStack, folder: Path, url: str, rounds: int, tls: Path | None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Run the gateway to its end; returns what it measured, and the tensors of its last round."""
    target = folder / "tensors.npz"
    argv = [str(HERE / "stages" / "gateway.py"), url, str(SOURCE), str(rounds), str(target)]
    gateway = start(exits, argv, stdout=subprocess.PIPE, env=environment(tls, "gateway"))
    size = os.path.getsize(SOURCE)
    print(f"gateway   pid {gateway.pid}, {rounds} rounds of {SOURCE.name}, {size} bytes")
    said, _ = gateway.communicate(timeout=GATEWAY_TIMEOUT_S)
    if gateway.returncode != 0:
        raise Failed(f"the gateway ended with exit code {gateway.returncode}")
    with np.load(target) as saved:
        return json.loads(said), {name: saved[name] for name in saved.files}


def take(results: sira.SyncSubscription, rounds: int) -> Iterator[Any]:
    """Yield the results of all rounds but the warm-up."""
    while rounds:
        message = results.next(timeout_s=SETTLE_TIMEOUT_S)
        if int(message.headers["round"]) >= 0:
            rounds -= 1
            yield message


def show(report: dict[str, Any], ledger: Any) -> None:
    """Print receipts, ledger, latencies and throughput."""
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
        print(
            f"  {row.topic:15} published {row.published:4}  owed {row.owed:4}  "
            f"delivered {row.delivered:4}  dropped {sum(row.dropped.values())}  {state}"
        )
    print("stage            p50 ms   p99 ms     MB/s   agents' work included")
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
    mask = tensors["edges_bits"].view(ml_dtypes.bfloat16).astype(np.float32)
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


if __name__ == "__main__":
    sys.exit(main())
