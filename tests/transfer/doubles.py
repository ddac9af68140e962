"""A source and a place for a blob that live in the test: for what no server can be made to do at the right moment."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Self

from towline.errors import Cancelled, SourceBusy
from towline.model.digest import Digest
from towline.patience import Patience
from towline.transfer.blob import BlobTransfer
from towline.transfer.pool import Handle, Pool
from towline.transfer.rate import Rate
from towline.transfer.work import Limits, Wanted

MIB = 1 << 20

HANGS = 60.0
"""Seconds for which whoever hangs does so: longer than any test waits for what must not wait for that."""


def content(size: int, seed: int = 0) -> bytes:
    """Bytes that are the same whenever they are asked for."""
    return random.Random(seed).randbytes(size)


class MemorySource:
    """A blob in memory. `before_read`, if given, runs before each read, with the stream, and may raise or block."""

    def __init__(
        self,
        data: bytes,
        *,
        name: str = "memory",
        step: int = MIB,
        before_read: Callable[[MemoryStream], None] | None = None,
    ) -> None:
        self.ranged = True
        self.data = data
        self.name = name
        self.step = step
        self.before_read = before_read
        self.lock = threading.Lock()
        self.open_now = 0
        self.most_open = 0
        self.sent = 0
        self.opened: list[tuple[int, int]] = []

    def __str__(self) -> str:
        return self.name

    def open(self, start: int, stop: int) -> MemoryStream:
        return MemoryStream(self, start, stop)


class MemoryStream:
    """One range of it."""

    def __init__(self, source: MemorySource, start: int, stop: int) -> None:
        self.source = source
        self.start = start
        self.at = start
        self.stop = stop
        self.cancelled = threading.Event()
        self.aside: AbstractContextManager[None] = nullcontext()
        self.waited = 0.0

    def __enter__(self) -> Self:
        with self.source.lock:
            self.source.open_now += 1
            self.source.most_open = max(self.source.most_open, self.source.open_now)
            self.source.opened.append((self.start, self.stop))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.source.lock:
            self.source.open_now -= 1

    def waits_within(self, aside: AbstractContextManager[None]) -> None:
        self.aside = aside

    def cancel(self) -> None:
        self.cancelled.set()

    def readinto(self, buffer: memoryview) -> int:
        if self.source.before_read:
            since = time.monotonic()
            with self.aside:
                self.source.before_read(self)
                if self.at == self.start:
                    self.waited = time.monotonic() - since
        if self.cancelled.is_set():
            raise Cancelled("the test cancelled")
        count = min(len(buffer), self.stop - self.at, self.source.step)
        buffer[:count] = self.source.data[self.at : self.at + count]
        self.at += count
        with self.source.lock:
            self.source.sent += count
        return count


class Storm:
    """A `before_read` that has connections break, stutter and take short steps, as a seed says."""

    def __init__(self, seed: int, *, trouble: float) -> None:
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._trouble = trouble

    def __call__(self, stream: MemoryStream) -> None:
        with self._lock:
            breaks = self._random.random() < self._trouble
            stutters = self._random.random() < self._trouble
            stream.source.step = self._random.choice([1000, 65536, 300_000, MIB])
        if stutters:
            stream.cancelled.wait(0.002)
        if breaks:
            raise SourceBusy("the storm broke the connection", retry_after=0.0)


class FolderStaging:
    """A place in a folder of the test. `held` tells whether its lock is; `finished` counts."""

    begun = True

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.held = False
        self.free = True
        self.finished = 0
        self.discarded = 0
        self.signs = 0

    @property
    def data_path(self) -> str:
        return str(self.folder / "data")

    @property
    def journal_path(self) -> str:
        return str(self.folder / "journal")

    @property
    def whole(self) -> Path:
        return self.folder / "whole"

    def is_whole(self) -> bool:
        return self.whole.exists()

    def acquire(self) -> bool:
        self.held = self.free
        return self.held

    def sign(self) -> None:
        self.signs += 1

    def last_sign(self) -> int:
        return self.signs

    def promised(self) -> int:
        return 0

    def leftover(self) -> list[tuple[int, int]]:
        return []

    def forget_leftover(self) -> None:
        pass

    def finish(self, file: int) -> None:
        self.finished += 1
        os.rename(self.data_path, self.whole)

    def read(self) -> bytes:
        path = Path(self.data_path)
        return path.read_bytes() if path.exists() else b""

    def write(self, data: memoryview) -> None:
        Path(self.data_path).write_bytes(data)

    def keep(self) -> None:
        self.finish(-1)

    def discard(self) -> None:
        self.discarded += 1
        for path in self.folder.iterdir():
            path.unlink()

    def release(self) -> None:
        self.held = False


class Downloads:
    """A pool, and the blobs that the test has it fetch. A context manager."""

    def __init__(
        self,
        folder: Path,
        *,
        connections: int = 8,
        per_host: int = 64,
        hashers: int = 2,
    ) -> None:
        self.folder = folder
        self.pool = Pool(
            connections=connections,
            hashers=hashers,
            limits=Limits(connections, 1.0, writeback=False),
            connections_per_host=per_host,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.close()
        left = [thread.name for thread in threading.enumerate() if thread.name.startswith("towline-")]
        assert not left, f"threads are left: {left}"

    def fetch(self, data: bytes, *sources: MemorySource, rate: Rate | None = None) -> Download:
        """Begins to fetch the blob of these bytes."""
        wanted, staging = self._wanted(data, sources)
        (handle,) = self.pool.fetch([wanted], object(), Patience(20.0), rate=rate)
        return Download(handle, staging)

    def fetch_all(self, blobs: Sequence[bytes], source: Callable[[bytes], MemorySource]) -> list[Download]:
        """Begins to fetch all these for one pull."""
        wanted = [self._wanted(data, [source(data)]) for data in blobs]
        handles = self.pool.fetch([each for each, _ in wanted], object(), Patience(20.0))
        return [Download(handle, staging) for handle, (_, staging) in zip(handles, wanted, strict=True)]

    def _wanted(self, data: bytes, sources: Sequence[MemorySource]) -> tuple[Wanted, FolderStaging]:
        digest = Digest(hashlib.sha256(data).hexdigest())
        staging = FolderStaging(self.folder / digest.short)
        return Wanted(digest, len(data), sources, staging), staging


class Download:
    """One blob under way."""

    def __init__(self, handle: Handle, staging: FolderStaging) -> None:
        self.handle = handle
        self.staging = staging
        self.over = threading.Event()
        handle.transfer.listen(self.over.set)

    @property
    def transfer(self) -> BlobTransfer:
        return self.handle.transfer

    def finish(self) -> bytes:
        """Waits for the end, which has to be good; the bytes."""
        assert self.over.wait(30), f"it does not end: {self.transfer.completed} bytes"
        if self.transfer.error is not None:
            raise self.transfer.error
        self.handle.close()
        assert self.transfer.completed == self.transfer.size
        return self.staging.whole.read_bytes()
