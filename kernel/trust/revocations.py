"""The file of what is revoked: certificates and tokens that still prove something but may not.

    format = "sira-revocations 1"

    [[revoked]]
    id = "cert:5f3a"                    # or biscuit:<hex>, jwt:<jti>
    time = 2026-11-21T04:30:00Z
    reason = "laptop lost"

An entry stays until a person takes it out, at the earliest when what it names has expired.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from sira.kernel import toml_table
from sira.kernel.errors import BadRequest, BadSetting
from sira.kernel.trust.secrets import write_whole

FORMAT = "sira-revocations 1"
ENTRIES_MAX = 100_000
_ID = re.compile(r"(?:cert:[0-9a-f]{1,64}|biscuit:[0-9a-f]{2,256}|jwt:[\x21-\x7e]{1,256})")
_REASON_CHARS_MAX = 200
EMPTY = f'format = "{FORMAT}"\n'


def parse(text: str, *, file: str = "revocations.toml") -> frozenset[str]:
    """Return the ids that a file revokes.

    Raises:
        BadSetting: says where it is wrong; then nothing of it holds.
    """
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, ValueError, RecursionError) as error:
        raise toml_table.bad(file, f"is no TOML: {error}") from None
    form, entries = values.pop("format", None), values.pop("revoked", [])
    if form != FORMAT:
        raise toml_table.bad(file, f"format is {form!r:.40}, and this node reads {FORMAT!r}")
    if values:
        raise toml_table.bad(file, f"{next(iter(values))[:40]!r} is no field (format, revoked)")
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise toml_table.bad(file, "revoked is no list of tables: write [[revoked]]")
    if len(entries) > ENTRIES_MAX:
        raise toml_table.bad(file, f"has {len(entries)} entries, at most {ENTRIES_MAX}")
    found = []
    for index, entry in enumerate(entries):
        strange = entry.keys() - {"id", "time", "reason"}
        if strange:
            raise toml_table.bad(file, f"entry {index + 1}: {min(strange)[:40]!r} is no field")
        id_ = entry.get("id")
        # A mistyped id would revoke nothing and look as if it did.
        if not isinstance(id_, str) or not _ID.fullmatch(id_):
            raise toml_table.bad(
                file, f"entry {index + 1}: id {id_!r:.80} is no cert:HEX, biscuit:HEX or jwt:ID"
            )
        found.append(id_)
    return frozenset(found)


def load(path: Path | str) -> frozenset[str]:
    """Return the ids that the file at `path` revokes.

    Raises:
        BadSetting: it cannot be read, or is wrong.
    """
    return parse(toml_table.read_text(path), file=str(path))


def add(path: Path | str, ids: Sequence[str], reason: str, *, now_s: float) -> frozenset[str]:
    """Revoke ids, in a file that is made where there is none; returns those that were new.

    The file is replaced as a whole: a reader sees all of them or none. Those who add at the same
    time wait for each other.

    Raises:
        BadRequest: an id that is none, or a reason that is too long.
        BadSetting: the file is wrong, or cannot be written.
    """
    path = Path(path)
    for id_ in ids:
        if not _ID.fullmatch(id_):
            raise BadRequest(f"{id_[:80]!r} is no cert:HEX, biscuit:HEX or jwt:ID")
    if len(reason) > _REASON_CHARS_MAX or not reason.isprintable():
        raise BadRequest(f"a reason is one line of at most {_REASON_CHARS_MAX} characters")
    with _alone(path.parent):
        text = toml_table.read_text(path) if path.exists() else EMPTY
        known = parse(text, file=str(path))
        new = [id_ for id_ in dict.fromkeys(ids) if id_ not in known]
        if not new:
            return frozenset()
        time = datetime.fromtimestamp(int(now_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        for id_ in new:
            # A JSON string without code points past the first plane is a TOML one.
            text += (
                f"\n[[revoked]]\nid = {json.dumps(id_)}\ntime = {time}\n"
                f"reason = {json.dumps(reason, ensure_ascii=False)}\n"
            )
        parse(text, file=str(path))
        write_whole(path, text.encode(), mode=0o644, replace=True)
    return frozenset(new)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: a lock on the file itself would go with its replacement."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise BadSetting(f"{folder}: {error.strerror}", details={"file": str(folder)}) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
