"""Which files and folders are opened, as the interpreter itself tells."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_watched: list[tuple[str, list[str]]] = []


def _hook(event: str, args: tuple[object, ...]) -> None:
    if not _watched or event not in ("open", "os.listdir", "os.scandir") or not isinstance(args[0], str | os.PathLike):
        return
    path = os.fspath(args[0])
    for folder, seen in _watched:
        if str(path).startswith(folder):
            seen.append(str(path))


sys.addaudithook(_hook)


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[list[str]]:
    """The paths within this folder that any thread of this process opens or lists meanwhile, each time anew."""
    watch = (f"{folder}/", [])  # type: tuple[str, list[str]]
    _watched.append(watch)
    try:
        yield watch[1]
    finally:
        _watched.remove(watch)
