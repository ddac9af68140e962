"""What a disk holds after the power went at some moment: only what was synced is certain.

Of writes that were not synced each one alone is kept, dropped, or torn in sectors. Of names that were not, the first
few are kept, in order: over the whole disk as ext4's journal does it (`ordered`), or folder by folder, which is the
least that POSIX promises.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.log import ROOT, Entries, Log, Operation, Sync, Truncate, Write

SECTOR = 512

_Change = tuple[int, str, int | None]


def build(log: Log, moment: int, target: Path, dice: random.Random, *, ordered: bool) -> None:
    """Makes the folder `target` what the disk holds when the power goes after so many operations."""
    done = log.operations[:moment]
    changes = _ordered(done, dice) if ordered else _separate(done, dice)
    folders: dict[int, dict[str, int]] = defaultdict(dict)
    for folder, name, number in changes:
        if number is None:
            folders[folder].pop(name, None)
        else:
            folders[folder][name] = number
    made: dict[int, Path] = {}

    def put(number: int, path: Path) -> None:
        if number in log.folders:
            path.mkdir()
            for name, child in folders[number].items():
                put(child, path / name)
        elif number in made:
            path.hardlink_to(made[number])
        else:
            path.write_bytes(_content([each for each in done if _concerns(each, number)], dice))
            made[number] = path

    put(ROOT, target)


def _concerns(operation: Operation, number: int) -> bool:
    return isinstance(operation, Write | Truncate | Sync) and operation.file == number


def _ordered(done: Sequence[Operation], dice: random.Random) -> list[_Change]:
    """The names of one journal: whoever syncs a folder has all that came before written."""
    named = [each for each in done if isinstance(each, Entries)]
    touched = {folder for each in named for folder, _, _ in each.changes} | {ROOT}
    certain = count = 0
    for each in done:
        count += isinstance(each, Entries)
        if isinstance(each, Sync) and each.file in touched:
            certain = count
    return [change for each in named[: dice.randint(certain, len(named))] for change in each.changes]


def _separate(done: Sequence[Operation], dice: random.Random) -> list[_Change]:
    """The names of each folder on their own."""
    changes: dict[int, list[_Change]] = defaultdict(list)
    certain: dict[int, int] = defaultdict(int)
    for each in done:
        if isinstance(each, Entries):
            for change in each.changes:
                changes[change[0]].append(change)
        elif isinstance(each, Sync) and each.file in changes:
            certain[each.file] = len(changes[each.file])
    return [change for folder, all_ in changes.items() for change in all_[: dice.randint(certain[folder], len(all_))]]


def _content(done: Sequence[Operation], dice: random.Random) -> bytes:
    synced = max((at for at, each in enumerate(done) if isinstance(each, Sync)), default=-1)
    content = bytearray()
    sizes = [0]
    for at, each in enumerate(done):
        if isinstance(each, Truncate):
            _resize(content, each.size)
        elif isinstance(each, Write):
            if len(content) < each.offset + len(each.data):
                _resize(content, each.offset + len(each.data))
            for start, stop in [(0, len(each.data))] if at < synced else _kept(len(each.data), dice):
                content[each.offset + start : each.offset + stop] = each.data[start:stop]
        sizes = [*sizes, len(content)] if at > synced else [len(content)]
    _resize(content, dice.choice([sizes[0], sizes[-1], dice.choice(sizes)]))
    return bytes(content)


def _kept(length: int, dice: random.Random) -> list[tuple[int, int]]:
    """The parts of an un-synced write that reached the disk."""
    fate = dice.choice(("kept", "dropped", "torn"))
    if fate == "torn":
        sectors = [(at, min(at + SECTOR, length)) for at in range(0, length, SECTOR)]
        if dice.random() < 0.5:
            return [sector for sector in sectors if dice.random() < 0.5]
        return sectors[: dice.randint(0, len(sectors))]
    return [(0, length)] if fate == "kept" else []


def _resize(content: bytearray, size: int) -> None:
    del content[size:]
    content.extend(bytes(size - len(content)))
