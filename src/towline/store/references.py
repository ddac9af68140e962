"""Which blobs the store's manifests name, and so which may go."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable

from towline.files.regular import is_file, read_regular
from towline.model.digest import Digest
from towline.model.manifest import MAX_MANIFEST_BYTES
from towline.store.layout import Layout

_DIGESTS = re.compile(rb"sha256:([0-9a-f]{64})")


def digests_in(raw: bytes) -> set[Digest]:
    """Every digest that a manifest names, also one that cannot be read as a manifest."""
    return {Digest(match.decode()) for match in _DIGESTS.findall(raw)}


def references(layout: Layout) -> set[Digest]:
    """Every digest that any manifest of the store names. What is no file names none.

    Raises OSError if one cannot be read, or is too large to be one.
    """
    found: set[Digest] = set()
    for folder, _, files in os.walk(layout.manifests, onerror=_raise):
        for path in (f"{folder}/{file}" for file in files):
            if is_file(path):
                found |= digests_in(read_regular(path, MAX_MANIFEST_BYTES))
    return found


def unreferenced(layout: Layout, candidates: set[Digest]) -> list[Digest]:
    """Those of the candidates that are in the store and that no manifest names; none where one cannot be read."""
    present = {digest for digest in candidates if os.path.exists(layout.blob(digest))}
    try:
        return sorted(present - references(layout)) if present else []
    except OSError:
        return []


def remove_unreferenced(layout: Layout, candidates: Iterable[Digest]) -> None:
    """Removes those. Needs the store's lock. Raises OSError."""
    for digest in unreferenced(layout, set(candidates)):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(layout.blob(digest))


def _raise(error: OSError) -> None:
    raise error
