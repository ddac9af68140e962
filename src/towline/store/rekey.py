"""Staging that an older towline left, keyed by digest alone: it gets its size into its key, and nothing is lost."""

from __future__ import annotations

import contextlib
import os
import re
import struct

from towline.errors import Starved
from towline.files.confined import Confined, at, names_in, remove_tree, rename
from towline.files.regular import open_unlinked
from towline.model.checksums import BLOCK_BYTES
from towline.model.digest import Digest
from towline.store.layout import Layout, staging_key
from towline.store.locks import FileLock
from towline.store.staging import staging_of

_HEX = re.compile(r"[0-9a-f]{64}")
_SIZE = struct.Struct("<8xQ")
"""Where every journal has the blob's size."""


def rekey(layout: Layout) -> None:
    """Renames what nobody works in. What has neither a journal nor a whole blob is left to age."""
    with contextlib.suppress(OSError):
        for name in filter(_HEX.fullmatch, names_in(layout.inside("staging"))):
            lock = FileLock(layout.lock(name))
            with contextlib.suppress(OSError, Starved):
                if lock.acquire():
                    _rename(layout, name)
            lock.release()


def _rename(layout: Layout, name: str) -> None:
    folder = layout.staged(name)
    size = _size(folder)
    if size is None:
        return
    if size > BLOCK_BYTES:
        rename(folder, layout.staged(staging_key(Digest(name), size)))
        return
    with contextlib.suppress(FileNotFoundError):  # so small a blob has no folder any more, and no parts
        rename(folder / "whole", staging_of(layout, Digest(name), size).whole_path)
    remove_tree(folder)


def _size(folder: Confined) -> int | None:
    with contextlib.suppress(FileNotFoundError), at(folder / "whole") as (place, name):
        return os.stat(name, dir_fd=place, follow_symlinks=False).st_size
    with contextlib.suppress(OSError, struct.error), open(open_unlinked(folder / "journal"), "rb") as journal:
        size: int
        (size,) = _SIZE.unpack(journal.read(_SIZE.size))
        return size
    return None
