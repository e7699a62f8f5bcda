"""Every limit and choice of a node: one schema, three places to set it, and where a value is from.

A value is taken from the first of: flag (`--stall-s`), environment (`SIRA_STALL_S`), the TOML file
(`stall_s = ...`), the default. `schema.py` is the only list: `sira up`, `sira config show`,
`Introspect` and the docs are made from it.
"""

from sira.kernel.settings.load import ENVIRONMENT_PREFIX, FILE_NAME, default_data_dir, load
from sira.kernel.settings.schema import SCHEMA, Settings
from sira.kernel.settings.spec import Spec, Value

__all__ = [
    "ENVIRONMENT_PREFIX",
    "FILE_NAME",
    "SCHEMA",
    "Settings",
    "Spec",
    "Value",
    "default_data_dir",
    "load",
]
