"""Where the command `sira` starts."""

from __future__ import annotations

import sys

from sira import __version__


def main() -> int:
    """Print the version; the verbs are not here yet."""
    if sys.argv[1:] not in (["version"], ["--version"]):
        print("sira: only `sira version` works so far", file=sys.stderr)
        return 2
    print(__version__)
    return 0
