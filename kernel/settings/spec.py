"""What one setting is: its type, unit, reason and limits, and how a value is read."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from sira.kernel.errors import BadSetting
from sira.kernel.settings import urls

Value = str | int | float | bool
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True, slots=True)
class Spec:
    """What is known about one setting.

    Attributes:
        name, kind: as in TOML; kind is `str`, `int`, `float` or `bool`.
        unit: of the value; "" for text.
        reason: why it exists.
        breaks: what goes wrong when it is wrong.
        minimum, maximum: of a number, both allowed.
        choices: of a text; empty: any.
        schemes, options: of a text that is a URL, with these in its query at most; empty: any text.
    """

    name: str
    kind: type
    default: Value
    unit: str
    reason: str
    breaks: str
    minimum: float = 0
    maximum: float = math.inf
    choices: tuple[str, ...] = ()
    schemes: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def shown(self, value: object) -> str:
        """Return the value for people; the password of a URL is hidden."""
        return urls.shown(str(value)) if self.kind is str else str(value)

    def json_schema(self) -> str:
        """Return the JSON Schema of the value."""
        names = {str: "string", int: "integer", float: "number", bool: "boolean"}
        schema: dict[str, Any] = {"type": names[self.kind], "default": self.default}
        if self.choices:
            schema["enum"] = list(self.choices)
        if self.kind in (int, float):
            schema["minimum"] = self.minimum
            if self.maximum != math.inf:
                schema["maximum"] = self.maximum
        return json.dumps(schema)

    def read(self, value: object, origin: str) -> Value:
        """Return `value` as the setting's own type.

        Raises:
            BadSetting: not of the type, or outside the limits.
        """
        parsed = self._parse(value, origin)
        if self.kind is str:
            if self.choices and parsed not in self.choices:
                raise self._bad(value, origin, f"is none of {', '.join(self.choices)}")
            if self.schemes and parsed:
                why = urls.why_not(str(parsed), self.schemes, self.options)
                if why:  # it may hold a password: nothing of it is said
                    raise self._bad(urls.HIDDEN, origin, why)
        elif self.kind is not bool and not self.minimum <= float(parsed) <= self.maximum:
            limits = f"{self.minimum:g} to {self.maximum:g}"
            raise self._bad(value, origin, f"is not within {limits} {self.unit}".rstrip())
        return parsed

    def _parse(self, value: object, origin: str) -> Value:
        if self.kind is str:
            if not isinstance(value, str):
                raise self._bad(value, origin, "is not text")
            return value
        if self.kind is bool:
            return self._parse_bool(value, origin)
        if isinstance(value, str):
            try:
                return int(value.replace("_", ""), 10) if self.kind is int else float(value)
            except ValueError:
                raise self._bad(value, origin, "is not a number") from None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._bad(value, origin, "is not a number")
        if self.kind is int and value != int(value):
            raise self._bad(value, origin, "is not a whole number")
        return int(value) if self.kind is int else float(value)

    def _parse_bool(self, value: object, origin: str) -> bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in (*_YES, *_NO):
            return value.lower() in _YES
        raise self._bad(value, origin, "is neither true nor false")

    def _bad(self, value: object, origin: str, why: str) -> BadSetting:
        return BadSetting(
            f"{self.name} = {str(value)[:80]!r} ({origin}) {why}",
            details={"setting": self.name, "origin": origin, "unit": self.unit},
        )
