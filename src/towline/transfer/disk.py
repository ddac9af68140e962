"""Positioned input and output, whole or an error; both let other threads run."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from collections.abc import Callable


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


_SYNC_FILE_RANGE_WRITE = 2


def start_writeback(file: int, offset: int, length: int) -> None:
    """Asks the disk to begin writing a range, without waiting for it; where the system cannot, nothing happens."""
    call = _sync_file_range()
    if call is not None:
        call(file, offset, length, _SYNC_FILE_RANGE_WRITE)


@functools.cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    try:
        call = ctypes.CDLL(None).sync_file_range
    except (OSError, AttributeError):
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return call
