"""`python -m towline` is `towline`."""

from __future__ import annotations

import sys

from towline.cli import run

if __name__ == "__main__":
    sys.exit(run())
