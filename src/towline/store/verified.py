"""What the blobs of a store were like when they were verified, so that changed bytes are not called present.

A blob is believed while its size, inode and mtime are those (not its ctime: hard links change it). They are kept in
`towline/verified`, in records of 64 bytes, the later one of a blob in force:

    magic   digest (32 bytes)   size (u64)   inode (u64)   mtime, ns (u64)   xxh3 of these (u32)

Records are appended, and nothing waits for the disk: one that is torn or lost costs a blob its record. A blob without
one, as another program brings it, is believed by its size.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import stat
import struct
import threading
import time
import uuid
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from itertools import starmap
from typing import NewType

import xxhash

from towline.errors import Starved, StoreError
from towline.files.confined import AnyPath, Confined, make_folder, open_file, remove_tree
from towline.files.regular import open_unlinked
from towline.model.digest import Digest
from towline.model.manifest import Descriptor
from towline.store.durable import write_file
from towline.store.layout import Layout
from towline.store.locks import FileLock

Stamp = NewType("Stamp", bytes)
"""Size, inode and mtime of a file, as a record holds them."""

_STAMP = struct.Struct("<QQQ")
_MAGIC = b"twlv"
_RECORD = struct.Struct("<4s32s24sI")
_U64 = (1 << 64) - 1
_MOST_BYTES = 64 << 20
"""What is read at most, from the end: the records of a million blobs."""

_SLACK_BYTES = 64 << 10
"""By how much the file may grow beyond twice of what it needs before it is written anew."""

_log = logging.getLogger("towline")


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at blobs tells: those that are not here, those among them in whose place something else is, and those
    whose bytes have to be looked at first.
    """

    absent: list[Descriptor]
    obstructed: list[Descriptor]
    doubtful: list[Descriptor]


class Verified:
    """The records of one store. Safe from threads."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._lock = threading.Lock()
        self._read_at: object = None
        self._stamps: Mapping[bytes, Stamp] = {}

    @property
    def _path(self) -> Confined:
        return self._layout.inside("verified")

    def look(self, blobs: Iterable[Descriptor]) -> Look:
        """One read of the records where they changed, and one look at each blob: models have thousands."""
        try:
            folder = os.open(self._layout.blobs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return self._look(blobs, None, f"{self._layout.blobs}/sha256-")
        try:
            return self._look(blobs, folder, "sha256-")
        finally:
            os.close(folder)

    def _look(self, blobs: Iterable[Descriptor], folder: int | None, prefix: str) -> Look:
        """By paths from an open folder, which take a sixth less time than whole ones; or by those."""
        stamps = self._current()
        look = Look([], [], [])
        for blob in blobs:
            digest = blob.digest.hex
            path = prefix + digest
            try:
                there = os.stat(path, dir_fd=folder, follow_symlinks=False)
                linked = stat.S_ISLNK(there.st_mode)
                if linked:
                    there = os.stat(path, dir_fd=folder)
            except FileNotFoundError:
                look.absent.append(blob)
                continue
            except OSError:
                there = None
            if there is None or there.st_size != blob.size or not stat.S_ISREG(there.st_mode):
                look.absent.append(blob)
                look.obstructed.append(blob)
                continue
            known = stamps.get(bytes.fromhex(digest))
            if known != stamp(there) if known is not None else linked:
                look.doubtful.append(blob)
        return look

    def doubts(self, digest: Digest, size: int) -> bool:
        """Whether a file of this blob is here, and may hold other bytes than were verified."""
        return bool(self.look([Descriptor("", digest, size)]).doubtful)

    def touch(self, blobs: Iterable[Descriptor], fresh: Mapping[Digest, Stamp]) -> None:
        """Sets the mtime of these blobs to now, and notes anew those that are what they were when they were verified:
        lately, as `fresh` tells, or earlier. Needs the store's lock. Raises nothing.
        """
        known = self._current()
        noted = {}
        kept = False  # whether the file system is seen to keep times as they are set: then no second look is needed
        for blob in blobs:
            digest, path = blob.digest, self._layout.blob(blob.digest)
            with contextlib.suppress(OSError):  # it went: whoever publishes looks at that
                there = os.lstat(path)
                linked = stat.S_ISLNK(there.st_mode)
                if linked:
                    there = os.stat(path)
                now = _touch(path)
                if stamp(there) not in (known.get(bytes.fromhex(digest.hex)), fresh.get(digest)):
                    continue
                if linked or not (kept and now):
                    there = os.stat(path)
                    kept = there.st_mtime_ns == now
                    noted[digest] = stamp(there)
                else:
                    noted[digest] = _stamp(there.st_size, there.st_ino, now)
        self.add(noted)

    def add(self, stamps: Mapping[Digest, Stamp], anew: Container[Digest] | None = None) -> None:
        """These were verified. Needs the store's lock. Raises nothing: what cannot be noted is believed by its size.

        With `anew`, all others that have a record keep it: another process may have put the blob into the store since.
        """
        known = self._current()
        told = {
            key: seen
            for digest, seen in stamps.items()
            if (key := bytes.fromhex(digest.hex)) not in known or anew is None or digest in anew
        }
        if not told:
            return
        records = b"".join(starmap(_record, told.items()))
        try:
            with open(open_file(self._path, os.O_APPEND), "ab") as file:
                before = os.fstat(file.fileno())
                file.write(records)
                file.flush()
                after = os.fstat(file.fileno())
        except OSError as error:
            _warn((error.strerror or str(error)).lower())
            return
        with self._lock:  # what was just written need not be read again: that takes as long as a look at all blobs
            alone = after.st_size == before.st_size + len(records)
            if alone and self._stamps is known and (not before.st_size or self._read_at == _mark(before)):
                self._stamps, self._read_at = {**known, **told}, _mark(after)

    def compact(self) -> None:
        """Writes the file anew where most of it tells of blobs that are gone, or of nothing. Raises nothing."""
        lock = FileLock(self._layout.lock("store"))
        tmp = self._layout.pinned(uuid.uuid4().hex)
        with contextlib.suppress(OSError, StoreError, Starved):
            try:
                if lock.acquire():
                    make_folder(tmp)
                    self._compact(tmp)
            finally:
                remove_tree(tmp)
                lock.release()

    def _compact(self, tmp: Confined) -> None:
        raw = _read(self._path)
        here = set(os.listdir(self._layout.blobs))
        stamps = _parse(raw).items()
        kept = b"".join(_record(digest, seen) for digest, seen in stamps if f"sha256-{digest.hex()}" in here)
        if os.lstat(self._path).st_size > 2 * len(kept) + _SLACK_BYTES:
            write_file(self._layout.own / "verified", kept, tmp)

    def _current(self) -> Mapping[bytes, Stamp]:
        with self._lock:
            try:
                mark = _mark(os.lstat(self._path))
                if mark != self._read_at:
                    self._stamps = _parse(_read(self._path))
                    self._read_at = mark
            except OSError:
                self._stamps, self._read_at = {}, None
            return self._stamps


def stamp(there: os.stat_result) -> Stamp:
    """What a file is known by."""
    return _stamp(there.st_size, there.st_ino, there.st_mtime_ns)


def _stamp(size: int, inode: int, mtime: int) -> Stamp:
    return Stamp(_STAMP.pack(size, inode & _U64, mtime & _U64))


def stands_at(path: AnyPath, seen: Stamp) -> bool:
    """Whether that very file is there, whatever was written to it since."""
    inode: int
    try:
        _, inode, _ = _STAMP.unpack(seen)
        return os.stat(path).st_ino & _U64 == inode
    except OSError:
        return False


def _touch(path: str) -> int:
    """Sets the mtime, of a link its own, to now, in ns: the kernel's own now is the same for whatever is written within
    the next 4 ms. Where that is not allowed, it stays as it is. Returns what it was set to, 0 where that is not known.
    """
    now = time.time_ns()
    try:
        os.utime(path, ns=(now, now), follow_symlinks=False)
        return now
    except PermissionError:  # another user's file can only be set to the kernel's own now
        with contextlib.suppress(OSError):
            os.utime(path, follow_symlinks=False)
    except FileNotFoundError:
        raise
    except OSError:
        pass
    return 0


def _mark(there: os.stat_result) -> object:
    """By what it is known whether the file of the records is what it was."""
    return stamp(there), there.st_ctime_ns


def _record(digest: bytes, seen: Stamp) -> bytes:
    body = digest + seen
    return _RECORD.pack(_MAGIC, body[:32], seen, _checksum(body))


def _parse(raw: bytes) -> dict[bytes, Stamp]:
    """The records in it, whatever else is; the later one of a blob."""
    found: dict[bytes, Stamp] = {}
    at = raw.find(_MAGIC)
    while 0 <= at <= len(raw) - _RECORD.size:
        _, digest, seen, checksum = _RECORD.unpack_from(raw, at)
        if checksum == _checksum(digest + seen):
            found[digest] = Stamp(seen)
            at += _RECORD.size
        else:
            at += 1
        at = raw.find(_MAGIC, at)
    return found


def _checksum(body: bytes) -> int:
    return xxhash.xxh3_64_intdigest(body) & 0xFFFF_FFFF


def _read(path: Confined) -> bytes:
    with open(open_unlinked(path), "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _MOST_BYTES))
        return file.read(_MOST_BYTES)


@functools.cache
def _warn(why: str) -> None:
    _log.warning("what is verified cannot be noted in towline/verified, so later changes go unnoticed: %s", why)
