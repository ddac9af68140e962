"""Clearing away what processes left that are gone: pins, temporary files, downloads that nobody came back to."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from towline.files.confined import Confined, names_in, remove_tree
from towline.files.regular import is_file
from towline.store.layout import Layout
from towline.store.locks import FileLock


def sweep(layout: Layout, *, staging_ttl: float) -> None:
    """Removes what is left over; what a living process uses is locked and stays. `staging_ttl` in seconds.

    Nothing here is worth an error: what cannot be removed now is removed another time.
    """
    for folder in _entries(layout.inside("pins")):
        _remove_if_free(folder, FileLock(layout.lock(f"pull-{folder.name}")))
    for folder in _entries(layout.inside("staging")):
        published = is_file(layout.blobs / f"sha256-{folder.name}")
        if published or time.time() - _last_touched(folder) > staging_ttl:
            _remove_if_free(folder, FileLock(layout.lock(folder.name)))
    for file in _entries(layout.inside("locks")):
        with contextlib.suppress(OSError):
            lock = FileLock(file)
            if lock.acquire():
                lock.release()


def _remove_if_free(folder: Confined, lock: FileLock) -> None:
    with contextlib.suppress(OSError):
        if lock.acquire():
            remove_tree(folder)
            lock.release()


def _last_touched(folder: Confined) -> float:
    times = []
    for path in (folder, *_entries(folder)):
        with contextlib.suppress(OSError):  # it is gone: somebody works here
            times.append(os.lstat(path).st_mtime)
    return max(times, default=time.time())


def _entries(folder: Confined) -> Iterator[Confined]:
    with contextlib.suppress(OSError):
        yield from [folder / name for name in names_in(folder)]
