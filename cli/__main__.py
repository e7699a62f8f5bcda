"""`python -m sira.cli` is the command `sira`, where the scripts folder is not on the PATH."""

from __future__ import annotations

import sys

from sira.cli.main import main

sys.exit(main())
