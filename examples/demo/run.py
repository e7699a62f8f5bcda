"""`make demo`: a node, four agents and a gateway, each a process, and a real image through them.

The gateway names no agent. It says what is to be done, the registry finds who can: first edges (two
agents are twins in that), then a thumbnail, then its exposure; the result is published, which this
process subscribes to. When a third of the results are in, one of the twins is killed (SIGKILL) in
the middle of its work: what it had in hand is done by the other. Then the same functions run here,
in one process, and every pixel is compared. Exit code 0 means: no result is missing, all pixels are
equal, every message is accounted for by the node's ledger, every other process ended by itself.

On this machine's own socket tensors go through shared memory. With `--tls` (`make demo TLS=1`) the
node speaks TLS, each process has a token of its own, and rules give each just what it needs.
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
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import keys
import numpy as np
import report
from PIL import Image
from stages import pixels

import sira

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "data" / "coffee.png"
START_TIMEOUT_S = 30.0
GATEWAY_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 20.0
SETTLE_TIMEOUT_S = 20.0
VICTIM = "edges-1"
VICTIMS_LOSSES = {"PEER_LOST"}


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
    """Start a node on a free port, with the keys that it finds in `tls`; returns it and its URL.

    Without keys that is the URL of its socket, by which clients of this machine share memory.
    """
    flags = keys.make(tls) if tls else []
    data = folder / "data"
    with (folder / "node.log").open("w") as log:
        argv = ["-m", "sira.cli", "up", "--listen", "127.0.0.1:0", "--data-dir", str(data)]
        node = start(exits, [*argv, *flags, "--json"], stdout=subprocess.PIPE, stderr=log)
    assert node.stdout is not None
    line = node.stdout.readline()
    if not line:
        raise Failed(f"the node did not start: {(folder / 'node.log').read_text()[-2000:]}")
    address = json.loads(line)["data"]["address"]
    return node, f"siras://{address}" if tls else f"unix:{data / 'sira.sock'}"


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


def compare(tensors: dict[str, np.ndarray], arrived: list[dict[str, np.ndarray]]) -> None:
    """Compare what came over the bus with what one process makes of the same file."""
    image = pixels.decode(np.fromfile(SOURCE, np.uint8))
    mask = pixels.edges(image)
    small = pixels.thumbnail(image, mask)
    made = {"image": image, "edges": mask.view(np.uint16), "thumbnail": small}
    made["levels"] = pixels.exposure(small)
    for name, here in made.items():
        there = tensors[name]
        if here.dtype != there.dtype or not np.array_equal(here, there):
            raise Failed(f"{name} differs from the one made in a single process")
    for result in arrived:
        for name, there in result.items():
            if not np.array_equal(made[name], there):
                raise Failed(f"a published {name} differs")


def settled_ledger(bus: sira.SyncBus) -> list[sira.LedgerRow]:
    """Return the ledger once nothing is pending: what was taken is confirmed a little later."""

    def settled() -> list[sira.LedgerRow]:
        rows = [row for topics in ("agents.>", "demo.>") for row in bus.ledger(topics)]
        return [] if any(row.pending for row in rows) else rows

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
    """Start all, send the image through, kill one, check, show, stop the others."""
    node, url = start_node(exits, folder, tls)
    print(f"node      pid {node.pid} at {url}")
    for name, principal in keys.WHO.items() if tls else ():
        print(f"who       {name:11} is sira://local/{principal}")
    agents = {
        name: start(
            exits, [str(HERE / "stages" / f"{name.partition('-')[0]}.py"), name, url],
            env=environment(tls, name),
        )
        for name in keys.AGENTS
    }  # fmt: skip
    shown = sira.Security(tls_ca=tls / "ca.pem", token_file=tls / "watcher.token") if tls else None
    with sira.connect_sync(url, security=shown) as bus:

        def registered() -> list[sira.AgentInfo]:
            found = bus.agents()
            return found if len(found) == len(agents) else []

        for each in wait_until("all agents registered", registered, timeout_s=START_TIMEOUT_S):
            print(
                f"agent     pid {agents[each.name].pid}, {each.name}: {each.capabilities[0].text}"
            )
        with bus.subscribe("demo.results") as results:
            gateway, target = start_gateway(exits, folder, url, rounds, tls)
            arrived = take(results, rounds, agents[VICTIM])
            said = end_of(gateway)
        with np.load(target) as saved:
            tensors = {name: saved[name] for name in saved.files}
        compare(tensors, arrived)
        ledger = settled_ledger(bus)
    report.show(said, ledger)
    check_ledger(ledger)
    Image.fromarray(tensors["thumbnail"]).save(out / "thumbnail.png")
    report.plot(tensors, said, out / "demo.png")
    agents.pop(VICTIM).wait()
    for name, process in agents.items():
        stop(process, f"agent {name}")
    stop(node, "the node")
    print(
        f"verified  {len(arrived)} of {rounds} results, every pixel equals the single-process run; "
        f"calls taken over from {VICTIM}: {said['asked_again']}; results are in {out}"
    )


def start_gateway(
    exits: ExitStack, folder: Path, url: str, rounds: int, tls: Path | None
) -> tuple[subprocess.Popen[str], Path]:
    """Start the gateway; returns it and the file that its last tensors will be in."""
    target = folder / "tensors.npz"
    argv = [str(HERE / "stages" / "gateway.py"), url, str(SOURCE), str(rounds), str(target)]
    gateway = start(exits, argv, stdout=subprocess.PIPE, env=environment(tls, "gateway"))
    size = os.path.getsize(SOURCE)
    print(f"gateway   pid {gateway.pid}, {rounds} rounds of {SOURCE.name}, {size} bytes")
    return gateway, target


def end_of(gateway: subprocess.Popen[str]) -> dict[str, Any]:
    """Return what the gateway measured."""
    said, _ = gateway.communicate(timeout=GATEWAY_TIMEOUT_S)
    if gateway.returncode != 0:
        raise Failed(f"the gateway ended with exit code {gateway.returncode}")
    found: dict[str, Any] = json.loads(said)
    return found


def take(
    results: sira.SyncSubscription, rounds: int, victim: subprocess.Popen[str]
) -> list[dict[str, np.ndarray]]:
    """Return the results of all rounds; kill `victim` when a third of them are here."""
    missing = set(range(rounds))
    taken = []
    while missing:
        message = results.next(timeout_s=GATEWAY_TIMEOUT_S)
        index = int(message.headers["round"])
        if index < 0:
            continue  # of the warm-up
        missing.remove(index)
        taken.append({name: np.array(message[name]) for name in ("thumbnail", "levels")})
        if len(taken) == max(1, rounds // 3):
            victim.kill()
            print(f"killed    pid {victim.pid}, {VICTIM}, after {len(taken)} results")
    return taken


def check_ledger(ledger: list[sira.LedgerRow]) -> None:
    """Nothing is unexplained, and nothing is lost but what the dead one had in hand."""
    for row in ledger:
        of_victim = row.topic.startswith(f"agents.{VICTIM}.")
        if set(row.dropped) - (VICTIMS_LOSSES if of_victim else set()) or row.unknown:
            raise Failed(f"{row.topic} lost {dict(row.dropped)}, unknown {row.unknown}")
        if not row.balanced:
            raise Failed(f"the ledger does not account for every message of {row.topic}")


if __name__ == "__main__":
    sys.exit(main())
