"""What of all that is logged an operator reads in the daemon's log, on stderr."""

from __future__ import annotations

import logging
import sys

from aiohttp.http_exceptions import HttpProcessingError

from towline import logs
from towline.server import shortage
from towline.settings import Settings


class _OnlyOurFaults(logging.Filter):
    """Lets through what the operator can act on: not bytes that are not HTTP, nor clients that went away; and of a
    shortage the line a minute that it has.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if what := shortage.what_is_short(error):
            shortage.tell(what)
            return False
        return not isinstance(error, HttpProcessingError | ConnectionError)


def configure(settings: Settings) -> None:
    """May be called again."""
    logs.configure(
        sys.stderr,
        level=settings.log_level,
        form=settings.log,
        secrets=settings.secrets,
        filters=[_OnlyOurFaults()],
    )
