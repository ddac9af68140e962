"""Small disks, for a while: file systems in memory."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.components import lacking


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of `size` bytes at `folder`.

    Where it cannot be mounted, the test is skipped, or with CI=true failed: there the tests run as root.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes=10000", "towline-test", folder],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        lacking(f"a file system for the test cannot be mounted: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True, capture_output=True)


@contextlib.contextmanager
def loop_disk(folder: Path, image: Path) -> Iterator[Path]:
    """An ext4 on a device of its own, 256 MiB in the file `image`, at `folder`; skipped as `small_disk` is."""
    folder.mkdir(parents=True, exist_ok=True)
    with image.open("wb") as file:
        file.truncate(256 << 20)
    commands: list[list[str | Path]] = [["mkfs.ext4", "-q", image], ["mount", "-o", "loop", image, folder]]
    for command in commands:
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            lacking(f"{command[0]} is missing")
        if done.returncode != 0:
            lacking(f"a file system for the test cannot be made: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True, capture_output=True)


def make_read_only(folder: Path) -> None:
    """Whatever is mounted there cannot be written any more."""
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True, capture_output=True)


class ThinDisk:
    """An ext4 that promises more than its device has: it takes every byte, and loses some when it has to keep them."""

    def __init__(self, folder: Path) -> None:
        self._device = folder
        self.mounted = folder / "mounted"

    def grow(self, size: int) -> None:
        """The device has `size` bytes from now on."""
        _run("mount", "-o", f"remount,size={size}", self._device)


@contextlib.contextmanager
def thin_disk(folder: Path, *, promised: int, size: int) -> Iterator[ThinDisk]:
    """A disk of `promised` bytes on a device of `size`. Where it cannot be mounted: as `small_disk`."""
    with small_disk(folder, size):
        disk = ThinDisk(folder)
        disk.mounted.mkdir()
        image = folder / "image"
        with image.open("wb") as file:
            file.truncate(promised)
        _run("mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-E", "lazy_itable_init=0", "-N", "256", image)
        done = subprocess.run(
            ["mount", "-o", "loop,errors=continue", image, disk.mounted], capture_output=True, text=True
        )
        if done.returncode != 0:
            lacking(f"a disk for the test cannot be mounted: {done.stderr.strip()}")
        try:
            yield disk
        finally:
            subprocess.run(["umount", "--lazy", disk.mounted], check=True, capture_output=True)


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True)
