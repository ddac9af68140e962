"""Where a blob of up to a block grows: a model may have thousands of them, so one has no folder and no journal.

It is one file, which has one name while it is fetched, and is its own lock then, and another one when it is whole.
Where the file system has no locks, what holds the place stands apart.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from towline.errors import Obstructed, store_error
from towline.files.confined import Confined, at, open_file
from towline.model.digest import Digest
from towline.store.layout import Layout, staging_key
from towline.store.locks import FileLock, NoLocks
from towline.store.staged import Staged
from towline.store.verified import Stamp, stamp

_DATA, _WHOLE, _PART = ".data", ".whole", ".part"
"""What the file is called while it grows, when it is whole, and while it grows where the lock stands apart."""


class StagedSmall(Staged):
    """See the module, and `staging.staging_of`."""

    __slots__ = ("_is_kept", "_key", "_part", "_written")

    def __init__(self, layout: Layout, digest: Digest, size: int, *, begun: bool, wrong: Stamp | None) -> None:
        self._key = staging_key(digest, size)
        data = layout.staged(self._key + _DATA)
        super().__init__(
            layout,
            digest,
            size,
            data=data,
            whole=layout.staged(self._key + _WHOLE),
            lock=FileLock(data, with_data=True),
            begun=begun,
            wrong=wrong,
        )
        self._part: int | None = None
        self._written = False
        self._is_kept = False

    def acquire(self) -> bool:
        """Takes the lock, and makes the file with it; False when another holds it. Raises StoreError."""
        try:
            return self._acquire()
        except OSError as error:
            raise store_error(error) from None

    def _acquire(self) -> bool:
        try:
            held = self._lock.acquire()
        except NoLocks:
            self._lock, self.data_path = FileLock(self._layout.lock(self._key)), self._layout.staged(self._key + _PART)
            return self._lock.acquire()
        except Obstructed:
            if not self._drop_second_name():
                raise
            return self._acquire()
        self._written = held and not self._lock.made
        return held

    def _drop_second_name(self) -> bool:
        """A power cut may keep the file's place in the store, and not that its name here has changed: one of several
        names goes. Whether it was one. Raises OSError.
        """
        with contextlib.suppress(FileNotFoundError), at(self.data_path) as (folder, name):  # it became whole meanwhile
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink < 2:
                return False
            os.unlink(name, dir_fd=folder)
        return True

    # While the lock is held

    @property
    def _file(self) -> int:
        if self._lock.with_data:
            return self._lock.file
        if self._part is None:
            self._part = open_file(self.data_path)
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
        """What was written, or read, is right: makes it last, and then whole. Raises StoreError."""
        self._finish(self._file)
        self._is_kept = True

    def release(self) -> None:
        """Gives the lock back; what was written stays."""
        if self._is_kept:
            self._is_kept = False
            with contextlib.suppress(OSError):
                self.stamp = stamp(os.fstat(self._file))  # now, as no sign of life changes its time any more
        if self._part is not None:
            os.close(self._part)
            self._part = None
        self._lock.release(remove=not (self._lock.with_data and self._written))

    # Whoever has the lock

    @property
    def allocated(self) -> int:
        """Bytes of disk that it takes already, at most its size."""
        for path in (self.whole_path, self.data_path):
            with contextlib.suppress(OSError):
                return min(os.stat(path).st_blocks * 512, self._size)
        return 0

    def clean(self) -> None:
        """Removes what is here, once the blob is in the store: whoever relies on it looks there too."""
        if self.is_stored():
            with contextlib.suppress(OSError), at(self.whole_path) as (folder, name):
                os.unlink(name, dir_fd=folder)


def whole_name(digest: Digest, size: int) -> str:
    """What such a blob is called in the folder of stagings, once it is whole."""
    return staging_key(digest, size) + _WHOLE


def lock_of(entry: Confined, layout: Layout) -> FileLock:
    """The lock of what stands in the folder of stagings, large or small."""
    key, dot, kind = entry.name.partition(".")
    return FileLock(entry, with_data=True) if dot + kind == _DATA else FileLock(layout.lock(key))
