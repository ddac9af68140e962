"""Where a run keeps its files, and the models that it pulls."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.certificates import Authority
from tests.support.models import Blob, Model, texts

from bench.scale import Scale
from towline.demo.generated import write_gguf
from towline.model.digest import Digest
from towline.model.manifest import MODEL_LAYER

MEMORY = Path("/dev/shm")
DISK = Path(__file__).parent / "out"


class Workspace:
    """A folder on tmpfs and one on disk, both gone at the end. The big file is made when it is first asked for."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        DISK.mkdir(exist_ok=True)
        self.memory = Path(tempfile.mkdtemp(prefix="towline-bench-", dir=MEMORY))
        self.disk = Path(tempfile.mkdtemp(prefix="work-", dir=DISK))
        self._made = 0
        self._files: dict[Digest, Path] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.memory, ignore_errors=True)
        shutil.rmtree(self.disk, ignore_errors=True)

    def fresh(self, name: str, *, on_disk: bool = False) -> Path:
        """A folder that nobody had before; whoever asked removes it where its bytes would be in the way."""
        self._made += 1
        path = (self.disk if on_disk else self.memory) / f"{name}-{self._made}"
        path.mkdir()
        return path

    @functools.cached_property
    def authority(self) -> Authority:
        """Certificates for the servers that speak TLS."""
        return Authority.create(self.memory / "authority")

    @functools.cached_property
    def big_file(self) -> Path:
        """The weights of `big_model`, on tmpfs."""
        path = self.memory / "big.gguf"
        write_gguf(path, size=self.scale.size)
        return path

    @functools.cached_property
    def big_model(self) -> Model:
        """One layer of weights of the scale's size, and the small ones beside it."""
        return Model.of([self._weights(self.big_file), *texts()])

    def cut(self, size: int, seed: int) -> Model:
        """A model whose weights are a file of this size, made for it."""
        path = self.memory / f"cut-{size}-{seed}.gguf"
        if not path.exists():
            write_gguf(path, size=size, seed=seed)
        return Model.of([self._weights(path), *texts(seed)])

    @functools.cached_property
    def crowd(self) -> Model:
        """A model of the scale's many layers of 4 KiB."""
        return Model.of([Blob.of(MODEL_LAYER, os.urandom(4096)) for _ in range(self.scale.layers)])

    def place(self, blob: Blob, target: Path) -> None:
        """Has the blob's bytes at `target`: a further name of its file where there is one, else a copy."""
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            return
        if source := self._files.get(blob.digest):
            os.link(source, target)
        else:
            target.write_bytes(blob.content)

    def _weights(self, path: Path) -> Blob:
        blob = Blob.from_file(MODEL_LAYER, path)
        self._files[blob.digest] = path
        return blob


def settle(path: Path) -> None:
    """Removes a folder and lets the system take the memory back before the next one is timed."""
    shutil.rmtree(path, ignore_errors=True)
    time.sleep(0.05)
