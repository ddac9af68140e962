"""What the places of large and of small blobs have in common: see `staging`."""

from __future__ import annotations

import errno
import os

from towline.errors import store_error
from towline.files.confined import AnyPath, Confined, rename, same_file
from towline.files.regular import has_file, has_file_itself
from towline.files.sync import forget_cached, sync_file
from towline.model.digest import Digest
from towline.store.durable import link
from towline.store.layout import Layout
from towline.store.locks import FileLock
from towline.store.verified import Stamp, stands_at


class Staged:
    """The place of one blob while it grows: a `transfer.protocols.Staging`, as far as its size makes no difference.

    What is called `whole` in it is verified and durable: it gets that name only after both.
    """

    __slots__ = ("_digest", "_layout", "_lock", "_size", "_wrong", "begun", "data_path", "stamp", "whole_path")

    def __init__(
        self,
        layout: Layout,
        digest: Digest,
        size: int,
        *,
        data: Confined,
        whole: Confined,
        lock: FileLock,
        begun: bool,
        wrong: Stamp | None,
    ) -> None:
        self.begun = begun
        """Whether anything of the blob may be here, of an earlier time."""
        self.data_path = data
        """The growing file."""
        self.whole_path = whole
        """The file once it is verified and durable."""
        self.stamp: Stamp | None = None
        """Of the whole file, where it is known."""
        self._layout = layout
        self._digest = digest
        self._size = size
        self._lock = lock
        self._wrong = wrong

    def is_whole(self) -> bool:
        """Whether the blob is here or in the store already."""
        here = has_file_itself(self.whole_path, self._size) and not self._is_wrong(self.whole_path)
        return here or self.is_stored()

    def is_stored(self) -> bool:
        """Whether the blob is in the store."""
        path = self._layout.blob(self._digest)
        return has_file(path, self._size) and not self._is_wrong(path)

    def _is_wrong(self, path: AnyPath) -> bool:
        """Whether that is the wrong file: also here, where what was linked into the store has not gone since."""
        return self._wrong is not None and stands_at(path, self._wrong)

    def sign(self) -> None:
        """Leaves a sign of life for those who wait for the lock."""
        self._lock.touch()

    def last_sign(self) -> float:
        """When the lock's holder gave one, by the file system's clock."""
        return self._lock.touched()

    def _finish(self, file: int) -> None:
        """The data, which is open as `file`, is verified: makes it last, and then `whole`. Raises StoreError."""
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
