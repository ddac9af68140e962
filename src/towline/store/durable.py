"""Writing so that it lasts, and linking so that nothing is ever seen half done."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import uuid
from pathlib import Path

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
_TRIES = 1000


def sync_folder(path: Path) -> None:
    """Makes the entries of a folder last. Raises OSError."""
    file = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def make_folders(path: Path) -> None:
    """Makes a folder and what it stands in, each one durably in its own. Raises OSError."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def link(source: str, target: str) -> bool:
    """Puts the file at `source` at `target` too; False where the file system has no hard links.

    What stands at `target` stays if it is the same file, or of the same length; anything else is replaced in one step.
    Raises OSError; FileNotFoundError where `source` is gone.
    """
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        if not _stands_for(target, os.stat(source)):
            beside = f"{os.path.dirname(source)}/.{uuid.uuid4().hex}"
            os.link(source, beside)
            os.rename(beside, target)
    except OSError as error:
        if error.errno in _NO_LINKS:
            return False
        raise
    return True


def _stands_for(target: str, wanted: os.stat_result) -> bool:
    """Whether what is there is the wanted file, or one as long as it; a link that leads nowhere is not."""
    try:
        there = os.stat(target)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(there.st_mode) and there.st_size == wanted.st_size


def write_file(path: Path, data: bytes, tmp: Path) -> None:
    """Writes a file durably and in one step; `tmp` is a folder on the same file system. Raises OSError.

    The folders that it stands in are made at the last moment, and again where another program removes them as empty.
    """
    beside = tmp / uuid.uuid4().hex
    try:
        with open(beside, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        made = _move(beside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
        raise
    for folder in {path, *made}:
        sync_folder(folder.parent)


def _move(source: Path, target: Path) -> set[Path]:
    """Renames into a folder that others remove while it is empty; returns the folders that had to be made for it."""
    made: set[Path] = set()
    for tries_left in reversed(range(_TRIES)):
        made.update(folder for folder in target.parents if not folder.is_dir())
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(source, target)
        except FileNotFoundError:
            if not tries_left or not source.exists():
                raise
        else:
            break
    return made
