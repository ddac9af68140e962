"""What the file system of a store cannot do: found before the first byte is fetched, and said once.

Shares, FUSE and the file systems of memory cards lack this and that. Wherever it is used there is another way; here is
only told what is then not guaranteed.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import os
import uuid
from collections.abc import Callable
from pathlib import Path

from towline.files.confined import Confined, at, create_file, names_in, open_file, rename, unlink
from towline.store.layout import Layout
from towline.store.locks import NO_LOCKS

_log = logging.getLogger("towline")

_LENGTH = 1 << 16


def probe(layout: Layout) -> None:
    """Tries in towline's own folder what a pull will do, and warns of what is missing. Raises OSError for that without
    which nothing works: to make a file, to make it longer, to write anywhere in it, to rename it over another.
    """
    name = f".probe-{uuid.uuid4().hex}"
    made, other = layout.inside(name), layout.inside(f"{name}-2")
    file = create_file(made)
    try:
        os.ftruncate(file, _LENGTH)
        os.pwrite(file, b"x", _LENGTH - 1)
        os.close(open_file(other))
        rename(made, other)
        lacks = [what for check, what in _CHECKS if _lacks(functools.partial(check, file, made, other))]
    finally:
        os.close(file)
        for path in (made, other):
            with contextlib.suppress(OSError):
                unlink(path)
    if lacks:
        _warn(str(layout.root), "; ".join(lacks))


def takes_colons(folder: Confined) -> bool:
    """Whether names in this folder may hold a colon, as those of registries with a port do. Raises OSError where it
    cannot be written at all.
    """
    plain = folder / f".probe-{uuid.uuid4().hex}"
    os.close(create_file(plain))
    unlink(plain)
    return not _lacks(functools.partial(_make_and_remove, folder / f"{plain.name}:1"))


def free_bytes(folder: Path) -> int | None:
    """Bytes of disk that are free there, or where the folder would be made; None where that is not told."""
    for place in (folder, *folder.parents):
        try:
            disk = os.statvfs(place)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        return disk.f_bavail * disk.f_frsize if disk.f_blocks else None
    return None


def _lock(file: int, _: Confined, __: Confined) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            raise


def _link(_: int, made: Confined, other: Confined) -> None:
    with at(other) as (folder, name):
        os.link(name, made.name, src_dir_fd=folder, dst_dir_fd=folder)


def _set_time(file: int, _: Confined, __: Confined) -> None:
    os.utime(file)


def _set_mode(file: int, _: Confined, __: Confined) -> None:
    os.fchmod(file, os.fstat(file).st_mode & 0o777)


def _tell_space(_: int, made: Confined, __: Confined) -> None:
    if free_bytes(Path(made.base)) is None:
        raise OSError


_Check = Callable[[int, Confined, Confined], None]

_CHECKS: list[tuple[_Check, str]] = [
    (_lock, "it has no locks, so two machines that pull the same model into it at once may fetch it twice"),
    (_link, "it has no hard links, so another program may remove a layer while a pull relies on it"),
    (_set_time, "it sets no times, so an Ollama that starts may take a layer that was just fetched for an old one"),
    (_set_mode, "it sets no modes, so who can read the models is up to its mount"),
    (_tell_space, "it does not tell how much is free, so a pull may find out in its middle that the disk is full"),
]


def _make_and_remove(path: Confined) -> None:
    os.close(create_file(path))
    # Some cut a name off at the colon, or keep it as something else.
    found = path.name in names_in(path.parent)
    unlink(path)
    if not found:
        raise OSError


def _lacks(check: Callable[[], None]) -> bool:
    try:
        check()
    except OSError:
        return True
    return False


@functools.cache
def _warn(root: str, lacks: str) -> None:
    _log.warning("the file system of the store at %s lacks something: %s", root, lacks)
