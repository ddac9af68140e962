"""`import towline`: what is there, and what it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import towline
from towline import errors
from towline._version import __version__
from towline.model import events


def run(script: str) -> str:
    """What the script prints, in an interpreter of its own."""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True).stdout.strip()


def test_everything_public_is_there() -> None:
    for name in towline.__all__:
        assert getattr(towline, name) is not None
    assert set(towline.__all__) <= set(dir(towline))
    assert towline.__version__ == __version__
    assert towline.NotFound is errors.NotFound
    assert towline.Progress is events.Progress


def test_nothing_else_is() -> None:
    with pytest.raises(AttributeError, match="module 'towline' has no attribute 'push'"):
        towline.push  # noqa: B018


def test_importing_it_loads_nothing() -> None:
    loaded = run("import sys, towline; print(*(name for name in sys.modules if name.startswith('towline')))")
    assert loaded == "towline"


def test_a_version_loads_no_more() -> None:
    loaded = run("import sys, towline; towline.__version__; print('towline.puller' in sys.modules)")
    assert loaded == "False"


@pytest.mark.parametrize(
    "before",
    [
        "from towline.puller import Puller",
        "import towline.puller",
        "import towline; towline.pull",
        "import towline.api",
        "",
    ],
)
def test_pull_is_the_function_whatever_was_imported_before(before: str) -> None:
    assert run(f"{before}\nimport towline; print(towline.pull.__name__, towline.pull.__module__)") == "pull towline.api"
    assert run(f"{before}\nfrom towline import pull; print(pull.__module__)") == "towline.api"


def test_the_examples_of_the_docstrings_are_python() -> None:
    import doctest

    from towline import api

    for module in (towline, api):
        assert doctest.testmod(module).failed == 0
