"""Locks between processes: advisory, gone with the process that held them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
import weakref
from collections.abc import Callable, Iterator

from towline.files.confined import AnyPath, Confined, create_file, make_folder, reopen_file, same_file, unlink
from towline.store import claims


class NoLocks(Exception):
    """The file system has none."""


NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOTTY, errno.EBADF)
"""What flock says where a file system has no locks."""

_TRIES = 1000
"""How often at most a lock's file may be gone that was there a moment ago: it goes with each holder, but there are file
systems that say so of each file.
"""

_held: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _leave_to_the_parent() -> None:
    """In a child that was forked: what the parent holds stays its own, and goes with it, whatever the child does."""
    for lock in list(_held):
        if lock._file is not None:
            with contextlib.suppress(OSError):
                os.close(lock._file)
            lock._file = None
    _held.clear()


os.register_at_fork(after_in_child=_leave_to_the_parent)


class FileLock:
    """An exclusive lock on a path. The file is removed when the lock is given back: it is not what is locked, but where
    the file system has no locks (`claims`).

    `with_data`: the file has a use of its own, so nothing else is written into it, no claim either.
    """

    __slots__ = ("__weakref__", "_claimed", "_file", "_path", "made", "with_data")

    def __init__(self, path: AnyPath, *, with_data: bool = False) -> None:
        self.with_data = with_data
        self.made = False
        """Whether the file was made for the lock that is held."""
        self._path = path
        self._file: int | None = None
        self._claimed = False

    @property
    def file(self) -> int:
        """The file, open for reading and writing, of a lock that is held."""
        if self._file is None:
            raise ValueError("the lock is not held")
        return self._file

    def acquire(self) -> bool:
        """Takes the lock if it is free; tells at once whether it is held now. Raises OSError, and Starved where a
        thread that it takes is not to be had; NoLocks where it may take none `with_data`.
        """
        tries_left = _TRIES
        while self._file is None:
            if not tries_left:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            tries_left -= 1
            try:
                file, self.made = _opened(self._path)
            except FileNotFoundError:
                _make_folder_of(self._path)
                continue
            try:
                self._file = self._take(file, made=self.made)
            except BlockingIOError:
                return False
        _held.add(self)
        return True

    def _take(self, file: int, *, made: bool) -> int | None:
        """The file that is held from now on; None where this one is not what stands at the path any more.

        Closes what is not held. Raises BlockingIOError for a lock that another has, OSError, Starved.
        """
        try:
            held = self._locked(file, made=made)
        except BaseException as error:
            if made and not isinstance(error, BlockingIOError):
                with contextlib.suppress(OSError):
                    unlink(self._path)
            claims.close(file)
            raise
        if held != file:
            os.close(file)
        return held

    def _locked(self, file: int, *, made: bool) -> int | None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):
                return None  # its holder removed it, and this file system knows files by their names
            if error.errno not in NO_LOCKS:
                raise
            if self.with_data:
                raise NoLocks from None
            return self._claim(file, made=made)
        if self.with_data and made:
            return file  # who uses it sees whether it still stands there
        if not (made or self.with_data) and claims.is_claimed(file):
            return self._claim(file, made=False)  # for its holder, as on another machine, the file system has no locks
        # Where its holder removed it meanwhile, what counts is the file that stands there now.
        return file if same_file(file, self._path) else None

    def _claim(self, file: int, *, made: bool) -> int:
        taken: int | None = file
        if made:
            claims.write(file)
        else:
            taken = claims.overtake(self._path, file)
        if taken is None:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        self._claimed = True
        return taken

    def touch(self) -> None:
        """Tells those who wait that its holder lives: for a lock that is held. Raises FileNotFoundError where another
        took it, which only a claim allows.
        """
        if self._file is None:
            return
        if self._claimed:
            if not same_file(self._file, self._path):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            return
        try:
            os.utime(self._file)
        except OSError:  # not every file system sets times; to write does it everywhere
            if not self.with_data:
                with contextlib.suppress(OSError):
                    os.pwrite(self._file, b"\n", 0)

    def touched(self) -> float:
        """When its holder took or touched it, by the file system's clock; 0 where there is none."""
        try:
            return os.lstat(self._path).st_mtime
        except OSError:
            return 0.0

    def wait(self, check: Callable[[], None] = lambda: None) -> None:
        """Takes a lock that others hold for moments, or for as long as their disk takes: it is gone with its holder,
        so there is an end. Meanwhile `check` is called again and again, and may raise. Raises OSError.
        """
        pause = 0.001
        while not self.acquire():
            check()
            time.sleep(pause)
            pause = min(pause * 2, 0.05)

    def release(self, *, remove: bool = True) -> None:
        """Gives the lock back; any number of times. Unless it is to `remove` the file, that stays, wherever it is."""
        if self._file is None:
            return
        if remove:
            with contextlib.suppress(OSError):
                if same_file(self._file, self._path):  # else it was removed, and what stands there is another's
                    unlink(self._path)
        file, self._file = self._file, None  # first: a child that is forked now closes what is named here
        if self._claimed:
            claims.forget(file)
            self._claimed = False
        os.close(file)
        _held.discard(self)


@contextlib.contextmanager
def waiting_for(path: AnyPath, check: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds a lock that others hold too: see `FileLock.wait`."""
    lock = FileLock(path)
    lock.wait(check)
    try:
        yield
    finally:
        lock.release()


def _opened(path: AnyPath) -> tuple[int, bool]:
    """The lock's file, and whether it was made for that. Raises OSError."""
    while True:
        try:
            return create_file(path), True
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):
                return reopen_file(path), False


def _make_folder_of(path: AnyPath) -> None:
    if isinstance(path, Confined):
        make_folder(path.parent)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
