"""Where everything lies in a store.

    blobs/sha256-<hex>                              whole blobs, Ollama's
    manifests/<host>/<namespace>/<model>/<tag>      manifests, Ollama's
    towline/staging/<hex>-<size>/                   a blob that grows: data, journal; once it is verified: whole
    towline/staging/<hex>-<size>.data, .whole       the same of a blob of up to 1 MiB: no journal, and its own lock;
                                                    where files have no locks, .part, and a lock in locks/
    towline/checksums/<hex>                         of a blob of the store, for each MiB of it
    towline/locks/                                  who works on what
    towline/pins/<pull>/                            hard links that keep a pull's blobs from being cleaned away
    towline/verified                                what the blobs were like when they were verified
    towline/unused                                  layers that an update replaced and that are too young to go

`towline/` stands in `blobs/` where that is on another file system: an Ollama leaves directories there alone.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from towline.files.confined import Confined
from towline.model.digest import Digest
from towline.model.name import ModelName

_PORT = "__"
_STAGING_KEY = re.compile(r"([0-9a-f]{64})-(0|[1-9][0-9]{0,19})")


@dataclass(frozen=True)
class Layout:
    """The paths of the store at `root`. Nothing here writes.

    Where names may hold no colons (`colons`) the folder of a registry with a port is made as `host__port`. Such a name
    is read back everywhere: no host is called that.
    """

    root: Path
    colons: bool = True

    @cached_property
    def blobs(self) -> Path:
        """Whole blobs."""
        return self.root / "blobs"

    @cached_property
    def manifests(self) -> Path:
        """Manifests, four levels deep."""
        return self.root / "manifests"

    @cached_property
    def own(self) -> Path:
        """What is towline's: on the file system of the blobs, so that a link into them is always possible."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if not on_one_mount(self.blobs, self.root):
                return self.blobs / "towline"
        return self.root / "towline"

    @cached_property
    def staging(self) -> Path:
        """One folder a growing blob."""
        return self.own / "staging"

    @cached_property
    def checksums(self) -> Path:
        """One file a blob, of those that are larger than a block."""
        return self.own / "checksums"

    @cached_property
    def locks(self) -> Path:
        """Lock files, empty."""
        return self.own / "locks"

    @cached_property
    def pins(self) -> Path:
        """One folder a pull."""
        return self.own / "pins"

    def blob(self, digest: Digest) -> str:
        """Where the whole blob lies, if it is here. As text, as are all paths that a pull of thousands of blobs makes
        thousands of: to put a `Path` together takes longer than most of what is done with it.
        """
        return f"{self.blobs}/{digest.file_name}"

    def staged(self, key: str) -> Confined:
        """What is called so among the stagings: see `staging_key`."""
        return Confined(self._own.base, self._staging, key, self._root)

    def lock(self, name: str) -> Confined:
        """The lock of this name: a growing blob's is its staging's key, a pull's `pull-` and its ticket."""
        return Confined(self._own.base, self._locks, name, self._root)

    def pinned(self, ticket: str) -> Confined:
        """The folder of the pins of one pull."""
        return self.inside(f"pins/{ticket}")

    def for_manifests(self, own: Confined) -> Confined:
        """A folder to rename a manifest from, on its file system, and not where an Ollama looks for tags: `own`, which
        is towline's, where that will do. Raises OSError.
        """
        if on_one_mount(self.manifests, self.own):
            return own
        return Confined(str(self.manifests), str(self.manifests), ".towline", self._root)

    def inside(self, path: str) -> Confined:
        """A path in towline's own folder, in which no link is followed."""
        return self._own / path

    @cached_property
    def _own(self) -> Confined:
        return Confined(str(self.own.parent), str(self.own.parent), "towline", self._root)

    @cached_property
    def _staging(self) -> str:
        return str(self._own / "staging")

    @cached_property
    def _locks(self) -> str:
        return str(self._own / "locks")

    @cached_property
    def _root(self) -> str:
        return str(self.root)

    def manifest(self, name: ModelName) -> Path:
        """Where the manifest of a model lies: in the spelling that the store has, part by part, else the given one."""
        path = self.manifests
        for part in (name.host, name.namespace, name.model, name.tag):
            path = path / _spelled(path, part)
        if not self.colons and ":" in path.parts[-4] and not path.parents[2].exists():
            return path.parents[3].joinpath(path.parts[-4].replace(":", _PORT), *path.parts[-3:])
        return path

    def name_at(self, path: Path) -> ModelName:
        """The model whose manifest lies there, as it is spelled there. Raises InvalidName where none can."""
        host, namespace, model, tag = path.relative_to(self.manifests).parts
        return ModelName(_host_in(host), namespace, model, tag)


def staging_key(digest: Digest, size: int) -> str:
    """What staging goes by. The size is in it as manifests may lie: a wrong one must not touch what another has."""
    return f"{digest.hex}-{size}"


def staged_as(key: str) -> tuple[Digest, int] | None:
    """The digest and the size in a key; None where it is none."""
    parts = _STAGING_KEY.fullmatch(key)
    return (Digest(parts[1]), int(parts[2])) if parts is not None else None


def _spelled(folder: Path, part: str) -> str:
    """The entry of `folder` that is `part` but for its case; `part` itself where it is there, or nothing is."""
    if os.path.lexists(folder / part):
        return part
    try:
        entries = sorted(os.listdir(folder))
    except OSError:
        return part
    return next((entry for entry in entries if part.lower() in (entry.lower(), _host_in(entry).lower())), part)


def _host_in(folder: str) -> str:
    return re.sub(rf"{_PORT}(\d{{1,5}})\Z", r":\1", folder)


def on_one_mount(one: Path, other: Path) -> bool:
    """Whether files can be renamed and linked between two folders: not even between two mounts of one file system can
    they. Raises OSError.
    """
    return _mount(one) == _mount(other)


def _mount(folder: Path) -> tuple[int, str]:
    opened = os.open(folder, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError), open(f"/proc/self/fdinfo/{opened}", encoding="ascii") as told:
            return os.fstat(opened).st_dev, next((line for line in told if line.startswith("mnt_id:")), "")
        return os.fstat(opened).st_dev, ""
    finally:
        os.close(opened)


def store_id(root: Path) -> str:
    """What tells this very folder from one of the same path elsewhere, as in a container; empty where there is none."""
    try:
        there = os.stat(root)
    except OSError:
        return ""
    return f"{there.st_dev}:{there.st_ino}"
