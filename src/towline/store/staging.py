"""Where a blob grows until it is whole. Keyed by digest and size: whoever comes back finds it, in any process."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable

import msgspec

from towline.errors import Obstructed, Starved, store_error
from towline.files.confined import AnyPath, Confined, at, make_folder, open_file, remove_tree, rename, same_file, unlink
from towline.files.ownership import set_mode
from towline.files.regular import has_file, has_file_itself, open_unlinked
from towline.files.sync import forget_cached, sync_file
from towline.model.checksums import BLOCK_BYTES
from towline.model.digest import Digest
from towline.model.manifest import Descriptor
from towline.store import adoption
from towline.store.checksums import keep_checksums
from towline.store.durable import link
from towline.store.layout import Layout, staging_key
from towline.store.locks import FileLock, NoLocks
from towline.store.verified import Stamp, stamp, stands_at

_MAX_NOTE_BYTES = 4 << 20


class StagedBlob:
    """The staging of one blob: a `transfer.protocols.Staging`.

    `whole` in it is verified and durable: it gets that name only after both. The folder goes when the blob is in the
    store.

    A blob of up to a block, of which a model may have thousands, has no folder and no journal: it is one file, which
    has one name while it is fetched, and is its own lock then, and another one when it is whole. Where the file system
    has no locks, what holds the place stands apart.
    """

    __slots__ = (
        "_data",
        "_digest",
        "_folder",
        "_is_kept",
        "_layout",
        "_lock",
        "_part",
        "_size",
        "_small",
        "_whole",
        "_written",
        "_wrong",
        "begun",
        "stamp",
    )

    def __init__(
        self, layout: Layout, digest: Digest, size: int, *, begun: bool = True, wrong: Stamp | None = None
    ) -> None:
        """`wrong` is the file of the store that has other bytes than it should, and stands until this one is whole."""
        self.begun = begun
        """Whether anything of the blob may be here, of an earlier time."""
        self._wrong = wrong
        self._layout = layout
        self._digest = digest
        self._size = size
        self._small = size <= BLOCK_BYTES
        key = staging_key(digest, size)
        self._folder = layout.staged(key)
        self._data = self._named("data")
        self._whole = self._named("whole")
        self._lock = FileLock(self._data, with_data=True) if self._small else FileLock(self._lock_path)
        self._part: int | None = None
        self._written = False
        self._is_kept = False
        self.stamp: Stamp | None = None
        """Of the whole file, where a small blob was verified here."""

    @property
    def _lock_path(self) -> Confined:
        return self._layout.lock(self._folder.name)

    @property
    def data_path(self) -> Confined:
        """The growing file."""
        return self._data

    @property
    def journal_path(self) -> Confined:
        """What of it is to be believed."""
        return self._folder / "journal"

    @property
    def whole_path(self) -> Confined:
        """The file once it is verified and durable."""
        return self._whole

    def _named(self, name: str) -> Confined:
        folder = self._folder
        if not self._small:
            return folder / name
        return Confined(folder.base, folder.folder, f"{folder.name}.{name}", folder.store)

    def is_whole(self) -> bool:
        """Whether the blob is here or in the store already."""
        return (
            has_file_itself(self.whole_path, self._size) and not self._is_wrong(self.whole_path)
        ) or self.is_stored()

    def is_stored(self) -> bool:
        """Whether the blob is in the store."""
        path = self._layout.blob(self._digest)
        return has_file(path, self._size) and not self._is_wrong(path)

    def _is_wrong(self, path: AnyPath) -> bool:
        """Whether that is the wrong file: also here, where what was linked into the store has not gone since."""
        return self._wrong is not None and stands_at(path, self._wrong)

    def acquire(self) -> bool:
        """Takes the lock and makes the folder; False when another holds it. Raises StoreError."""
        try:
            if self._small:
                return self._acquire_file()
            if not self._lock.acquire():
                return False
            make_folder(self._folder)
        except OSError as error:
            self._lock.release()
            raise store_error(error) from None
        return True

    def _acquire_file(self) -> bool:
        try:
            if not self._lock.acquire():
                return False
            self._written = not self._lock.made
        except NoLocks:
            self._lock, self._data = FileLock(self._lock_path), self._named("part")
        except Obstructed:
            if not self._drop_second_name():
                raise
            return self._acquire_file()
        return self._lock.with_data or self._lock.acquire()

    def _drop_second_name(self) -> bool:
        """A power cut may keep the file's place in the store, and not that its name here has changed: one of several
        names goes. Whether it was one. Raises OSError.
        """
        with contextlib.suppress(FileNotFoundError), at(self._data) as (folder, name):  # it became whole meanwhile
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink < 2:
                return False
            os.unlink(name, dir_fd=folder)
        return True

    # Of a small blob, while the lock is held

    @property
    def _file(self) -> int:
        if self._lock.with_data:
            return self._lock.file
        if self._part is None:
            self._part = open_file(self._data)
        return self._part

    def read(self) -> bytes:
        """What is there of it, a byte beyond its size at most. Raises OSError."""
        return os.pread(self._file, self._size + 1, 0)

    def write(self, data: memoryview) -> None:
        """Writes all of it, in place of whatever is there. Raises OSError, StoreError."""
        if not os.fstat(self._file).st_nlink:  # somebody removed the store meanwhile: it is made anew
            self.release()
            if not self.acquire():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if self._part is not None or not self._lock.made:
            os.ftruncate(self._file, 0)
        self._written = True
        while data:
            data = data[os.pwrite(self._file, data, self._size - len(data)) :]

    def keep(self) -> None:
        """It is right: makes it last, and then `whole`. Raises StoreError."""
        self._finish(self._file)
        self._is_kept = True

    def sign(self) -> None:
        """Leaves a sign of life for those who wait for the lock."""
        self._lock.touch()

    def last_sign(self) -> float:
        """When the lock's holder gave one, by the file system's clock."""
        return self._lock.touched()

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

    def _finish(self, file: int) -> None:
        try:
            self._sync(file)
            # Where somebody removed the store, and its locks with it, another download may have begun here by now.
            if not same_file(file, self.data_path):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            rename(self.data_path, self.whole_path)
        except OSError as error:
            raise store_error(error) from None

    def _sync(self, file: int) -> None:
        """After a sync that failed the system may show bytes that it has given up and will not write again, and the
        next sync would not tell (https://wiki.postgresql.org/wiki/Fsync_Errors). So it is made to forget what it shows:
        what stays is either still to be written, with an error for the next sync if that fails, or comes from the disk,
        where whoever goes on compares it with the journal.
        """
        try:
            sync_file(file)
        except OSError:
            forget_cached(file)
            raise

    def discard(self) -> None:
        """Removes what is here."""
        if not self._small:
            remove_tree(self._folder)
            return
        for path in (self.data_path, self.whole_path):
            with contextlib.suppress(OSError):
                unlink(path)

    def release(self) -> None:
        """Gives the lock back, and removes the folder if the blob is in the store meanwhile."""
        if self._is_kept:
            self._is_kept = False
            with contextlib.suppress(OSError):
                self.stamp = stamp(os.fstat(self._file))  # now, as no sign of life changes its time any more
        if self._part is not None:
            os.close(self._part)
            self._part = None
        self._lock.release(remove=not (self._lock.with_data and self._written))
        if not self._small:
            self.clean()

    def place(self, target: AnyPath) -> bool:
        """Links the whole blob to `target`, or moves it where there are no hard links; False where it is not here."""
        try:
            if not link(self.whole_path, target):
                rename(self.whole_path, target)
        except FileNotFoundError:
            return False
        return True

    def pin(self, target: AnyPath) -> bool:
        """Links the whole blob to `target` if it is here, and if that can be done; whether it was. Raises OSError."""
        try:
            return link(self.whole_path, target)
        except FileNotFoundError:
            return False

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
        if not self.is_stored():
            return
        if self._small:
            clean(self._layout, [Descriptor("", self._digest, self._size)])
            return
        if not os.path.exists(self._folder):
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
    """Removes what is here of blobs that are in the store. Of small ones only that they are whole: whoever relies on
    that has them pinned, or looks into the store.
    """
    with contextlib.suppress(OSError), at(layout.inside("staging") / ".") as (folder, _):
        for blob in blobs:
            if blob.size > BLOCK_BYTES:
                StagedBlob(layout, blob.digest, blob.size).clean()
                continue
            with contextlib.suppress(OSError):
                os.unlink(whole_name(blob), dir_fd=folder)


def whole_name(blob: Descriptor) -> str:
    """What a blob of up to a block is called in the folder of stagings, once it is whole."""
    return f"{staging_key(blob.digest, blob.size)}.whole"
