"""Sira: a tensor-native microkernel message bus.

Owns the public names (`sira.connect`, `sira.Agent`, ...), which live in `sira.client` and are
loaded when first asked for: `import sira` alone starts nothing and reads neither gRPC nor numpy.
Refuses to know how any of them works. Read `_PUBLIC` first.
"""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"

# Public name -> the module that defines it. For type checkers the same names are imported from the
# same modules under `if TYPE_CHECKING:`.
_PUBLIC: dict[str, str] = {}

__all__ = ["__version__"]


def __getattr__(name: str) -> object:
    """Load a public name on its first use and keep it."""
    try:
        module = _PUBLIC[name]
    except KeyError:
        raise AttributeError(f"module 'sira' has no attribute {name!r}") from None
    value: object = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
