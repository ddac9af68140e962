"""Going on with a download that an Ollama left: `blobs/sha256-<hex>-partial`, with a JSON file for each of its parts.

What it holds is taken over, not believed: only the digest of the whole blob tells whether it is right. An Ollama that
was killed leaves a part's file as it was when the part began: the holes of the sparse data tell more than it does.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from towline.errors import StoreError
from towline.files.confined import Confined, make_folder, open_file, rename, reopen_file
from towline.files.regular import is_file, open_unlinked
from towline.model.digest import Digest
from towline.store.layout import Layout
from towline.store.references import check_roots

SETTLED = 120.0
"""Seconds without a change after which a partial file is nobody's any more, if no process has it open."""

ABANDONED = 3600.0
"""Seconds without a change after which an Ollama removes partial files at its start, and they may go here as well."""

_PARTIAL = re.compile(r"sha256-([0-9a-f]{64})-partial(?:-[0-9]+)?\Z")
_MAX_PARTS = 10_000
_MAX_PART_BYTES = 64 << 10
_MAX_ZEROS = 1 << 20
"""What is looked at of the last block before a hole: more than the blocks of any file system but the oddest."""

_PROBE_BYTES = 1 << 20
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

    The file is moved; while it changes, or a process has it open, or where it is another user's, it is copied instead,
    by reference where the file system can. One that may not be read is left alone. Needs the lock of the staging.
    Raises OSError.
    """
    partial = _partial(layout, digest)
    if not _is_regular(partial):
        return []
    parts = _parts(layout, digest)
    target = folder / "data"
    try:
        extents = _readable_extents(partial, parts, size)
        if not extents:
            return []
        make_folder(folder)
        if not _is_movable(partial, parts):
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
    """Which bytes of the blob an Ollama has: what `adopt` would take over."""
    partial = _partial(layout, digest)
    try:
        return _extents(partial, _parts(layout, digest), size) if _is_regular(partial) else []
    except OSError:
        return []


def movable_bytes(layout: Layout, digest: Digest) -> int:
    """Bytes of disk that an Ollama's partial file takes, where `adopt` would move it; 0 where it would be copied."""
    partial = _partial(layout, digest)
    try:
        if not _is_regular(partial) or not _is_movable(partial, _parts(layout, digest)):
            return 0
        return partial.stat().st_blocks * 512
    except OSError:
        return 0


class Leftovers:
    """What Ollamas left of downloads that are whole by now: also what was copied, as it was too young to be moved."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._looked_at = 0
        self._waiting = True

    def clear(self) -> None:
        """Removes those that nobody has touched for an hour. Raises nothing.

        Looks at the folder of blobs only where it has changed, or where some were too young the last time.
        """
        with contextlib.suppress(OSError, StoreError):
            changed = self._layout.blobs.stat().st_mtime_ns
            if changed != self._looked_at or self._waiting:
                check_roots(self._layout)
                self._waiting = False in {_cleared(self._layout, digest) for digest in self._digests()}
                self._looked_at = changed

    def _digests(self) -> set[Digest]:
        names = (name for name in os.listdir(self._layout.blobs) if "-partial" in name)
        return {Digest(match[1]) for match in map(_PARTIAL.match, names) if match}


def _cleared(layout: Layout, digest: Digest) -> bool:
    """Removes what was left of the blob if it is of no use any more; False where that has to wait."""
    if not is_file(layout.blob(digest)):
        return True  # it is of use: not for this to decide
    partial = _partial(layout, digest)
    files = [path for path in (partial, *_parts(layout, digest)) if _is_regular(path)]
    if any(time.time() - path.stat().st_mtime < ABANDONED or _is_open(path) for path in files):
        return False
    for path in files:
        path.unlink()
    return True


def _partial(layout: Layout, digest: Digest) -> Path:
    return layout.blobs / f"{digest.file_name}-partial"


def _parts(layout: Layout, digest: Digest) -> list[Path]:
    found = sorted(layout.blobs.glob(f"{digest.file_name}-partial-*"))[:_MAX_PARTS]
    return [path for path in found if _is_regular(path)]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    file = open_unlinked(path)
    try:
        yield file
    finally:
        os.close(file)


def _is_regular(path: Path) -> bool:
    """Whether it is a file, and neither a link nor a pipe or the like, which to open could harm or block."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _readable_extents(partial: Path, parts: list[Path], size: int) -> Extents:
    """The same as `_extents`; none of a file that this user may not read. Raises other OSErrors."""
    with contextlib.suppress(PermissionError):
        return _extents(partial, parts, size)
    return []


def _extents(partial: Path, parts: list[Path], size: int) -> Extents:
    """What there is of each part, from its start on. Raises OSError."""
    extents: Extents = []
    reached = 0
    with _opened(partial) as file:
        length, shown = os.fstat(file).st_size, _shows_holes(file, partial.parent)
        told = sorted(_told(parts, size), key=lambda part: part.offset)
        if length > size or size not in (length, max((part.offset + part.size for part in told), default=0)):
            return []  # the blob has another size: whoever asks was lied to by a manifest
        for part in told:
            stop = min(part.offset + (_reached(file, part) if shown else part.completed), length)
            if stop > max(reached, part.offset):
                extents.append((max(part.offset, reached), stop))
                reached = stop
    return extents


def _told(parts: list[Path], size: int) -> Iterator[_Part]:
    for path in parts:
        try:
            with _opened(path) as file:
                part = msgspec.json.decode(os.read(file, _MAX_PART_BYTES), type=_Part)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
        if part.offset >= 0 and 0 <= part.completed <= part.size and part.offset + part.size <= size:
            yield part


def _shows_holes(file: int, folder: Path) -> bool:
    """Whether the system tells holes from data: of this file, or, if it has none, of a file without a name that is made
    to ask. Where it cannot, all of a file counts as data, and only what the parts say is to be believed.
    """
    try:
        if os.lseek(file, 0, os.SEEK_HOLE) < os.fstat(file).st_size:
            return True
        with open(os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), "wb") as probe:
            os.pwrite(probe.fileno(), b"data", _PROBE_BYTES)
            return os.lseek(probe.fileno(), 0, os.SEEK_DATA) > 0
    except (OSError, AttributeError):  # or a system that is not Linux
        return False


def _reached(file: int, part: _Part) -> int:
    """Bytes of the part that are there: up to its first hole, less the zeros that end the last block if the part does
    not say that they were written.
    """
    start, stop = part.offset, part.offset + part.size
    try:
        if os.lseek(file, start, os.SEEK_DATA) != start:
            return 0
        hole = min(os.lseek(file, start, os.SEEK_HOLE), stop)
    except OSError:  # ENXIO: there is no data from here on
        return 0
    told = min(start + part.completed, hole)
    return _before_zeros(file, max(told, hole - _MAX_ZEROS), hole, otherwise=told) - start


def _before_zeros(file: int, start: int, stop: int, *, otherwise: int) -> int:
    """Where the zeros begin that end [start, stop); `otherwise` where there is nothing else: it may all be a hole."""
    data = os.pread(file, stop - start, start).rstrip(b"\0")
    return start + len(data) if data else otherwise


def _is_movable(partial: Path, parts: list[Path]) -> bool:
    """Whether it may be taken away: nobody works with it, and where it is moved to, which takes no more than a right to
    its folder, it can be written to.
    """
    if _in_use(partial, parts):
        return False
    try:
        os.close(reopen_file(partial))
    except PermissionError:
        return False
    return True


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
