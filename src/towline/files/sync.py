"""Making what was written last, as far as the file system can."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
from pathlib import Path

_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOTTY, errno.EBADF)
_FULL = (errno.ENOSPC, errno.EDQUOT)

_log = logging.getLogger("towline")


def sync_folder(path: Path) -> None:
    """Makes the entries of a folder last, where the file system can; many cannot, and say so in many ways.

    Raises OSError where there is no such folder, or no space.
    """
    file = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno in _FULL:
            raise
        _warn("the names of files", os.strerror(error.errno or 0).lower())
    finally:
        os.close(file)


def sync_file(file: int) -> None:
    """Makes a file's bytes last, where the file system can. Raises OSError where it can and failed."""
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
        _warn("files", os.strerror(error.errno or 0).lower())


def forget_cached(file: int) -> None:
    """Has the system read the file from its disk the next time, as far as it has not still to write it."""
    with contextlib.suppress(OSError, AttributeError):
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


@functools.cache
def _warn(what: str, why: str) -> None:
    _log.warning(
        "the store's file system does not make %s last when asked to (%s): a power cut may cost what was just pulled",
        what,
        why,
    )
