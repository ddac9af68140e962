"""Listens at the file layer of this process: every call of `os` that changes something under a folder.

All of them go through one lock, so that the log has the order in which the disk saw them.
"""

from __future__ import annotations

import builtins
import io
import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from tests.chaos.log import ROOT, Entries, Log, Operation, Sync, Truncate, Write

_CALLS = ("open", "close", "pwrite", "write", "ftruncate", "fsync", "rename", "link", "unlink", "mkdir", "rmdir")


class Recorder:
    """A context manager: it listens inside the `with`. `root` is an empty folder, with its real path."""

    def __init__(self, root: str) -> None:
        self.log = Log([], {ROOT})
        self._root = root
        self._lock = threading.RLock()
        self._real: dict[str, Callable[..., Any]] = {name: getattr(os, name) for name in _CALLS}
        self._real_open = builtins.open
        self._paths: dict[str, int] = {root: ROOT}
        self._files: dict[int, int] = {}

    def __enter__(self) -> Self:
        for name in _CALLS:
            setattr(os, name, getattr(self, f"_{name}"))
        builtins.open = self._open_buffered
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        builtins.open = self._real_open
        for name, real in self._real.items():
            setattr(os, name, real)

    # The calls

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        full = self._full(path, dir_fd)
        if full is None:
            return int(self._real["open"](path, flags, mode, dir_fd=dir_fd))
        with self._lock:
            there = os.path.lexists(full)
            descriptor = int(self._real["open"](path, flags, mode, dir_fd=dir_fd))
            if not there:
                self._appear(full, folder=False)
            elif flags & os.O_TRUNC:
                self._note(Truncate(self._paths[full], 0))
            self._files[descriptor] = self._paths[full]
            return descriptor

    def _open_buffered(self, file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if isinstance(file, int):
            heard = file in self._files and bool(set(mode) & set("wxa+"))
            return _Writer(file) if heard else self._real_open(file, mode, *args, **kwargs)
        if self._full(file, None) is None or not set(mode) & set("wxa"):
            return self._real_open(file, mode, *args, **kwargs)
        flags = os.O_WRONLY | os.O_CREAT | {"w": os.O_TRUNC, "x": os.O_EXCL, "a": os.O_APPEND}[mode[0]]
        return _Writer(os.open(file, flags, 0o666))

    def _close(self, descriptor: int) -> None:
        with self._lock:
            self._files.pop(descriptor, None)
            self._real["close"](descriptor)

    def _pwrite(self, descriptor: int, data: Any, offset: int) -> int:
        with self._lock:
            count = int(self._real["pwrite"](descriptor, data, offset))
            self._wrote(descriptor, data, offset, count)
            return count

    def _write(self, descriptor: int, data: Any) -> int:
        if descriptor not in self._files:
            return int(self._real["write"](descriptor, data))
        with self._lock:
            count = int(self._real["write"](descriptor, data))
            self._wrote(descriptor, data, os.lseek(descriptor, 0, os.SEEK_CUR) - count, count)
            return count

    def _ftruncate(self, descriptor: int, size: int) -> None:
        with self._lock:
            self._real["ftruncate"](descriptor, size)
            if descriptor in self._files:
                self._note(Truncate(self._files[descriptor], size))

    def _fsync(self, descriptor: int) -> None:
        with self._lock:
            self._real["fsync"](descriptor)
            if descriptor in self._files:
                self._note(Sync(self._files[descriptor]))

    def _rename(
        self, source: Any, target: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
    ) -> None:
        with self._lock:
            self._real["rename"](source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
            old, new = self._full(source, src_dir_fd), self._full(target, dst_dir_fd)
            if old is not None and new is not None and not self._same(old, new):
                self._paths[new] = self._paths.pop(old)
                self._change((new, self._paths[new]), (old, None))

    def _link(
        self,
        source: Any,
        target: Any,
        *,
        src_dir_fd: int | None = None,
        dst_dir_fd: int | None = None,
        follow_symlinks: bool = True,
    ) -> None:
        with self._lock:
            places = {"src_dir_fd": src_dir_fd, "dst_dir_fd": dst_dir_fd}
            self._real["link"](source, target, **places, follow_symlinks=follow_symlinks)
            old, new = self._full(source, src_dir_fd), self._full(target, dst_dir_fd)
            if old is not None and new is not None:
                self._paths[new] = self._paths[old]
                self._change((new, self._paths[new]))

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._remove("unlink", path, dir_fd)

    def _rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._remove("rmdir", path, dir_fd)

    def _mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        with self._lock:
            self._real["mkdir"](path, mode, dir_fd=dir_fd)
            full = self._full(path, dir_fd)
            if full is not None:
                self._appear(full, folder=True)

    # What they mean

    def _remove(self, call: str, path: Any, dir_fd: int | None) -> None:
        with self._lock:
            full = self._full(path, dir_fd)
            self._real[call](path, dir_fd=dir_fd)
            if full is not None:
                del self._paths[full]
                self._change((full, None))

    def _wrote(self, descriptor: int, data: Any, offset: int, count: int) -> None:
        if descriptor in self._files:
            self._note(Write(self._files[descriptor], offset, bytes(memoryview(data)[:count])))

    def _appear(self, full: str, *, folder: bool) -> None:
        number = self._paths[full] = len(self.log.operations) + 1
        if folder:
            self.log.folders.add(number)
        self._change((full, number))

    def _change(self, *changes: tuple[str, int | None]) -> None:
        named = [(*os.path.split(full), number) for full, number in changes]
        self._note(Entries(tuple((self._paths[folder], name, number) for folder, name, number in named)))

    def _note(self, operation: Operation) -> None:
        self.log.operations.append(operation)

    def _same(self, old: str, new: str) -> bool:
        """Renaming one link of a file over another does nothing."""
        return self._paths.get(new) == self._paths[old]

    def _full(self, path: Any, dir_fd: int | None) -> str | None:
        """The path if it is under the folder."""
        folder = "" if dir_fd is None else os.readlink(f"/proc/self/fd/{dir_fd}")
        full = os.path.abspath(os.path.join(folder, os.fspath(path)))
        return full if full == self._root or full.startswith(f"{self._root}/") else None


class _Writer(io.RawIOBase):
    """A file that is only written, whose writes go through `os`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return os.write(self._descriptor, data)

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()
