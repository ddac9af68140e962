"""Clearing away what processes left that are gone: pins, temporary files, downloads that nobody came back to."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from towline.errors import Starved
from towline.files.confined import Confined, at, names_in, remove_tree
from towline.store.checksums import sweep_checksums
from towline.store.layout import Layout, staged_as
from towline.store.locks import FileLock, NoLocks
from towline.store.staged_small import lock_of
from towline.store.staging import staging_of
from towline.store.verified import Verified

EPOCH = 1735689600.0
"""2025 began: a clock that shows less was never set, and what it wrote was not written then."""

_AHEAD = 86400.0


def sweep(layout: Layout, verified: Verified, *, staging_ttl: float) -> None:
    """Removes what is left over; what a living process uses is locked and stays. `staging_ttl` in seconds.

    Nothing here is worth an error: what cannot be removed now is removed another time.
    """
    for folder in _entries(layout.inside("pins")):
        _remove_if_free(folder, FileLock(layout.lock(f"pull-{folder.name}")))
    pulling = any(_entries(layout.inside("pins")))
    for entry in _entries(layout.inside("staging")):
        blob = staged_as(entry.name.partition(".")[0])
        if blob is not None and not verified.doubts(*blob):  # else it may be there to take the place of what is wrong
            staging_of(layout, *blob).clean()
        if _age(entry) > staging_ttl:
            if pulling and entry.name.endswith(".whole"):
                continue  # a small blob, which a pull that is not through may count on
            _remove_if_free(entry, lock_of(entry, layout))
    sweep_checksums(layout)
    for file in _entries(layout.inside("locks")):
        with contextlib.suppress(OSError, Starved):
            lock = FileLock(file)
            if lock.acquire():
                lock.release()


def _remove_if_free(entry: Confined, lock: FileLock) -> None:
    with contextlib.suppress(OSError, Starved, NoLocks):
        if lock.acquire():
            remove_tree(entry)
            lock.release()


def _age(entry: Confined) -> float:
    """Seconds since it, or anything in it, was touched. A time that cannot be, as of a clock that was never set, is set
    to now.
    """
    ages = [_age_of(path) for path in (entry, *_entries(entry))]
    return min(ages, default=0.0)


def _age_of(path: Confined) -> float:
    now = time.time()
    try:
        with at(path) as (place, name):
            touched = os.stat(name, dir_fd=place, follow_symlinks=False).st_mtime
            if EPOCH <= touched <= now + _AHEAD:
                return now - touched
            if now >= EPOCH:
                os.utime(name, dir_fd=place, follow_symlinks=False)
    except OSError:
        pass  # it is gone, so somebody works here, or it keeps its time, and stays
    return 0.0


def _entries(folder: Confined) -> Iterator[Confined]:
    with contextlib.suppress(OSError):
        yield from [folder / name for name in names_in(folder)]
