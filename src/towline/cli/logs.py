"""The core's log, when it runs inside a command: for whoever debugs, and never on standard output."""

from __future__ import annotations

import os
import sys

from towline.environ import flag


def debugging() -> bool:
    """Whether TOWLINE_DEBUG is set: errors keep their traceback."""
    return flag("TOWLINE_DEBUG")


def configure() -> None:
    """With TOWLINE_DEBUG everything goes to standard error, else nothing goes anywhere: errors become sentences."""
    import logging

    from towline import logs
    from towline.redaction import secrets_in

    debug = debugging()
    logs.configure(sys.stderr if debug else None, level=logging.DEBUG, secrets=secrets_in(os.environ))
    # At debug it tells of every connection and request, in the middle of the progress.
    logging.getLogger("urllib3").setLevel(logging.WARNING)
