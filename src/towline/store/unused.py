"""Layers that an update replaced: remembered from before the new manifest stands until they are gone, or named again.

An Ollama in the middle of its own pull may have found one of them present and not have named it yet, so an update takes
those alone that nothing has touched for an hour; a later one takes the others. `towline/unused` holds their digests, a
line each. That some cannot be removed is never worth an error: it costs space, no more.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterable

from towline.errors import Starved, StoreError, store_error
from towline.files.confined import Confined, open_file, rename, unlink
from towline.files.regular import open_unlinked
from towline.model.digest import Digest
from towline.store.layout import Layout
from towline.store.locks import waiting_for
from towline.store.references import digests_in, references

SETTLED = 3600.0
"""Seconds after which an Ollama that found a layer present has named it, or removes it as unused at its start too."""

_MOST_BYTES = 8 << 20

_log = logging.getLogger("towline")


class Unused:
    """The unused layers of one store, of which `keep` lets none go (`OLLAMA_NOPRUNE`)."""

    def __init__(self, layout: Layout, *, keep: bool) -> None:
        self._layout = layout
        self._keep = keep
        self._told: set[str] = set()

    @property
    def _path(self) -> Confined:
        return self._layout.inside("unused")

    def note(self, digests: Iterable[Digest], tmp: Confined) -> None:
        """These are about to be replaced: to be considered from now on, whatever happens to this process. Needs the
        store's lock; `tmp` is a folder on the same file system.
        """
        if not self._keep:
            noted = self._noted()
            self._write(noted, noted.union(digests), tmp)

    def remove(self, tmp: Confined, begin: Callable[[], None], check: Callable[[], None]) -> None:
        """Removes those that may go by now; before the first of them, `begin` is called. Takes the store's lock;
        `check` is called while it waits for that, and may raise.
        """
        if self._keep or not self._noted():
            return
        try:
            with waiting_for(self._layout.lock("store"), check):
                noted = self._noted()
                left = remove(self._layout, noted, untouched_since=time.time() - SETTLED, begin=begin)
                self._write(noted, left, tmp)
        except (StoreError, Starved) as error:
            self._tell(str(error))
        except OSError as error:
            self._tell(str(store_error(error)))

    def _noted(self) -> set[Digest]:
        try:
            with open(open_unlinked(self._path), "rb") as file:
                return digests_in(file.read(_MOST_BYTES))
        except OSError:
            return set()

    def _write(self, before: set[Digest], now: set[Digest], tmp: Confined) -> None:
        """Waits for no disk: whoever holds the store's lock does not for what costs space alone where it is lost."""
        if now == before:
            return
        with contextlib.suppress(OSError):
            if not now:
                unlink(self._path)
                return
            written = tmp / "unused"
            with open(open_file(written, os.O_TRUNC), "wb") as file:
                file.write("".join(f"{digest}\n" for digest in sorted(now)).encode())
            rename(written, self._path)

    def _tell(self, sentence: str) -> None:
        """Warns once; from then on it is in the log for whoever looks closer."""
        _log.log(logging.INFO if sentence in self._told else logging.WARNING, "%s", sentence)
        self._told.add(sentence)


def remove(
    layout: Layout, candidates: Iterable[Digest], *, untouched_since: float, begin: Callable[[], None] = lambda: None
) -> set[Digest]:
    """Removes those of the candidates that no manifest names, and whose mtime is before `untouched_since` (of
    `time.time`; `math.inf` for all); returns those that have to wait, named or not: the manifests are read only where
    one may go. Before the first goes, `begin` is called.

    Needs the store's lock. Raises StoreError, and removes nothing, where it cannot be told what manifests name.
    """
    present = {digest for digest in candidates if os.path.lexists(layout.blob(digest))}
    settled = {digest for digest in present if _touched(layout, digest) < untouched_since}
    going = sorted(settled - references(layout)) if settled else []
    if going:
        begin()
    return (present - settled).union(digest for digest in going if not _removed(layout, digest))


def _touched(layout: Layout, digest: Digest) -> float:
    """The mtime of the file, or of the link that stands in its place: what an Ollama goes by."""
    try:
        return os.lstat(layout.blob(digest)).st_mtime
    except OSError:
        return math.inf


def _removed(layout: Layout, digest: Digest) -> bool:
    try:
        os.unlink(layout.blob(digest))
    except FileNotFoundError:
        pass
    except OSError as error:
        _log.warning("the unused layer %s cannot be removed: %s", digest.short, os.strerror(error.errno or 0).lower())
        return False
    return True
