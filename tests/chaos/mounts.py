"""File systems that can be filled, made read-only, and cut off from their disk. They need root."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

_SHUTDOWN = 0x8004587D
_NO_FLUSH = 2


def can_mount() -> bool:
    """Whether this machine lets us."""
    return os.geteuid() == 0 and os.path.exists("/dev/loop-control")


class Ext4:
    """An ext4 in a file; mounted inside the `mounted` of it."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self._image = folder.with_suffix(".img")
        folder.mkdir()
        with self._image.open("wb") as file:
            file.truncate(size)
        _run("mkfs.ext4", "-q", "-F", self._image)

    @contextlib.contextmanager
    def mounted(self) -> Iterator[Path]:
        """Mounts it; checks it on the way in as a machine does that starts."""
        done = subprocess.run(["e2fsck", "-fy", self._image], capture_output=True, text=True)
        assert done.returncode in (0, 1), done.stdout + done.stderr
        _run("mount", "-o", "loop,errors=remount-ro,commit=1", self._image, self.folder)
        try:
            yield self.folder
        finally:
            _run("umount", self.folder)

    def fail(self) -> None:
        """An error of the file system: the kernel makes it read-only at once, whoever has files open."""
        device = subprocess.check_output(["findmnt", "-no", "SOURCE", self.folder], text=True).strip()
        Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error").write_text("chaos")

    def cut(self) -> None:
        """What the journal has not written by now is lost, and nothing can be written any more."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _NO_FLUSH))
        finally:
            os.close(descriptor)


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True)
