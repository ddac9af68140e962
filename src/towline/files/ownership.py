"""Whose the files are that towline makes: those of the store's folder, whoever runs it.

A `sudo towline pull` must not leave files behind that the service's own user can neither replace nor remove.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import stat
from pathlib import Path

_log = logging.getLogger("towline")

_FOLDER_MODE = stat.S_ISGID | 0o777
_FILE_MODE = 0o666


_stores: dict[str, os.stat_result] = {}


def remember(store: str) -> None:
    """Looks at the folder `store` once for all that is handed over until it is forgotten."""
    with contextlib.suppress(OSError):
        _stores[store] = os.stat(store)


def forget(store: str) -> None:
    """From now on each time again."""
    _stores.pop(store, None)


def hand_over(file: int, store: str) -> None:
    """Gives what this process has just made, open as `file`, the mode that suits the folder `store`, and when this is
    root its owner and group. Whatever a file system refuses stays as it is.
    """
    try:
        like, made = _stores.get(store) or os.stat(store), os.fstat(file)
    except OSError:
        return
    _give(file, made, like)
    _set_mode(file, made, mode_for(made, like))


def set_mode(file: int, store: str) -> None:
    """Sets the mode alone, of a file that somebody else may have made."""
    with contextlib.suppress(OSError):
        made = os.fstat(file)
        _set_mode(file, made, mode_for(made, os.stat(store)))


def make_folders(path: Path, store: Path) -> list[Path]:
    """Makes a folder and what it stands in, and hands each over: the store's own folder, and those that it stands in,
    to the owner of the nearest that was there, with the mode that the process's mask gives. Returns those that were
    missing, the outermost first. Raises OSError.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.is_dir()]
    for folder in reversed(missing):
        _make_folder(folder, store)
    return missing[::-1]


def _make_folder(path: Path, store: Path) -> None:
    try:
        path.mkdir()
    except FileExistsError:
        if not path.is_dir():
            raise
        return
    made = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if store in path.parents:
            hand_over(made, str(store))
        else:
            _give(made, os.fstat(made), path.parent.stat())
    finally:
        os.close(made)


def mode_for(made: os.stat_result, like: os.stat_result) -> int:
    """A folder's is that of the store's folder; a file can be read and written by whoever can do that to the folder."""
    mode = stat.S_IMODE(like.st_mode)
    return mode & (_FOLDER_MODE if stat.S_ISDIR(made.st_mode) else _FILE_MODE)


def _give(file: int, made: os.stat_result, like: os.stat_result) -> None:
    if os.geteuid() != 0 or (made.st_uid, made.st_gid) == (like.st_uid, like.st_gid):
        return
    try:
        os.fchown(file, like.st_uid, like.st_gid)
    except OSError as error:
        _warn(os.strerror(error.errno or 0).lower())


def _set_mode(file: int, made: os.stat_result, mode: int) -> None:
    if stat.S_IMODE(made.st_mode) == mode:
        return
    try:
        os.fchmod(file, mode)
    except OSError:
        return  # a file system without modes shows the same one for every file


@functools.cache
def _warn(why: str) -> None:
    _log.warning("what towline makes in the store stays root's, as its file system gives nothing away (%s)", why)
