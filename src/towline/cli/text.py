"""Text from elsewhere, made fit for a terminal, and the one way to complain."""

from __future__ import annotations

import os
import sys


def one_line(text: str) -> str:
    """The text on one line, without control characters: what a registry says cannot steer the terminal.

    >>> one_line("no such model\\n\\x1b[2J")
    'no such model [2J'
    """
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def complain(sentence: str) -> None:
    """Says on standard error what went wrong, without secrets."""
    from towline.redaction import redact, secrets_in

    if sys.stderr is not None:
        print(f"towline: {one_line(redact(sentence, secrets_in(os.environ)))}", file=sys.stderr, flush=True)
