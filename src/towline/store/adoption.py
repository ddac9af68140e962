"""Going on with a download that an Ollama left: `blobs/sha256-<hex>-partial`, with a JSON file for each of its parts.

What it holds is taken over, not believed: only the digest of the whole blob tells whether it is right.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from towline.files.confined import Confined, make_folder, open_file, rename
from towline.files.regular import open_unlinked
from towline.model.digest import Digest
from towline.store.layout import Layout

SETTLED = 120.0
"""Seconds without a change after which a partial file is nobody's any more, if no process has it open."""

_MAX_PARTS = 10_000
_MAX_PART_BYTES = 64 << 10
_FICLONE = 0x40049409
_COPY_STEP = 64 << 20


class _Part(msgspec.Struct):
    offset: int = msgspec.field(name="Offset", default=0)
    size: int = msgspec.field(name="Size", default=0)
    completed: int = msgspec.field(name="Completed", default=0)


Extents = list[tuple[int, int]]
"""Half-open ranges of bytes, sorted, without overlaps."""


def adopt(layout: Layout, digest: Digest, size: int, folder: Confined) -> Extents:
    """Puts what an Ollama has of the blob into `folder` as `data`; returns which bytes those are.

    The file is moved; while it changes, or a process has it open, it is copied instead, by reference where the file
    system can. Needs the lock of the staging. Raises OSError.
    """
    partial = _partial(layout, digest)
    if not _is_regular(partial):
        return []
    parts = _parts(layout, digest)
    extents = list(_extents(parts, size))
    target = folder / "data"
    try:
        if not extents or partial.stat().st_size > size:
            return []
        make_folder(folder)
        if _in_use(partial, parts):
            beside = folder / "copy"
            _copy(partial, beside, extents)
            rename(beside, target)
            return extents
        rename(partial, target)
    except FileNotFoundError:
        return []
    for part in parts:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
    return extents


def offered(layout: Layout, digest: Digest, size: int) -> Extents:
    """Which bytes of the blob an Ollama has, by its own word: what `adopt` would take over."""
    if not _is_regular(_partial(layout, digest)):
        return []
    return list(_extents(_parts(layout, digest), size))


def movable_bytes(layout: Layout, digest: Digest) -> int:
    """Bytes of disk that an Ollama's partial file takes, where `adopt` would move it; 0 where it would be copied."""
    partial = _partial(layout, digest)
    try:
        if not _is_regular(partial) or _in_use(partial, _parts(layout, digest)):
            return 0
        return partial.stat().st_blocks * 512
    except OSError:
        return 0


def _partial(layout: Layout, digest: Digest) -> Path:
    return layout.blobs / f"{digest.file_name}-partial"


def _parts(layout: Layout, digest: Digest) -> list[Path]:
    found = sorted(layout.blobs.glob(f"{digest.file_name}-partial-*"))[:_MAX_PARTS]
    return [path for path in found if _is_regular(path)]


def _is_regular(path: Path) -> bool:
    """Whether it is a file, and neither a link nor a pipe or the like, which to open could harm or block."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _extents(parts: list[Path], size: int) -> Iterator[tuple[int, int]]:
    reached = 0
    for start, stop in sorted(_claimed(parts, size)):
        if stop > reached:
            yield max(start, reached), stop
            reached = stop


def _claimed(parts: list[Path], size: int) -> Iterator[tuple[int, int]]:
    for path in parts:
        try:
            with open(open_unlinked(path), "rb") as file:
                part = msgspec.json.decode(file.read(_MAX_PART_BYTES), type=_Part)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
        if part.offset >= 0 and 0 < part.completed <= part.size and part.offset + part.size <= size:
            yield part.offset, part.offset + part.completed


def _in_use(partial: Path, parts: list[Path]) -> bool:
    changed = max(path.stat().st_mtime for path in (partial, *parts))
    linked = partial.stat().st_nlink > 1  # whoever has the other name keeps what it holds
    return linked or time.time() - changed < SETTLED or _is_open(partial)


def _is_open(path: Path) -> bool:
    """Whether any process that this one may look at has the file open; where the system does not tell, it counts so."""
    if not os.path.isdir("/proc/self/fd"):
        return True
    wanted = path.stat()
    return any(os.path.samestat(wanted, there) for there in _open_files())


def _open_files() -> Iterator[os.stat_result]:
    for process in filter(str.isdigit, os.listdir("/proc")):
        folder = f"/proc/{process}/fd"
        with contextlib.suppress(OSError):
            for number in os.listdir(folder):
                with contextlib.suppress(OSError):
                    yield os.stat(f"{folder}/{number}")


def _copy(source: Path, target: Confined, extents: Extents) -> None:
    with open(open_unlinked(source), "rb") as reader, open(open_file(target, os.O_TRUNC), "wb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
        except OSError:
            for start, stop in extents:
                _copy_range(reader.fileno(), writer.fileno(), start, stop)


def _copy_range(reader: int, writer: int, start: int, stop: int) -> None:
    while start < stop:
        try:
            count = os.copy_file_range(reader, writer, min(stop - start, _COPY_STEP), start, start)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            count = os.pwrite(writer, os.pread(reader, min(stop - start, 1 << 20), start), start)
        if count == 0:
            raise FileNotFoundError(errno.ENOENT, "the partial file became shorter")
        start += count
