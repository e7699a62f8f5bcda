"""TOML files of tables that a person writes: bounded, and each error says where it stands. Pure
but for `read_text`.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sira.kernel.errors import BadSetting, SiraError

FILE_BYTES_MAX = 16 << 20  # 100,000 rules of 160 bytes; some seconds of parsing
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")


def read_text(path: Path | str, *, bytes_max: int = FILE_BYTES_MAX) -> str:
    """Return what a file says.

    Raises:
        BadSetting: it cannot be read, is longer than `bytes_max`, or is not UTF-8.
    """
    file = str(path)
    try:
        with open(path, "rb") as opened:
            data = opened.read(bytes_max + 1)
    except OSError as error:
        raise bad(file, f"cannot be read: {error.strerror or error}") from None
    if len(data) > bytes_max:
        raise bad(file, f"is longer than {bytes_max} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise bad(file, f"is not UTF-8 at byte {error.start}") from None


def bad(file: str, why: str, **details: str) -> BadSetting:
    """Return the error of a file, or of a place in it."""
    return BadSetting(f"{file}: {why}", details={"file": file, **details})


def parse(text: str, *, file: str, form: str) -> Table:
    """Read TOML whose `format` is `form`.

    Args:
        text: of the whole file, at most FILE_BYTES_MAX characters.
        file: as told in errors.
        form: name and version of the format: `sira-policy 1`.

    Raises:
        BadSetting: too long, no TOML, or of another format.
    """
    if len(text) > FILE_BYTES_MAX:
        raise bad(file, f"is longer than {FILE_BYTES_MAX} characters")
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, ValueError) as error:  # a date or a number out of its range
        raise bad(file, f"is no TOML: {error}") from None
    except RecursionError:
        raise bad(file, "is no TOML that a person wrote: nested too deep") from None
    table = Table(values, file=file)
    found = table.text("format")
    if found != form:
        raise table.bad("format", f"is {found[:40]!r}, and this node reads {form!r}")
    return table


class Table:
    """One table of a file. Fields are taken from it one by one; what is left at the end is wrong.

    Every method raises BadSetting, whose details name `file`, the entry (`rule`, `limit`) and
    `field`.
    """

    def __init__(
        self, values: Mapping[str, Any], *, file: str, kind: str = "", name: str = ""
    ) -> None:
        """Begin with the values as `tomllib` gives them; `kind` and `name` tell which entry."""
        self._values, self._file, self._kind, self._name = values, file, kind, name
        self._known: dict[str, None] = {}

    def bad(self, field: str, why: str) -> BadSetting:
        """Return the error of one field."""
        details = {"field": field, **({self._kind: self._name} if self._kind else {})}
        entry = f"{self._kind} {self._name}: " if self._kind else ""
        return bad(self._file, f"{entry}{field} {why}", **details)

    def has(self, field: str) -> bool:
        """Whether a field is given."""
        self._known[field] = None
        return field in self._values

    def text(self, field: str, default: str | None = None) -> str:
        """Return a text; without a default it must be there."""
        if not self.has(field):
            if default is None:
                raise self.bad(field, "is missing")
            return default
        return self._checked(field, self._values[field])

    def choice(self, field: str, choices: tuple[str, ...], default: str | None = None) -> str:
        """Return one of a few texts."""
        value = self.text(field, default)
        if value not in choices:
            raise self.bad(field, f"is {value[:40]!r}, and may be {' or '.join(choices)}")
        return value

    def texts(self, field: str, *, count_max: int) -> tuple[str, ...]:
        """Return a list of texts; () when it is not there. One text stands for a list of one."""
        if not self.has(field):
            return ()
        values = self._values[field]
        if isinstance(values, str):
            values = [values]
        if not isinstance(values, list) or not values:
            raise self.bad(field, "is no list of texts, or an empty one")
        if len(values) > count_max:
            raise self.bad(field, f"has {len(values)} entries, at most {count_max}")
        return tuple(self._checked(f"{field}[{i}]", value) for i, value in enumerate(values))

    def number(self, field: str, default: float = 0.0, *, above: float = 0.0) -> float:
        """Return a number greater than `above`, or the default when it is not there."""
        if not self.has(field):
            return default
        value = self._values[field]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.bad(field, "is no number")
        if not (above < value < math.inf and value <= 2**63):
            raise self.bad(field, f"is {value!r:.40}, and must be above {above:g} and finite")
        return float(value)

    def whole(self, field: str, default: int = 0) -> int:
        """Return a whole number greater than 0, or the default when it is not there."""
        value = self.number(field, float(default))
        if value != int(value):
            raise self.bad(field, f"is {value!r:.40}, and must be whole")
        return int(self._values[field]) if field in self._values else default

    def checked(self, field: str, values: tuple[str, ...], check: Callable[[str], Any]) -> Any:
        """Return what `check` makes of each text; its SiraError becomes the error of that text."""
        made = []
        for index, value in enumerate(values):
            try:
                made.append(check(value))
            except SiraError as error:
                raise self.bad(f"{field}[{index}]", f"is wrong: {error}") from None
        return tuple(made)

    def entries(self, kind: str, *, count_max: int) -> Iterator[Table]:
        """Yield the tables `[[kind]]`, each with a `name` of its own."""
        found = self._values.get(kind, [])
        self._known[kind] = None
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise self.bad(kind, f"is no list of tables: write [[{kind}]]")
        if len(found) > count_max:
            raise self.bad(kind, f"stands {len(found)} times, at most {count_max}")
        names: set[str] = set()
        for index, values in enumerate(found):
            entry = Table(values, file=self._file, kind=kind, name=f"#{index + 1}")
            name = entry.text("name")
            if not _NAME.fullmatch(name):
                raise entry.bad("name", f"is {name[:80]!r}: letters, digits and ._:-, at most 64")
            if name in names:
                raise entry.bad("name", f"is {name!r}, which an earlier {kind} has")
            names.add(name)
            entry._name = name
            yield entry

    def end(self) -> None:
        """Refuse fields that nobody asked for."""
        for field in self._values:
            if field in self._known:
                continue
            near = difflib.get_close_matches(field[:64], self._known, n=1)
            hint = f"; is it {near[0]!r}?" if near else ""
            raise self.bad(field[:64], f"is no field ({', '.join(self._known)}){hint}")

    def _checked(self, field: str, value: object) -> str:
        if not isinstance(value, str):
            raise self.bad(field, "is no text")
        return value
