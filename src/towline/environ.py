"""The environment's variables. Whatever towline reads of them, it reads here."""

from __future__ import annotations

import os
from collections.abc import Mapping

OFF = ("0", "false", "no", "off", "f", "n")
"""What says off, in lower case."""


def variable(name: str, environ: Mapping[str, str] | None = None) -> str:
    """The variable as Ollama trims it: without the space around it, and then without quotes, which files that list
    variables leave around a value, also one within the other; empty where it is not set.

    >>> [variable("V", {"V": text}) for text in ("/x", ' "/x" ', "'\\"/x\\"'", '""', "it's")]
    ['/x', '/x', '/x', '', "it's"]
    """
    return (os.environ if environ is None else environ).get(name, "").strip().strip("\"'")


def flag(name: str, environ: Mapping[str, str] | None = None) -> bool:
    """A flag as Ollama reads it: whatever does not say off is on."""
    return variable(name, environ).lower() not in ("", *OFF)
