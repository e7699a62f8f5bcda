"""The command `sira` as tests run it: real processes, strict reading of what they print."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

from sira.cli.parser import build, expand_default
from sira.cli.spec import specification

TIMEOUT_S = 60.0


@dataclass
class Ended:
    """A verb that has ended: exit code, envelopes (with --json), both outputs."""

    code: int
    out: str
    err: str
    envelopes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def last(self) -> dict[str, Any]:
        return self.envelopes[-1]

    @property
    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = self.last["data"]
        return data

    def items(self) -> list[dict[str, Any]]:
        return [line["data"] for line in self.envelopes if line["type"] == "item"]


@cache
def _spec() -> dict[str, Any]:
    return specification()


def schema_of(verb: str, kind: str) -> dict[str, Any]:
    """Schema of an envelope, as `sira --emit-spec` prints it."""
    if kind in _spec()["common"]:
        schema: dict[str, Any] = _spec()["common"][kind]
        return schema
    found = next(v for v in _spec()["verbs"] if v["name"] == verb)
    schema = found[kind]
    return schema


@cache
def _validator(verb: str, kind: str) -> Any:
    """Its schema itself is checked once."""
    schema = schema_of(verb, kind)
    made = jsonschema.validators.validator_for(schema)
    made.check_schema(schema)
    return made(schema)


def check_envelopes(verb: str, lines: list[str]) -> list[dict[str, Any]]:
    """Read envelopes and hold them to the contract and to the verb's own schema."""
    envelopes = [json.loads(line) for line in lines]
    assert [line["seq"] for line in envelopes] == list(range(len(envelopes)))
    kinds = [line["type"] for line in envelopes]
    assert sum(kind in ("result", "error") for kind in kinds) == 1, kinds
    assert kinds[-1] in ("result", "error"), kinds
    for line in envelopes:
        _validator(verb, line["type"]).validate(line)
    return envelopes


def _environment(url: str | None, home: Path | None) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SIRA_")}
    if url is not None:
        kept["SIRA_URL"] = url
    if home is not None:
        kept["SIRA_HOME"] = str(home)
    return kept


def start(
    *words: str,
    url: str | None = None,
    home: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bool = False,
) -> subprocess.Popen[str]:
    """Start `sira WORDS`; of SIRA_* variables it sees `env` alone; `stdin`: a pipe."""
    return subprocess.Popen(
        [sys.executable, "-m", "sira.cli", *words],
        env={**_environment(url, home), **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
        text=True,
        preexec_fn=_hear_interrupts,
    )


def _hear_interrupts() -> None:
    """Undo what a shell does to its background jobs: their children ignore SIGINT, too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(process: subprocess.Popen[str], verb: str, *, as_json: bool) -> Ended:
    """Wait for the end and read it."""
    try:
        out, err = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"sira {verb} did not end: {out[-500:]} {err[-2000:]}") from None
    envelopes = check_envelopes(verb, out.splitlines()) if as_json else []
    return Ended(process.returncode, out, err, envelopes)


def sira(
    *words: str,
    url: str | None = None,
    home: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Ended:
    """Run `sira WORDS` to its end."""
    verb = build().parse_args(expand_default(words)).verb.name
    return finish(start(*words, url=url, home=home, env=env), verb, as_json="--json" in words)


def read_line(process: subprocess.Popen[str]) -> str:
    """Read one line of standard output under a watchdog, and no byte more."""
    assert process.stdout is not None
    fd, line = process.stdout.fileno(), b""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([fd], [], [], max(deadline_s - time.monotonic(), 0))
        byte = os.read(fd, 1) if ready else b""
        if not byte:
            process.kill()
            _, err = process.communicate()
            raise AssertionError(f"it ended or said nothing: {line!r} {err[-3000:]}")
        line += byte
    return line.decode()


def started(*words: str, url: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """Start a verb with --json and wait for its `start`: from then on it is at work."""
    process = start(*words, "--json", url=url)
    line = json.loads(read_line(process))
    assert line["type"] == "start", line
    return process, line


def finish_started(process: subprocess.Popen[str], verb: str, first: dict[str, Any]) -> Ended:
    """Wait for the end of a verb whose first line was read."""
    ended = finish(process, verb, as_json=False)
    lines = [json.dumps(first), *ended.out.splitlines()]
    ended.envelopes = check_envelopes(verb, lines)
    return ended


@contextmanager
def node(folder: Path, *words: str) -> Iterator[str]:
    """Run `sira up` on a free port; gives its URL. It must drain and end with 0."""
    process = start("up", "--listen", "127.0.0.1:0", "--data-dir", str(folder), "--json", *words)
    try:
        first = json.loads(read_line(process))
        yield f"sira://{first['data']['address']}"
        process.send_signal(signal.SIGTERM)
        ended = finish_started(process, "up", first)
        assert ended.code == 0, (ended.out, ended.err[-3000:])
        assert ended.last["type"] == "result"
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def wait_until(what: str, condition: Any) -> Any:
    """Return the first true value of `condition()`, polled under a watchdog."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not (value := condition()):
        assert time.monotonic() < deadline_s, f"not in {TIMEOUT_S:.0f} s: {what}"
        time.sleep(0.02)
    return value
