"""The one way into a log: what towline and what libraries log has one form, and passes the redaction.

Configured once, by whoever runs the process: the daemon, or a command.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from towline.redaction import HIDDEN, is_secret, redact

LONGEST = 20_000
"""Characters of one value in a log; the middle of a longer one is left out."""

JSON, TEXT = "json", "text"


class _Redaction:
    """Hides secrets in an entry's values, tracebacks and the messages of libraries among them."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._secrets = secrets

    def __call__(self, _: WrappedLogger, __: str, entry: EventDict) -> EventDict:
        return {key: HIDDEN if is_secret(key) else self._shown(value) for key, value in entry.items()}

    def _shown(self, value: object) -> object:
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, list | tuple):
            return [self._shown(each) for each in value]
        text = str(value)
        if len(text) > LONGEST:
            text = f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"
        return redact(text, self._secrets)


_STAMPS: tuple[Processor, ...] = (
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="%Y-%m-%dT%H:%M:%S%z", utc=False),
)
"""What each entry carries."""


def configure(
    stream: TextIO | None,
    *,
    level: int,
    form: str = TEXT,
    secrets: Sequence[str] = (),
    filters: Iterable[logging.Filter] = (),
) -> None:
    """Sends what is logged to the stream, or nowhere: towline's own from `level` on, that of libraries from warnings
    on, at DEBUG all of it. May be called again.
    """
    handler = logging.StreamHandler(stream) if stream is not None else logging.NullHandler()
    for each in filters:
        handler.addFilter(each)
    handler.setFormatter(_formatter(form, secrets, colors=stream is not None and stream.isatty()))
    logging.basicConfig(
        level=level if level == logging.DEBUG else max(level, logging.WARNING), handlers=[handler], force=True
    )
    logging.getLogger("towline").setLevel(level)
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # it would print what could not be logged, unredacted
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *_STAMPS, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    _log_what_nobody_caught()


def _formatter(form: str, secrets: Sequence[str], *, colors: bool) -> logging.Formatter:
    """How an entry is written, whoever made it: the last that it passes before that is the redaction."""
    renderer: Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if form == JSON
        else structlog.dev.ConsoleRenderer(colors=colors)
    )
    return structlog.stdlib.ProcessorFormatter(
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            # Not structlog's own choice of tracebacks: with rich installed they show every local variable.
            structlog.processors.format_exc_info,
            _Redaction(secrets),
            renderer,
        ],
        foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *_STAMPS],
    )


def _log_what_nobody_caught() -> None:
    log = logging.getLogger("towline")

    def in_a_thread(told: threading.ExceptHookArgs) -> None:
        if told.exc_type is not SystemExit and told.exc_value is not None:
            log.error("a thread ended by a fault", exc_info=told.exc_value)

    def in_the_program(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        log.error("ended by a fault", exc_info=(kind, error, trace))

    def out_of_reach(told: sys.UnraisableHookArgs) -> None:
        if told.exc_value is not None:
            log.error("a fault while something was put away", exc_info=told.exc_value)

    threading.excepthook = in_a_thread
    sys.excepthook = in_the_program
    sys.unraisablehook = out_of_reach
