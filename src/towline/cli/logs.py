"""The core's log, when it runs inside a command: for whoever debugs, and never on standard output."""

from __future__ import annotations

import sys

from towline.environ import flag


def debugging() -> bool:
    """Whether TOWLINE_DEBUG is set: errors keep their traceback."""
    return flag("TOWLINE_DEBUG")


def configure() -> None:
    """With TOWLINE_DEBUG everything goes to standard error, else nothing goes anywhere: errors become sentences."""
    import logging

    import structlog

    debug = debugging()
    logging.basicConfig(
        level=logging.DEBUG, handlers=[logging.StreamHandler(sys.stderr) if debug else logging.NullHandler()]
    )
    # At debug it tells of every connection and request, in the middle of the progress.
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if debug else logging.CRITICAL),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
