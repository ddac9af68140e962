"""Writing so that it lasts, and linking so that nothing is ever seen half done."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import stat
import uuid
from pathlib import Path

from towline.files import ownership
from towline.files.confined import AnyPath, Confined, at, beside, create_file, rename, unlink

_NO_LINKS = (
    errno.EPERM,
    errno.EOPNOTSUPP,
    errno.ENOTSUP,
    errno.ENOSYS,
    errno.EMLINK,
    errno.EXDEV,
    errno.EINVAL,
)
_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOTTY, errno.EBADF)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_TRIES = 1000

_log = logging.getLogger("towline")

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def sync_folder(path: Path) -> None:
    """Makes the entries of a folder last, where the file system can; many cannot, and say so in many ways.

    Raises OSError where there is no such folder, or no space.
    """
    file = os.open(path, _FOLDER)
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


def make_folders(path: Path, store: Path) -> None:
    """Makes a folder and what it stands in, each one durably in its own, and as suits the folder `store`.

    Raises OSError.
    """
    for made in ownership.make_folders(path, store):
        sync_folder(made.parent)


def link(source: AnyPath, target: AnyPath) -> bool:
    """Puts the file at `source` at `target` too; False where the file system has no hard links.

    What stands at `target` stays if it is the same file, or of the same length; anything else is replaced in one step.
    Raises OSError; FileNotFoundError where `source` is gone.
    """
    try:
        _link(source, target)
    except FileExistsError:
        if not _stands_for(target, os.stat(source)):
            replacement = beside(source)
            _link(source, replacement)
            rename(replacement, target)
    except OSError as error:
        if error.errno in _NO_LINKS:
            return False
        raise
    return True


def _link(source: AnyPath, target: AnyPath) -> None:
    with at(source) as (source_folder, source_name), at(target) as (target_folder, target_name):
        os.link(
            source_name,
            target_name,
            src_dir_fd=source_folder,
            dst_dir_fd=target_folder,
            follow_symlinks=False,
        )


def _stands_for(target: AnyPath, wanted: os.stat_result) -> bool:
    """Whether what is there is the wanted file, or one as long as it; a link that leads nowhere is not."""
    try:
        there = os.stat(target)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(there.st_mode) and there.st_size == wanted.st_size


def write_file(path: Path, data: bytes, tmp: Confined) -> None:
    """Writes a file durably and in one step; `tmp` is a folder on the same file system. Raises OSError.

    The folders that it stands in are made at the last moment, and again where another program removes them as empty.
    """
    written = tmp / uuid.uuid4().hex
    try:
        with open(create_file(written), "wb") as file:
            file.write(data)
            file.flush()
            sync_file(file.fileno())
        made = _move(written, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            unlink(written)
        raise
    for folder in {path, *made}:
        sync_folder(folder.parent)


def _move(source: Confined, target: Path) -> set[Path]:
    """Renames into a folder that others remove while it is empty; returns the folders that had to be made for it."""
    made: set[Path] = set()
    for tries_left in reversed(range(_TRIES)):
        try:
            made.update(ownership.make_folders(target.parent, Path(source.store)))
            rename(source, target)
        except FileNotFoundError:
            if not tries_left or not os.path.lexists(source):
                raise
        else:
            break
    return made
