"""A policy out of the value of the setting `policy`. Pure but for reading the file."""

from __future__ import annotations

import os

from sira.kernel.authorize import Policy, allow_all, deny_all
from sira.kernel.errors import BadSetting
from sira.kernel.policy import cedar, rules
from sira.kernel.toml_table import read_text

BUILT_IN: dict[str, Policy] = {"allow_all": allow_all, "deny_all": deny_all}


def load(value: str) -> Policy:
    """Return the policy that a setting's value names.

    Args:
        value: `allow_all`, `deny_all`, or the path of a file: a rule table (`.toml`) or Cedar
            policies (`.cedar`).

    Raises:
        BadSetting: none of these, or the file is wrong; `details` name `file` and, where known,
            `rule` and `field`.
    """
    if value in BUILT_IN:
        return BUILT_IN[value]
    if is_file(value):
        bytes_max = cedar.FILE_BYTES_MAX if value.endswith(".cedar") else None
        text = read_text(value) if bytes_max is None else read_text(value, bytes_max=bytes_max)
        return parse(text, file=value)
    raise BadSetting(
        f"policy = {value[:80]!r} is neither {' nor '.join(BUILT_IN)} nor a file *.toml, *.cedar",
        details={"setting": "policy"},
    )


def is_file(value: str) -> bool:
    """Whether the value names a file, which may change while the node runs."""
    return os.path.splitext(value)[1] in (".toml", ".cedar")


def parse(text: str, *, file: str) -> Policy:
    """Return the policy in the text of a file, by the ending of its name.

    Raises:
        BadSetting: as `load`.
    """
    if file.endswith(".cedar"):
        return cedar.CedarPolicy(text, file=file)
    return rules.parse(text, file=file)
