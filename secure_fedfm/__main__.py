"""`python -m secure_fedfm` is the command line."""

from __future__ import annotations

import sys

from secure_fedfm.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
