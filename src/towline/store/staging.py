"""Where a blob grows until it is whole. Keyed by digest and size: whoever comes back finds it, in any process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

import msgspec

from towline.errors import Starved, store_error
from towline.files.confined import Confined, at, make_folder, open_file, remove_tree, unlink
from towline.files.ownership import set_mode
from towline.files.regular import open_unlinked
from towline.model.checksums import BLOCK_BYTES
from towline.model.digest import Digest
from towline.model.manifest import Descriptor
from towline.store import adoption
from towline.store.checksums import keep_checksums
from towline.store.layout import Layout, staging_key
from towline.store.locks import FileLock
from towline.store.staged import Staged
from towline.store.staged_small import StagedSmall, whole_name
from towline.store.verified import Stamp

_MAX_NOTE_BYTES = 4 << 20


def staging_of(
    layout: Layout, digest: Digest, size: int, *, begun: bool = True, wrong: Stamp | None = None
) -> StagedBlob | StagedSmall:
    """The place of a blob of this size. `begun` tells whether anything of it may be there, of an earlier time. `wrong`
    is the file of the store that has other bytes than it should, and stands until this one is whole.
    """
    kind = StagedSmall if size <= BLOCK_BYTES else StagedBlob
    return kind(layout, digest, size, begun=begun, wrong=wrong)


class StagedBlob(Staged):
    """The place of a blob larger than a block: a folder with its data, its journal, and a note of what an Ollama left
    of it. The folder goes when the blob is in the store.
    """

    __slots__ = ("_folder", "_lock_path")

    def __init__(self, layout: Layout, digest: Digest, size: int, *, begun: bool, wrong: Stamp | None) -> None:
        key = staging_key(digest, size)
        self._folder = layout.staged(key)
        self._lock_path = layout.lock(key)
        super().__init__(
            layout,
            digest,
            size,
            data=self._folder / "data",
            whole=self._folder / "whole",
            lock=FileLock(self._lock_path),
            begun=begun,
            wrong=wrong,
        )

    @property
    def journal_path(self) -> Confined:
        """What of the growing file is to be believed."""
        return self._folder / "journal"

    def acquire(self) -> bool:
        """Takes the lock and makes the folder; False when another holds it. Raises StoreError."""
        try:
            if not self._lock.acquire():
                return False
            make_folder(self._folder)
        except OSError as error:
            self._lock.release()
            raise store_error(error) from None
        return True

    def promised(self) -> int:
        """Bytes that an Ollama has of the blob, by its own word."""
        if os.path.exists(self._leftover):
            return sum(stop - start for start, stop in self._told_leftover())
        return sum(stop - start for start, stop in adoption.offered(self._layout, self._digest, self._size))

    def leftover(self) -> adoption.Extents:
        """Takes over what an Ollama left of the blob, once; which bytes of the data that are."""
        if os.path.exists(self.data_path) and (os.path.exists(self.journal_path) or os.path.exists(self._leftover)):
            return self._told_leftover()
        offered = adoption.offered(self._layout, self._digest, self._size)
        self._note_leftover(offered)  # first: a note without data says nothing, and data without a note is lost
        extents = adoption.adopt(self._layout, self._digest, self._size, self._folder)
        if extents != offered:
            self._note_leftover(extents)
        return extents

    def _note_leftover(self, extents: adoption.Extents) -> None:
        if not extents:
            self.forget_leftover()
            return
        with open(open_file(self._leftover, os.O_TRUNC), "wb") as file:
            file.write(msgspec.json.encode(extents))

    def forget_leftover(self) -> None:
        """The data is all towline's own from here on."""
        with contextlib.suppress(FileNotFoundError):
            unlink(self._leftover)

    @property
    def _leftover(self) -> Confined:
        return self._folder / "leftover"

    def _told_leftover(self) -> adoption.Extents:
        try:
            with open(open_unlinked(self._leftover), "rb") as file:
                told = msgspec.json.decode(file.read(_MAX_NOTE_BYTES), type=list[tuple[int, int]])
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return []
        return [(start, stop) for start, stop in told if 0 <= start < stop <= self._size]

    def finish(self, file: int) -> None:
        """The data, which is open as `file`, is verified: makes it last, and then `whole`. Raises StoreError."""
        set_mode(file, self._folder.store)
        self._finish(file)

    def discard(self) -> None:
        """Removes what is here."""
        remove_tree(self._folder)

    def release(self) -> None:
        """Gives the lock back, and removes the folder if the blob is in the store meanwhile."""
        self._lock.release()
        self.clean()

    @property
    def allocated(self) -> int:
        """Bytes of disk that it takes already, at most its size; what an Ollama left of it counts where it is moved."""
        for path in (self.whole_path, self.data_path):
            with contextlib.suppress(OSError):
                return min(os.stat(path).st_blocks * 512, self._size)
        return min(adoption.movable_bytes(self._layout, self._digest), self._size)

    def clean(self) -> None:
        """Keeps the blob's checksums and removes what is here, once the blob is in the store and nobody works here.

        Called after the blob was linked into the store, and after the lock was given back: the later of the two finds
        both true.
        """
        if not self.is_stored() or not os.path.exists(self._folder):
            return
        lock = FileLock(self._lock_path)
        try:
            if lock.acquire():
                with contextlib.suppress(OSError):  # nothing relies on them
                    keep_checksums(self._layout, self._digest, self._size, self.journal_path)
                self.discard()
        except (OSError, Starved):
            pass  # a left-over costs space, no more; it is removed with age
        finally:
            lock.release()


def clean(layout: Layout, blobs: Iterable[Descriptor]) -> None:
    """Removes what is here of blobs that are in the store. Of small ones, of which there may be thousands, only what is
    whole: whoever relies on that looks into the store too.
    """
    with contextlib.suppress(OSError), at(layout.inside("staging") / ".") as (folder, _):
        for blob in blobs:
            if blob.size > BLOCK_BYTES:
                staging_of(layout, blob.digest, blob.size).clean()
                continue
            with contextlib.suppress(OSError):
                os.unlink(whole_name(blob.digest, blob.size), dir_fd=folder)
