"""The real programs that tests run against. Missing, they cost a test at home and fail it in CI."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def require(program: str) -> str:
    """The program's path. Without it the test is skipped, or with CI=true failed: CI never skips a real component."""
    path = shutil.which(program)
    if path is None:
        lacking(f"{program} is not installed; .ci/run installs what the full test run uses")
    return path


def lacking(what: str) -> NoReturn:
    """A real component is not to be had, for this reason: the test is skipped, or with CI=true failed."""
    if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
        pytest.fail(what)
    pytest.skip(what)
