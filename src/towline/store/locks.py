"""Locks between processes: advisory, gone with the process that held them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from towline.errors import StoreError


class FileLock:
    """An exclusive lock on a path. The file is removed when the lock is given back: it is not what is locked."""

    def __init__(self, path: str | Path) -> None:
        self._path = os.fspath(path)
        self._file: int | None = None

    def acquire(self) -> bool:
        """Takes the lock if it is free; tells at once whether it is held now. Raises OSError."""
        if self._file is not None:
            return True
        while True:
            try:
                file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(self._path), exist_ok=True)
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                return False
            except OSError:
                os.close(file)
                raise
            if _is_at(file, self._path):
                self._file = file
                return True
            os.close(file)  # its holder removed it meanwhile: what counts is the file that stands there now

    def touch(self) -> None:
        """Tells those who wait that its holder lives: for a lock that is held."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.utime(self._file)

    def touched(self) -> float:
        """When its holder took or touched it, by the file system's clock; 0 where there is none."""
        try:
            return os.stat(self._path).st_mtime
        except OSError:
            return 0.0

    def wait(self, timeout: float = 30.0) -> None:
        """Takes a lock that others hold only for moments. Raises StoreError after `timeout` seconds, OSError."""
        deadline = time.monotonic() + timeout
        pause = 0.001
        while not self.acquire():
            if time.monotonic() > deadline:
                raise StoreError("another process has been writing to the store for too long; stop it and try again")
            time.sleep(pause)
            pause = min(pause * 2, 0.05)

    def release(self) -> None:
        """Gives the lock back; any number of times."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                if _is_at(self._file, self._path):  # else it was removed, and what stands there is another's
                    os.unlink(self._path)
            os.close(self._file)
            self._file = None


@contextlib.contextmanager
def waiting_for(path: str | Path, *, timeout: float = 30.0) -> Iterator[None]:
    """Holds a lock that others hold only for moments; raises as `FileLock.wait` does."""
    lock = FileLock(path)
    lock.wait(timeout)
    try:
        yield
    finally:
        lock.release()


def _is_at(file: int, path: str) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    here = os.fstat(file)
    return (here.st_ino, here.st_dev) == (there.st_ino, there.st_dev)
