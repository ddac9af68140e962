"""The real programs that tests run against. Missing, they cost a test at home and fail it in CI."""

from __future__ import annotations

import os
import shutil

import pytest


def require(program: str) -> str:
    """The program's path. Without it the test is skipped, or with CI=true failed: CI never skips a real component."""
    if path := shutil.which(program):
        return path
    message = f"{program} is not installed; .ci/run installs what the full test run uses"
    if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
        pytest.fail(message)
    pytest.skip(message)
