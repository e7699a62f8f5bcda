"""Run the cases, write docs/conformance.md, exit 1 on any mismatch."""

from __future__ import annotations

import argparse
import platform
import re
import sys
from pathlib import Path
from typing import Any

from .cases import LAYOUTS, Case, as_bytes, cases
from .lanes import LANES, Send
from .libraries import Library, NotThere, available, ml_dtypes_version

DOCUMENT = Path(__file__).parents[2] / "docs" / "conformance.md"
EXACT, ABSENT, REFUSED, WRONG = "=", "", "refused", "**WRONG**"
OUT = {"C": "out", "large": "large out"}  # layouts given to the receiver's library -> column
HEAD = """# Conformance

Made by `make conformance`, not by hand. Each cell is one tensor of a dtype and a layout, made by an
array library, sent over a lane and compared with what was read, bit for bit. The bits are those of
`tests/vectors`: NaN payloads, signalling NaNs, -0.0, infinities, subnormals, extremes.

| mark | means |
| --- | --- |
| `=` | every bit arrived |
| (empty) | the library has no such array |
| `view` | the library took the tensor read as it lies in memory, every bit the same |
| `copy` | the library took a copy of it, every bit the same |
| `refused` | the library did not take it; below the table it says why |

`out` is what the receiver's library does with the tensor read (`torch.from_dlpack(message["x"])`),
`large out` the same of the large one. 4-bit elements are unpacked on reading, so their views are of
the unpacked array. JAX takes memory as it lies only where the address is a multiple of 64, and
copies otherwise: large tensors are put together at such addresses on the grpc lane, and lie at
such addresses in shared memory. There, `direct` is copied in by its publisher and `loan` written in
place; both go past the node, each message by the node's own account. CuPy needs a GPU: not run.

Layouts:

"""


def run_out(library: Library, case: Case, view: object) -> tuple[str, str]:
    """Mark and reason of giving the tensor read to the library."""
    try:
        taken, shared = library.take(view)
        bits = library.bits(taken)
    except Exception as error:  # any library's own way to say no; the document shows it
        return REFUSED, " ".join(f"{type(error).__name__}: {error}".split())[:120]
    if not case.same(bits):
        return WRONG, "bits differ"
    return ("view" if shared else "copy"), ""


def run_in(library: Library, case: Case, send: Send) -> tuple[str, Any]:
    """Mark of sending the library's array, and the tensor read (None: there is none)."""
    try:
        made = library.make(case)
    except NotThere:
        return ABSENT, None
    if case.layout != "swapped" and not case.same(library.bits(made)):
        return ABSENT, None  # the library itself changed the bits
    try:
        read = send(made)
    except NotThere:
        return ABSENT, None
    right = (
        read.shape == case.array.shape
        and read.dtype == case.array.dtype
        and not read.flags.writeable
        and as_bytes(read) == case.elements
    )
    return (EXACT if right else WRONG), read


def section(library: Library, lane: str, send: Send, faults: list[str]) -> tuple[str, str]:
    """Heading and Markdown table of one library on one lane; mismatches go to `faults`."""
    rows: dict[str, dict[str, str]] = {}
    notes: dict[str, list[str]] = {}
    for case in cases():
        row = rows.setdefault(case.dtype, {})
        mark, read = run_in(library, case, send)
        row[case.layout] = mark
        if mark == WRONG:
            faults.append(f"{library.name}, {lane}: {case.dtype} {case.layout}")
        if read is None or case.layout not in OUT:
            continue
        out = OUT[case.layout]
        row[out], why = run_out(library, case, read)
        if row[out] == WRONG:
            faults.append(f"{library.name}, {lane}: {case.dtype} {out}: {why}")
        elif why and case.dtype not in notes.setdefault(why, []):
            notes[why].append(case.dtype)
    columns = [*LAYOUTS, *OUT.values()]
    lines = [
        "| dtype | " + " | ".join(columns) + " |",
        "| --- |" + " --- |" * len(columns),
        *(
            f"| {dtype} | " + " | ".join(row.get(column, "") for column in columns) + " |"
            for dtype, row in rows.items()
        ),
    ]
    for why, dtypes in notes.items():
        lines += ["", f"`out` refused for {', '.join(dtypes)}: {why}"]
    count = sum(mark == EXACT for row in rows.values() for mark in row.values())
    heading = f"## {library.name}, {lane}"
    version = library.version
    if library.name == "numpy":
        version += f" with ml_dtypes {ml_dtypes_version()}"
    intro = f"{library.name} {version}, Python {platform.python_version()}: {count} tensors exact."
    return heading, "\n".join([intro, "", *lines])


def merged(sections: dict[str, str]) -> str:
    """The document with these sections; those of libraries that are not here stay as they were."""
    kept: dict[str, str] = {}
    if DOCUMENT.exists():
        parts = re.split(r"^(## .+)$", DOCUMENT.read_text(), flags=re.MULTILINE)
        kept = {parts[i]: parts[i + 1].strip() for i in range(1, len(parts) - 1, 2)}
    text = HEAD + "".join(f"- {name}: {meaning}\n" for name, meaning in LAYOUTS.items())
    for heading, body in sorted({**kept, **sections}.items()):
        text += f"\n{heading}\n\n{body}\n"
    return text


def main() -> int:
    """Return 0 when every bit arrived."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--lane", action="append", choices=sorted(LANES), help="default: all")
    parser.add_argument("--library", action="append", help="default: those that are installed")
    parser.add_argument("--dry-run", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    libraries, missing = available(arguments.library)
    faults: list[str] = []
    sections: dict[str, str] = {}
    for lane in arguments.lane or sorted(LANES):
        for library in libraries:
            with LANES[lane]() as send:
                heading, body = section(library, lane, send, faults)
            sections[heading] = body
            print(f"{heading[3:]}: {body.splitlines()[0]}")
    if missing:
        print(f"not installed, not run: {', '.join(missing)}")
    if not arguments.dry_run:
        DOCUMENT.parent.mkdir(exist_ok=True)
        DOCUMENT.write_text(merged(sections))
    for fault in faults:
        print(f"MISMATCH {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
