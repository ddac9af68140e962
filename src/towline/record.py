"""What the log says of each pull: that it begins, and how it ended."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Collection, Iterable

from towline.errors import TowlineError
from towline.model.name import ModelName
from towline.transfer.blob import BlobTransfer

_log = logging.getLogger("towline")


class Record:
    """The two lines of one pull; that they cannot be written fails none. Whoever joins the pull adds none."""

    def __init__(self, name: ModelName, kind: str = "pull") -> None:
        self._model = str(name)
        self._kind = kind
        self._began = time.monotonic()
        self._transfers: list[BlobTransfer] = []
        self._sources: Collection[str] = ()

    def begin(self) -> None:
        """It begins now. Raises nothing."""
        self._began = time.monotonic()
        with contextlib.suppress(Exception):
            _log.info("%s begins", self._kind, extra={"model": self._model})

    def fetches(self, transfers: Iterable[BlobTransfer], sources: Collection[str]) -> None:
        """These transfers are for it; `sources` grows by the hosts that send something."""
        self._transfers.extend(transfers)
        self._sources = sources

    def close(self, error: TowlineError | None) -> None:
        """It ended, well where there is no error. Bytes that were on disk before are not among those it tells. Raises
        nothing.
        """
        with contextlib.suppress(Exception):
            self._tell(error)

    def _tell(self, error: TowlineError | None) -> None:
        told: dict[str, object] = {
            "model": self._model,
            "bytes": sum(max(0, each.completed - each.found) for each in self._transfers),
            "seconds": round(time.monotonic() - self._began, 3),
            "sources": sorted(self._sources),
        }
        if error is not None:
            told["error"] = str(error)
        _log.info("%s failed" if error is not None else "%s ended", self._kind, extra=told)
