"""Opening for reading what others may have put there: regular files, and nothing else.

In the place of a blob or a manifest may stand a FIFO, which blocks whoever opens it, a device, which to open may do
things, a folder, whose size may be the wanted one, or a file without end. None of them is opened, and no reading is
without a bound.
"""

from __future__ import annotations

import errno
import os
import stat

from towline.files.confined import AnyPath, at

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

LEADS_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""What the system says of a link to what is not there, that leads through a file, or round in a circle."""


class Irregular(OSError):
    """What is there cannot be what was asked for: no regular file, or one without measure."""


def open_regular(path: AnyPath) -> int:
    """Opens the regular file at `path`, or to which a link there leads; whoever asked closes it.

    Raises OSError, and Irregular where anything else is there; it never blocks.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Irregular(errno.ELOOP, "it is a link that leads nowhere") from None
        raise
    _demand_regular(found)
    return _opened(path, _READ)


def open_unlinked(path: AnyPath) -> int:
    """The same, but no symbolic link at `path` is followed: for what no user ever links."""
    with at(path) as (folder, name):
        _demand_regular(os.stat(name, dir_fd=folder, follow_symlinks=False))
        return _opened(name, _READ | os.O_NOFOLLOW, folder)


def _opened(path: AnyPath, flags: int, folder: int | None = None) -> int:
    file = os.open(path, flags, dir_fd=folder)
    try:
        _demand_regular(os.fstat(file))  # it may have been changed for something else since the first look
    except BaseException:
        os.close(file)
        raise
    return file


def _demand_regular(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise Irregular(errno.EINVAL, "it is no regular file")


def read_regular(path: AnyPath, limit: int) -> bytes:
    """All of a regular file, or of the one to which a link leads. Raises OSError, and Irregular
    for more than `limit` bytes.
    """
    with open(open_regular(path), "rb") as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise Irregular(errno.EFBIG, os.strerror(errno.EFBIG))
    return raw


def is_file(path: AnyPath) -> bool:
    """Whether a regular file is there, or a link to one."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def has_file_itself(path: AnyPath, size: int) -> bool:
    """Whether a regular file of this size is there, and no link to one."""
    try:
        with at(path) as (folder, name):
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return found.st_size == size and stat.S_ISREG(found.st_mode)


def has_file(path: AnyPath, size: int) -> bool:
    """Whether a regular file of this size is there, or a link to one."""
    try:
        found = os.stat(path)
    except OSError:
        return False
    return found.st_size == size and stat.S_ISREG(found.st_mode)
