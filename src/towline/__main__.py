"""`python -m towline` is `towline`."""

from __future__ import annotations

import sys

from towline.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
