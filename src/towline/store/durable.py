"""Writing so that it lasts, and linking so that nothing is ever seen half done."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import uuid
from pathlib import Path

from towline.files import ownership
from towline.files.confined import AnyPath, Confined, at, beside, create_file, rename, unlink
from towline.files.regular import LEADS_NOWHERE
from towline.files.sync import sync_file, sync_folder

_NO_LINKS = (
    errno.EPERM,
    errno.EOPNOTSUPP,
    errno.ENOTSUP,
    errno.ENOSYS,
    errno.EMLINK,
    errno.EXDEV,
    errno.EINVAL,
)
_TRIES = 1000


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
    with (
        at(source, making=True) as (source_folder, source_name),
        at(target, making=True) as (target_folder, target_name),
    ):
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
    except OSError as error:
        if error.errno in LEADS_NOWHERE:
            return False
        raise
    return stat.S_ISREG(there.st_mode) and there.st_size == wanted.st_size


def write_file(path: Path, data: bytes, tmp: Confined) -> None:
    """Writes a file durably and in one step; `tmp` is a folder on the same file system. Raises OSError."""
    move(write_aside(data, tmp), path)


def write_aside(data: bytes, tmp: Confined) -> Confined:
    """Writes a file durably in the folder `tmp`, for `move`. Raises OSError."""
    written = tmp / uuid.uuid4().hex
    try:
        with open(create_file(written), "wb") as file:
            file.write(data)
            file.flush()
            sync_file(file.fileno())
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            unlink(written)
        raise
    return written


def move(written: Confined, path: Path) -> None:
    """Puts such a file into its place, durably and in one step. Raises OSError.

    The folders that it stands in are made at the last moment, and again where another program removes them as empty.
    """
    try:
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
