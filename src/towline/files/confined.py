"""Files in a folder that is towline's own, of whose way no part is ever a link.

Others can write in the store, and towline may run as root: a link that somebody planted there would have it overwrite
or empty what lies elsewhere. So every step from the store's folder inwards is taken by descriptor, following nothing,
and what is opened for writing has one name only. Whoever plants links while this runs gains nothing either.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from towline.errors import Obstructed
from towline.files.ownership import forget, hand_over, make_folders, remember

_STEP = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BASE = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Confined(NamedTuple):
    """The path `name` in a `folder` that is `base`, or somewhere inside it. To `base` links may lead, as the user laid
    them; from there on there are none.

    What is made there is handed over to the owner of the folder `store`.
    """

    base: str
    folder: str
    name: str
    store: str

    def __fspath__(self) -> str:
        return f"{self.folder}/{self.name}"

    def __str__(self) -> str:
        return f"{self.folder}/{self.name}"

    def __truediv__(self, inner: str) -> Confined:
        way, slash, name = inner.rpartition("/")
        return Confined(self.base, f"{self.folder}/{self.name}{slash}{way}", name, self.store)

    @property
    def inside(self) -> str:
        """The way from the base."""
        return str(self)[len(self.base) + 1 :]

    @property
    def parent(self) -> Confined:
        """The folder that it stands in: for what is at least one folder deep."""
        folder, _, name = self.folder.rpartition("/")
        return Confined(self.base, folder, name, self.store)


AnyPath = str | os.PathLike[str]
"""Where a `Confined` is reached as it promises, and any other path as the system does it."""


class _Folder:
    """An open folder, for as long as anybody refers to it."""

    __slots__ = ("file",)

    def __init__(self, file: int) -> None:
        self.file = file

    def __del__(self) -> None:
        os.close(self.file)


_held: dict[str, int] = {}
_open: dict[str, _Folder] = {}
_holding = threading.Lock()


@contextlib.contextmanager
def held(*folders: Confined) -> Iterator[None]:
    """Keeps these folders open meanwhile, once the way to each was gone: thousands of small blobs go through the same
    few folders, and each step on the way costs as much as to make a file. They need not be there yet.
    """
    ways = [str(folder) for folder in folders]
    stores = {folder.store for folder in folders}
    with _holding:
        for way in ways:
            _held[way] = _held.get(way, 0) + 1
    for store in stores:
        remember(store)
    try:
        yield
    finally:
        with _holding:
            for way in ways:
                _held[way] -= 1
                if not _held[way]:
                    del _held[way]
                    _open.pop(way, None)
            if not _held:
                for store in stores:
                    forget(store)


def _begin_anew() -> None:
    """In a child that was forked: the folders are kept open for work of the parent's, of which a thread that the child
    does not have may have held the lock.
    """
    global _holding
    _holding = threading.Lock()
    _held.clear()
    _open.clear()


os.register_at_fork(after_in_child=_begin_anew)


class at:  # noqa: N801 - it is used as a function
    """The folder that a path stands in, open, and its name in there: for the functions of `os` that take a `dir_fd`.

    `making`: what is done there fails only where the folder is gone, and then another one may have taken its place.
    Entering raises OSError, and Obstructed for a link on the way.
    """

    __slots__ = ("_folder", "_making", "_path")

    def __init__(self, path: AnyPath, *, making: bool = False) -> None:
        self._path = path
        self._making = making
        self._folder: _Folder | None = None

    def __enter__(self) -> tuple[int | None, str]:
        path = self._path
        if not isinstance(path, Confined):
            return None, os.fspath(path)
        folder = self._folder = _open.get(path.folder) or _reached(path, path.folder)
        return folder.file, path.name

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._making and isinstance(error, FileNotFoundError) and isinstance(self._path, Confined):
            _open.pop(self._path.folder, None)
        self._folder = None


def _reached(path: Confined, place: str) -> _Folder:
    """The folder `place` on the way to `path`, step by step from the nearest that is open."""
    folder = _open.get(place)
    if folder is not None:
        return folder
    if place != path.base:
        outer, _, step = place.rpartition("/")
        before = _reached(path, outer)
        try:
            folder = _Folder(_enter(before.file, step, path))
        finally:
            del before  # an error that is kept somewhere keeps the names of this call, and would keep it open
    else:
        folder = _Folder(os.open(path.base, _BASE))
    if place in _held:
        with _holding:
            if place in _held:
                _open[place] = folder
    return folder


def _enter(folder: int, name: str, path: Confined) -> int:
    try:
        return os.open(name, _STEP, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise _planted(path) from None
        raise


def _planted(path: Confined) -> Obstructed:
    return Obstructed(
        f"{path.inside} in the store is a link, is reached by one, or is no file or folder of towline's; "
        "remove it and pull again"
    )


def make_folder(path: Confined) -> None:
    """Makes it, and what it stands in; it may be there. Raises OSError, and Obstructed where something else is."""
    try:
        with at(path, making=True) as (folder, name):
            try:
                os.mkdir(name, dir_fd=folder)
            except FileExistsError:
                if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                    raise _planted(path) from None
            else:
                _hand_over_folder(folder, name, path.store)
    except FileNotFoundError:
        if path.folder != path.base:
            make_folder(path.parent)
        else:
            make_folders(Path(path.base), Path(path.store))
        make_folder(path)


def _hand_over_folder(folder: int | None, name: str, store: str) -> None:
    made = os.open(name, _LIST, dir_fd=folder)
    try:
        if os.fstat(made).st_uid == os.geteuid():  # else it was changed for another since it was made
            hand_over(made, store)
    finally:
        os.close(made)


def open_file(path: AnyPath, flags: int = 0) -> int:
    """Opens a file for reading and writing, and makes it where there is none. `flags` may add O_APPEND and O_TRUNC.

    Raises OSError, and Obstructed where something else is: a link, one of several names of a file, no file at all.
    """
    with at(path, making=True) as (folder, name):
        while True:
            try:
                return _create(folder, name, path, flags & ~os.O_TRUNC)
            except FileExistsError:
                pass
            try:
                return _reopen(folder, name, path, flags)
            except FileNotFoundError:
                continue


def reopen_file(path: AnyPath) -> int:
    """Opens a file that is there for reading and writing. Raises as `open_file`, and FileNotFoundError."""
    with at(path) as (folder, name):
        return _reopen(folder, name, path, 0)


def create_file(path: AnyPath) -> int:
    """Makes a file and opens it for reading and writing. Raises OSError; FileExistsError where anything is there."""
    with at(path, making=True) as (folder, name):
        return _create(folder, name, path, 0)


def _create(folder: int | None, name: str, path: AnyPath, flags: int) -> int:
    file = os.open(name, _OPEN | os.O_CREAT | os.O_EXCL | flags, 0o666, dir_fd=folder)
    if isinstance(path, Confined):
        hand_over(file, path.store)
    return file


def _reopen(folder: int | None, name: str, path: AnyPath, flags: int) -> int:
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not _is_sole_file(found):
        raise _obstructed(path)
    try:
        file = os.open(name, _OPEN | (flags & ~os.O_TRUNC), dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise _obstructed(path) from None
        raise
    try:
        if not _is_sole_file(os.fstat(file)):  # it was changed for something else since the first look
            raise _obstructed(path)
        if flags & os.O_TRUNC:
            os.ftruncate(file, 0)
    except BaseException:
        os.close(file)
        raise
    return file


def _obstructed(path: AnyPath) -> Obstructed:
    return _planted(path if isinstance(path, Confined) else Confined("", "", os.path.basename(os.fspath(path)), ""))


def _is_sole_file(found: os.stat_result) -> bool:
    # A name that was removed since has none; file systems without links may count as they like below two.
    return stat.S_ISREG(found.st_mode) and found.st_nlink < 2


def same_file(file: int, path: AnyPath) -> bool:
    """Whether what is open as `file` is what stands at `path`, which is no link. Raises OSError."""
    try:
        with at(path) as (folder, name):
            there = os.stat(name, dir_fd=folder, follow_symlinks=False)
        return os.path.samestat(os.fstat(file), there)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):  # of a file that was removed not all file systems tell more
            return False
        raise


def beside(path: AnyPath) -> AnyPath:
    """A path in the same folder under which nothing is."""
    name = f".{uuid.uuid4().hex}"
    return path.parent / name if isinstance(path, Confined) else os.path.join(os.path.dirname(path), name)


def unlink(path: AnyPath) -> None:
    """Removes a file, or a link itself. Raises OSError, and Obstructed where a folder is there."""
    try:
        with at(path) as (folder, name):
            os.unlink(name, dir_fd=folder)
    except IsADirectoryError:
        raise _obstructed(path) from None


def rename(source: AnyPath, target: AnyPath) -> None:
    """Moves a file, over whatever file is there. Raises OSError, and Obstructed where a folder is there."""
    try:
        _rename(source, target)
    except IsADirectoryError:
        raise _obstructed(target) from None


def _rename(source: AnyPath, target: AnyPath) -> None:
    if isinstance(source, Confined) and isinstance(target, Confined) and source.folder == target.folder:
        with at(source, making=True) as (folder, name):
            os.rename(name, target.name, src_dir_fd=folder, dst_dir_fd=folder)
        return
    with (
        at(source, making=True) as (source_folder, source_name),
        at(target, making=True) as (target_folder, target_name),
    ):
        os.rename(source_name, target_name, src_dir_fd=source_folder, dst_dir_fd=target_folder)


def names_in(path: Confined) -> list[str]:
    """What is in a folder. Raises OSError, also where there is none, or something else."""
    with at(path / ".") as (folder, _):
        listed = os.open(".", _LIST, dir_fd=folder)
    try:
        return os.listdir(listed)
    finally:
        os.close(listed)


def remove_tree(path: Confined) -> None:
    """Removes a folder with all that is in it, as far as that can be done; links in it go, what they lead to stays."""
    with contextlib.suppress(OSError), at(path) as (folder, name):
        shutil.rmtree(name, ignore_errors=True, dir_fd=folder)
        os.unlink(name, dir_fd=folder)  # it was a file or a link
