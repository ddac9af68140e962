"""What the manifests of a store say, kept.

An Ollama rewrites manifests in place and asks nobody, so nothing is believed unseen: a look compares the stat of each
file with the one under which it was read, and reads again what differs. What is no manifest is kept as well.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from towline.errors import InvalidManifest, InvalidName
from towline.files.regular import open_regular
from towline.model.manifest import MAX_MANIFEST_BYTES, Manifest
from towline.model.name import ModelName
from towline.store.layout import Layout
from towline.store.verified import Stamp, stamp

KEPT_BYTES = 32 << 20
"""Of manifests that are kept, about a third of what they take in memory. Usual ones have a kilobyte, those of thousands
of layers half a million bytes; what does not fit is read at each look."""

TICK = 10_000_000
"""Nanoseconds in which a file can be written twice under one mtime: the coarsest clock of a kernel ticks so often."""

_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

_FIRST, _LAST = -62_135_596_800_000_000_000, 253_402_300_799_000_000_000  # the years 1 and 9999


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model of the store. `name` is spelled as the store holds it; `modified_ns` is the mtime of the manifest's file,
    or the nearest that a date can be.
    """

    name: ModelName
    manifest: Manifest
    modified_ns: int

    @property
    def modified(self) -> datetime:
        """The same, aware, in UTC, to the microsecond."""
        return datetime.fromtimestamp(self.modified_ns // 1000 / 1_000_000, UTC)


@dataclass(frozen=True, slots=True)
class _Seen:
    stamp: Stamp
    model: StoredModel | None

    @property
    def weight(self) -> int:
        return len(self.model.manifest.raw) if self.model else 0


class Index:
    """The manifest files of one store. Reads the disk; safe from many threads.

    Raises nothing for what lies there, and OSError where this process is short of files or memory, which passes.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._lock = threading.Lock()
        self._seen: dict[str, _Seen] = {}
        self._weight = 0

    def all(self) -> list[StoredModel]:
        """Every model, by the paths of their manifests."""
        paths = sorted(_files(str(self._layout.manifests), 3))
        models = [model for path in paths if (model := self.at(path))]
        for path in self._seen.keys() - set(paths):
            self._keep(path, None)
        return models

    def tags(self, folder: str | Path) -> list[StoredModel]:
        """The models of one repository, whose manifests stand in this folder, by name."""
        return [model for path in sorted(_files(str(folder), 0)) if (model := self.at(path))]

    def at(self, path: str | Path) -> StoredModel | None:
        """The model whose manifest lies there, None where there is no readable one."""
        path = str(path)
        try:
            found = os.stat(path)
        except OSError:
            self._keep(path, None)
            return None
        known = self._seen.get(path)
        if known and known.stamp == stamp(found):
            return known.model
        return self._read(path, found)

    def _read(self, path: str, found: os.stat_result) -> StoredModel | None:
        now, model = time.time_ns(), None
        try:
            if stat.S_ISREG(found.st_mode) and found.st_size <= MAX_MANIFEST_BYTES:
                name = self._layout.name_at(Path(path))
                with open(open_regular(path), "rb") as file:
                    found = os.fstat(file.fileno())
                    manifest = Manifest.stored(file.read(MAX_MANIFEST_BYTES + 1))
                model = StoredModel(name, manifest, min(max(found.st_mtime_ns, _FIRST), _LAST))
        except (InvalidName, InvalidManifest):
            pass
        except OSError as error:
            self._keep(path, None)  # the next look may have better luck
            if error.errno in _SHORT:
                raise
            return None
        settled = not 0 <= now - found.st_mtime_ns < TICK
        self._keep(path, _Seen(stamp(found), model) if settled else None)
        return model

    def _keep(self, path: str, seen: _Seen | None) -> None:
        with self._lock:
            if known := self._seen.pop(path, None):
                self._weight -= known.weight
            if seen and self._weight + seen.weight <= KEPT_BYTES:
                self._seen[path] = seen
                self._weight += seen.weight


def _files(folder: str, depth: int) -> Iterator[str]:
    """What stands this many folders below; one that cannot be listed, or is none, holds nothing."""
    try:
        names = os.listdir(folder)
    except OSError as error:
        if error.errno in _SHORT:
            raise
        return
    for name in names:
        path = f"{folder}/{name}"
        if depth:
            yield from _files(path, depth - 1)
        else:
            yield path
