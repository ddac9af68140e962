"""Which blobs the store's manifests name, and so which may go.

    manifests/<host>/<namespace>/<model>/<tag>      a manifest
    manifests-v2/<host>/<namespace>/<model>/<tag>   newer Ollamas': the manifest is a blob as well, and the tag a
                                                    symbolic or hard link to it, or a copy

Whatever either of them names stays. What cannot be read may name anything: then nothing goes at all.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterator

import msgspec

from towline.errors import StoreError
from towline.files.regular import is_file, read_regular
from towline.model.digest import Digest
from towline.store.layout import Layout

_ROOTS = ("manifests", "manifests-v2")
_DIGESTS = re.compile(rb"sha256[:-]([0-9a-f]{64})")
_MOST_BYTES = 64 << 20
"""Of a manifest: sixteen times what towline takes itself, as another program may have brought a larger one, and what is
not read may name anything.
"""

_BEING_WRITTEN = 3600.0
"""Seconds for which a manifest that breaks off counts as one that an Ollama is writing: it writes them in place."""


def digests_in(raw: bytes) -> set[Digest]:
    """Every digest that a manifest names, also one that cannot be read as a manifest."""
    return {Digest(match.decode()) for match in _DIGESTS.findall(raw)}


def references(layout: Layout) -> set[Digest]:
    """Every digest that a manifest of the store names, in either root. Raises StoreError where that cannot be told."""
    try:
        check_roots(layout)
        found: set[Digest] = set()
        for root in _ROOTS:
            for path in _files(f"{layout.root}/{root}", set()):
                found |= _named_by(path)
    except OSError as error:
        raise StoreError(
            f"nothing is removed, as a manifest of the store cannot be read ({os.strerror(error.errno or 0).lower()}); "
            "mend or remove it"
        ) from None
    return found


def check_roots(layout: Layout) -> None:
    """Raises StoreError where there are manifests in a layout that came after this towline; OSError."""
    with os.scandir(layout.root) as entries:
        strange = sorted(
            entry.name
            for entry in entries
            if entry.name.startswith("manifests") and entry.name not in _ROOTS and entry.is_dir()
        )
    if strange:
        raise StoreError(
            f"nothing is removed, as the store has manifests in {strange[0]}, which this towline does not know; "
            "use a newer towline, or move that folder out of the store"
        )


def _files(folder: str, seen: set[tuple[int, int]]) -> Iterator[str]:
    """Every file and link below the folder, through links to folders as an Ollama goes, each folder once."""
    if not os.path.lexists(folder):
        return
    there = os.stat(folder)
    if (there.st_dev, there.st_ino) in seen:
        return
    seen.add((there.st_dev, there.st_ino))
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files(entry.path, seen)
            else:
                yield entry.path


def _named_by(path: str) -> set[Digest]:
    """What a file in the place of a tag names: its layers, itself as a blob, and where it is a link, its target."""
    named = digests_in(os.path.basename(os.readlink(path)).encode()) if os.path.islink(path) else set()
    try:
        if not is_file(path) and os.path.exists(path):
            return named  # what is no file names nothing
        raw, modified = read_regular(path, _MOST_BYTES), os.stat(path).st_mtime
    except FileNotFoundError:
        if os.path.islink(path) and not named:
            raise  # what it leads to may be on a disk that is not mounted at the moment
        return named
    if time.time() - modified < _BEING_WRITTEN and not _is_json(raw):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return named | digests_in(raw) | {Digest.of(raw)}


def _is_json(raw: bytes) -> bool:
    try:
        msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True
