"""Positioned input and output, whole or an error; both let other threads run."""

from __future__ import annotations

import errno
import os


def write_all(file: int, data: memoryview, offset: int) -> None:
    """Writes all of `data` at `offset`. Raises OSError."""
    while data:
        count = os.pwrite(file, data, offset)
        data = data[count:]
        offset += count


def read_all(file: int, buffer: memoryview, offset: int) -> None:
    """Fills all of `buffer` from `offset`. Raises OSError, also where the file ends before."""
    while buffer:
        count = os.preadv(file, [buffer], offset)
        if count == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        buffer = buffer[count:]
        offset += count
