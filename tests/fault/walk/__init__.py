"""Every fault point of the shared-memory lane, walked one by one: `make fault ISSUE=shm`.

The points (native/fault.h) are in a build of the C core of its own, which `build.py` makes and this
package loads in the place of the installed one: import it before `sira`. `rounds.py` says what must
hold.
"""

from __future__ import annotations

import importlib.util
import os
import sys

NATIVE_VARIABLE = "SIRA_TEST_NATIVE"  # path of the test build; a release knows nothing of it


def _load(path: str) -> None:
    name = "sira._native"
    assert name not in sys.modules, "loaded too late"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


if path := os.environ.get(NATIVE_VARIABLE):
    _load(path)
