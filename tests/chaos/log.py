"""What was done to the files of a folder, in the order in which it was done."""

from __future__ import annotations

from dataclasses import dataclass

ROOT = 0
"""The number of the folder itself."""


@dataclass(frozen=True)
class Write:
    """Bytes of a file."""

    file: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class Truncate:
    """A file's length."""

    file: int
    size: int


@dataclass(frozen=True)
class Entries:
    """Names that change, in one step: folder, name, and the file or folder that it stands for now, if any."""

    changes: tuple[tuple[int, str, int | None], ...]


@dataclass(frozen=True)
class Sync:
    """A file, or a folder, that was made to last."""

    file: int


Operation = Write | Truncate | Entries | Sync


@dataclass
class Log:
    """The operations, and which of the numbers are folders."""

    operations: list[Operation]
    folders: set[int]
