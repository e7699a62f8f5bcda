"""What should be garbage: collect it, whatever other threads of the process are at."""

from __future__ import annotations

import gc
import time
import weakref
from typing import Any

_WATCHDOG_S = 30.0


def collected(*gone: weakref.ref[Any]) -> bool:
    """Whether nothing keeps these alive. One collection proves nothing.

    `gc.collect()` returns at once where another thread is collecting, as those that other tests
    of the process have left may be.
    """
    until_s = time.monotonic() + _WATCHDOG_S
    while any(each() is not None for each in gone):
        if time.monotonic() >= until_s:
            return False
        gc.collect()
        time.sleep(0.001)
    return True
