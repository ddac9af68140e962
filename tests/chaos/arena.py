"""Where one fault is made: a folder of its own, a registry, and the dice."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from tests.support.daemon import Daemon
from tests.support.models import Model
from tests.support.registry import FaultRegistry
from towline.model.digest import Digest
from towline.model.name import ModelName
from towline.store.layout import Layout
from towline.store.references import digests_in

T = TypeVar("T")


class Arena:
    """A context manager; at its end everything that was started in it is gone."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.seed = seed
        self.random = random.Random(seed)
        self._numbers = itertools.count()
        self._stack = ExitStack()
        self.registry = FaultRegistry()

    def __enter__(self) -> Self:
        self.registry = self.enter(self.registry)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def enter(self, context: AbstractContextManager[T]) -> T:
        """Whatever it is ends with the arena."""
        return self._stack.enter_context(context)

    def new_store(self) -> Path:
        """A path where nothing is yet."""
        return self.folder / f"models-{next(self._numbers)}"

    def daemon(self, store: Path, **settings: str) -> Daemon:
        """A `towline serve` over this store; `settings` are variables without their `TOWLINE_`."""
        environment = {f"TOWLINE_{name.upper()}": value for name, value in settings.items()}
        return Daemon(store, self.folder / "daemons", environment=environment)


def check_store(store: Path) -> set[str]:
    """Asserts that no blob is wrong and no manifest names one that is missing; the models that are there."""
    layout = Layout(store)
    for path in layout.blobs.glob("sha256-*"):
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        assert path.name == f"sha256-{found}", f"{path.name} is under blobs/ with other bytes, {path.stat().st_size}"
    models = set()
    for path in manifests(layout):
        named = digests_in(path.read_bytes())
        assert named, f"{path} is a manifest without any blob"
        for digest in named:
            assert Path(layout.blob(digest)).exists(), f"{path} names {digest}, which is missing"
        models.add(str(path.relative_to(layout.manifests)))
    return models


def check_model(store: Path, name: str, model: Model) -> None:
    """Asserts that the store holds the model, byte for byte."""
    layout = Layout(store)
    assert layout.manifest(ModelName.parse(name)).read_bytes() == model.manifest
    for blob in model.blobs:
        path = Path(layout.blob(blob.digest))
        assert path.stat().st_size == blob.size, f"{blob} has another size"
        assert Digest.of(path.read_bytes()) == blob.digest, f"{blob} is stored with other bytes"


def manifests(layout: Layout) -> Iterator[Path]:
    """Every manifest file."""
    return (path for path in layout.manifests.glob("*/*/*/*") if path.is_file())
