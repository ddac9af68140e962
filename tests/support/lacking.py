"""A file system that lacks what it is told to lack, for real: the kernel passes its calls to this process (FUSE).

As a program, `python -m tests.support.lacking FOLDER MOUNTPOINT RULES`, it shows a folder and refuses what the rules
say: a JSON file of the operation's name in FUSE and the number of the error, read again at each call. Beside those
`colon` refuses names with a colon, and `space`, of any value, says that the free space is not told.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mfusepy

from tests.support.components import lacking, require

_CREATING = ("create", "mkdir", "mknod", "rename", "link", "symlink")


class LackingDisk:
    """Such a file system, mounted at `path`."""

    def __init__(self, path: Path, beneath: Path, rules: Path) -> None:
        self.path = path
        self.beneath = beneath
        """The folder that it shows: what is done there it does not see, nor refuse."""
        self._rules = rules

    def refuse(self, **rules: int) -> None:
        """Answers these operations with these errors from now on, and no others."""
        new = self._rules.with_suffix(".new")
        new.write_text(json.dumps(rules))
        new.rename(self._rules)


@contextlib.contextmanager
def lacking_disk(path: Path, **rules: int) -> Iterator[LackingDisk]:
    """Mounts one at `path`; where that cannot be done the test is skipped, or with CI=true failed."""
    require("fusermount3")
    beneath, told = path.with_name(f"{path.name}-beneath"), path.with_name(f"{path.name}-rules")
    for folder in (path, beneath):
        folder.mkdir(parents=True)
    disk = LackingDisk(path, beneath, told)
    disk.refuse(**rules)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.lacking", beneath, path, told], stderr=subprocess.PIPE, text=True
    )
    try:
        _wait_until_mounted(path, process)
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", path], capture_output=True)
        process.terminate()
        process.communicate()


def _wait_until_mounted(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while not os.path.ismount(path):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            lacking(f"a FUSE file system cannot be mounted: {process.communicate()[1].strip()[-300:]}")
        time.sleep(0.02)


def main() -> None:
    """The file system, until it is unmounted."""
    beneath, mountpoint, rules = sys.argv[1:]
    mfusepy.FUSE(_Showing(beneath, rules), mountpoint, foreground=True, nothreads=True, hard_remove=True, use_ino=True)


def _refusable(operation: Callable[..., Any]) -> Callable[..., Any]:
    """The operation, unless the rules refuse it."""
    name = operation.__name__

    @functools.wraps(operation)
    def answer(disk: _Showing, *arguments: Any) -> Any:
        code = disk.rules().get(name, 0)
        if not code and name in _CREATING and any(isinstance(each, str) and ":" in each for each in arguments):
            code = disk.rules().get("colon", 0)
        if code:
            raise mfusepy.FuseOSError(code)
        answered = operation(disk, *arguments)
        return 0 if answered is None else answered

    return answer


_NOW, _SAME = (1 << 30) - 1, (1 << 30) - 2
"""UTIME_NOW and UTIME_OMIT, in the place of nanoseconds."""


class _Showing(mfusepy.Operations):  # type: ignore[misc]
    use_ns = True

    def __init__(self, beneath: str, rules: str) -> None:
        self._beneath = beneath
        self._rules = Path(rules)

    def rules(self) -> dict[str, int]:
        rules: dict[str, int] = json.loads(self._rules.read_text())
        return rules

    def _real(self, path: str) -> str:
        return f"{self._beneath}{path}"

    @_refusable
    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        found = os.lstat(self._real(path)) if fh is None else os.fstat(fh)
        times = {f"st_{kind}time": getattr(found, f"st_{kind}time_ns") for kind in "amc"}
        kinds = ("mode", "ino", "dev", "nlink", "uid", "gid", "size", "blocks")
        return times | {f"st_{kind}": getattr(found, f"st_{kind}") for kind in kinds}

    @_refusable
    def readdir(self, path: str, fh: int) -> list[tuple[str, dict[str, int], int]]:
        found = [(each.name, each.stat(follow_symlinks=False)) for each in os.scandir(self._real(path))]
        return [(name, {"st_mode": there.st_mode, "st_ino": there.st_ino}, 0) for name, there in found]

    @_refusable
    def readlink(self, path: str) -> str:
        return os.readlink(self._real(path))

    @_refusable
    def create(self, path: str, mode: int, flags: int) -> int:
        return os.open(self._real(path), os.O_RDWR | os.O_CREAT | (flags & os.O_EXCL), mode)

    @_refusable
    def open(self, path: str, flags: int) -> int:
        return os.open(self._real(path), flags & (os.O_ACCMODE | os.O_TRUNC))

    @_refusable
    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    @_refusable
    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        return os.pwrite(fh, data, offset)

    @_refusable
    def release(self, path: str, fh: int) -> None:
        os.close(fh)

    @_refusable
    def fsync(self, path: str, datasync: int, fh: int) -> None:
        pass

    @_refusable
    def fsyncdir(self, path: str, datasync: int, fh: int) -> None:
        pass

    @_refusable
    def flock(self, path: str, fh: int, op: int) -> None:
        fcntl.flock(fh, op | fcntl.LOCK_NB)

    @_refusable
    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        os.truncate(self._real(path) if fh is None else fh, length)

    @_refusable
    def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
        there = os.lstat(self._real(path))
        before = (there.st_atime_ns, there.st_mtime_ns)
        meant = [{_NOW: time.time_ns(), _SAME: old} for old in before]
        accessed, modified = (known.get(new, new) for known, new in zip(meant, times or (_NOW, _NOW), strict=True))
        os.utime(self._real(path), ns=(accessed, modified), follow_symlinks=False)

    @_refusable
    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._real(path), mode)

    @_refusable
    def chown(self, path: str, uid: int, gid: int) -> None:
        os.chown(self._real(path), uid, gid, follow_symlinks=False)

    @_refusable
    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self._real(path), mode)

    @_refusable
    def unlink(self, path: str) -> None:
        os.unlink(self._real(path))

    @_refusable
    def rmdir(self, path: str) -> None:
        os.rmdir(self._real(path))

    @_refusable
    def rename(self, old: str, new: str) -> None:
        os.rename(self._real(old), self._real(new))

    @_refusable
    def link(self, target: str, source: str) -> None:
        os.link(self._real(source), self._real(target))

    @_refusable
    def statfs(self, path: str) -> dict[str, int]:
        if "space" in self.rules():
            return {}
        found = os.statvfs(self._real(path))
        return {key: getattr(found, key) for key in dir(found) if key.startswith("f_") and key != "f_fsid"}


if __name__ == "__main__":
    main()
