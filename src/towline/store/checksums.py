"""The checksums of the store's blobs: whoever repairs one learns from them which of its blocks are bad.

Nothing relies on them. They are written while a blob is fetched, by its journal, and go when the blob is gone.
"""

from __future__ import annotations

import contextlib
import os

from towline.files.confined import Confined, make_folder, names_in, rename, unlink
from towline.files.regular import open_unlinked
from towline.model.checksums import Checksums, sealed_bytes
from towline.model.digest import Digest
from towline.store.layout import Layout


def checksums(layout: Layout, digest: Digest, size: int) -> Checksums | None:
    """Those of a blob of the store; None where there are none that are complete and undamaged."""
    return _read(_kept(layout) / digest.hex, digest, size)


def keep_checksums(layout: Layout, digest: Digest, size: int, journal: Confined) -> None:
    """Moves them from the journal of a blob that is whole to where they are kept. A journal that tells only of parts of
    the blob stays. Raises OSError.
    """
    if _read(journal, digest, size) is not None:
        make_folder(_kept(layout))
        rename(journal, _kept(layout) / digest.hex)


def sweep_checksums(layout: Layout) -> None:
    """Removes those of blobs that are gone."""
    with contextlib.suppress(OSError):
        for name in names_in(_kept(layout)):
            if not os.path.lexists(layout.blobs / f"sha256-{name}"):
                unlink(_kept(layout) / name)


def _kept(layout: Layout) -> Confined:
    return layout.inside("checksums")


def _read(path: Confined, digest: Digest, size: int) -> Checksums | None:
    try:
        with open(open_unlinked(path), "rb") as file:
            raw = file.read(sealed_bytes(size) + 1)
    except OSError:
        return None
    return Checksums.decode(raw, digest, size)
