"""A daemon that runs short of threads or memory for a while, by limits of the kernel's own."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.components import lacking
from tests.support.daemon import Usage

_PIDS = (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"))


@contextlib.contextmanager
def few_threads(pid: int, spare: int = 0) -> Iterator[None]:
    """The process gets `spare` threads more than it has, and none beyond them."""
    parent = next((path for path in _PIDS if os.access(path / "cgroup.procs", os.W_OK)), None)
    if parent is None:
        lacking("no cgroup of pids can be made here; it takes root")
    group = parent / f"towline-{pid}"
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(pid))
        (group / "pids.max").write_text(str(Usage.of(pid).threads + spare))
        yield
    finally:
        (parent / "cgroup.procs").write_text(str(pid))
        for _ in range(100):
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.05)


@contextlib.contextmanager
def little_memory(pid: int, spare: int) -> Iterator[None]:
    """The process gets `spare` bytes of address space more than it has."""
    before = resource.prlimit(pid, resource.RLIMIT_AS)
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    resource.prlimit(pid, resource.RLIMIT_AS, (pages * resource.getpagesize() + spare, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_AS, before)
