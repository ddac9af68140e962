"""Another program over the same store that cleans up as an Ollama does, only more eagerly.

`python -m tests.chaos.foreign STORE` deletes every file of `blobs/` that no manifest names and every empty folder of
manifests, again and again until its input ends; then it prints how many of each it deleted.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.chaos.arena import manifests
from towline.model.digest import Digest
from towline.model.name import ModelName
from towline.store.layout import Layout
from towline.store.references import digests_in

_ROOT = Path(__file__).parents[2]


def remove(store: Path, name: str) -> None:
    """What `ollama rm` does: the manifest goes, and each of its layers that no other manifest names."""
    layout = Layout(store)
    path = layout.manifest(ModelName.parse(name))
    candidates = digests_in(path.read_bytes())
    path.unlink()
    for digest in candidates - _named(layout):
        Path(layout.blob(digest)).unlink(missing_ok=True)


class Cleaner:
    """The other program, at work inside the `with`."""

    def __init__(self, store: Path) -> None:
        self.rounds = self.files = self.folders = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.foreign", store],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Self:
        assert self._process.stdout
        assert self._process.stdout.readline() == b"at work\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        told, _ = self._process.communicate()
        if kind is None:
            assert self._process.returncode == 0, "the other program failed"
            self.rounds, self.files, self.folders = json.loads(told)


def clean(layout: Layout) -> tuple[int, int]:
    """One round; the files and folders that it deleted."""
    files = folders = 0
    present = os.listdir(layout.blobs)
    named = {digest.file_name for digest in _named(layout)}
    for name in present:
        path = layout.blobs / name
        if name not in named and path.is_file():
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
                files += 1
    for folder, _, _ in os.walk(layout.manifests, topdown=False):
        if folder != str(layout.manifests):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
                folders += 1
    return files, folders


def _named(layout: Layout) -> set[Digest]:
    named: set[Digest] = set()
    for path in manifests(layout):
        with contextlib.suppress(FileNotFoundError):
            named |= digests_in(path.read_bytes())
    return named


def main() -> None:
    """See the module."""
    layout = Layout(Path(sys.argv[1]))
    rounds = files = folders = 0
    sys.stdout.write("at work\n")
    sys.stdout.flush()
    while not select.select([sys.stdin], [], [], 0)[0]:
        with contextlib.suppress(FileNotFoundError):
            more = clean(layout)
            rounds, files, folders = rounds + 1, files + more[0], folders + more[1]
    sys.stdout.write(json.dumps([rounds, files, folders]))


if __name__ == "__main__":
    main()
