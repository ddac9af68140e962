"""The store: which models are here, and how another one comes in."""

from __future__ import annotations

import builtins
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from towline.errors import InvalidName, StoreError, store_error
from towline.files.confined import make_folder
from towline.files.regular import has_file, is_file
from towline.model.digest import Digest
from towline.model.manifest import MODEL_LAYER, Manifest
from towline.model.name import ModelName
from towline.store.abilities import probe, takes_colons
from towline.store.adoption import Leftovers
from towline.store.durable import make_folders
from towline.store.index import Index, StoredModel
from towline.store.layout import Layout
from towline.store.publication import Publication
from towline.store.recheck import Recheck
from towline.store.rekey import rekey
from towline.store.sweep import sweep
from towline.store.unused import Unused
from towline.store.verified import Verified

__all__ = ["Store", "StoredModel"]


class Store:
    """The folder at `root`, shared with other towlines and an Ollama. Safe from many threads and processes."""

    def __init__(self, root: Path, *, noprune: bool = False, staging_ttl: float = 14 * 86400.0) -> None:
        self.root = root
        self._staging_ttl = staging_ttl
        self._layout = Layout(root)
        self._verified = Verified(self._layout)
        self._unused = Unused(self._layout, keep=noprune)
        self._leftovers = Leftovers(self._layout)
        self._index = Index(self._layout)
        self._preparing = threading.Lock()
        self._prepared = False

    def prepare(self) -> None:
        """Makes the folders, sees that they can be written, clears left-overs. Raises StoreError.

        Whoever brings a model in need not call it: the first publication does.
        """
        with self._preparing:
            self._prepare()

    def _prepare(self) -> None:
        try:
            self._make_folders()
        except (FileNotFoundError, NotADirectoryError, FileExistsError):
            raise self._no_place(self._in_the_way) from None
        except OSError as error:
            raise StoreError(f"the store at {self.root} cannot be used: {store_error(error)}") from None
        rekey(self._layout)
        self.sweep()
        self._verified.compact()
        self._prepared = True

    def sweep(self) -> None:
        """Removes what processes left that are gone, and downloads that nobody came back to. At any time, also while
        models come in; may wait for the disk long.
        """
        sweep(self._layout, self._verified, staging_ttl=self._staging_ttl)
        self._leftovers.clear()

    def _make_folders(self) -> None:
        layout = self._layout
        for folder in (layout.blobs, layout.manifests):
            make_folders(folder, layout.root)
        for room in (layout.inside("staging"), layout.inside("pins"), layout.inside("locks")):
            make_folder(room)
        probe(layout)
        tmp = layout.for_manifests(layout.inside("locks").parent)
        make_folder(tmp)
        self._layout = replace(layout, colons=takes_colons(tmp))

    @property
    def _in_the_way(self) -> Path | None:
        """What is no folder, where one of the store's has to be."""
        for folder in (self._layout.blobs, self._layout.manifests):
            there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
            if not there.is_dir():
                return there
        return None

    def _no_place(self, in_the_way: Path | None) -> StoreError:
        what = f": {in_the_way} is no folder" if in_the_way is not None else ""
        return StoreError(f"the store at {self.root} cannot be made there{what}; set OLLAMA_MODELS to a folder")

    @property
    def readable(self) -> bool:
        """Whether there is a store: one that cannot be written may still be listed and served."""
        return self._layout.manifests.is_dir() and self._layout.blobs.is_dir()

    def list(self) -> list[StoredModel]:
        """Every model, newest first; what is no readable manifest is left out."""
        return sorted(self._index.all(), key=lambda model: -model.modified_ns)

    def find(self, name: ModelName) -> StoredModel | None:
        """The model of this name, without regard to case; a pinned digest must be its manifest's."""
        model = self._index.at(self._layout.manifest(name))
        if model is None or name.digest not in (None, model.manifest.digest):
            return None
        return model

    def tags(self, name: ModelName) -> builtins.list[StoredModel]:
        """The models that differ from this name in their tag alone, by tag."""
        return self._index.tags(self._layout.manifest(name).parent)

    def spelled(self, name: ModelName) -> ModelName:
        """The name as the store has it: each part that is there keeps its spelling. The pin stays."""
        try:
            return replace(self._layout.name_at(self._layout.manifest(name)), digest=name.digest)
        except InvalidName:
            return name

    def blob_path(self, digest: Digest) -> Path:
        """Where the blob lies, if it is here."""
        return Path(self._layout.blob(digest))

    def has_blob(self, digest: Digest, size: int | None = None) -> bool:
        """Whether the blob is here, of this size if one is given."""
        path = self._layout.blob(digest)
        return is_file(path) if size is None else has_file(path, size)

    def holds(self, name: ModelName, manifest: Manifest, check: Callable[[], None]) -> bool:
        """Whether the model of this name is here with this very manifest, and each of its blobs.

        Those that changed since they were verified are hashed; `check` is called all the time then, and may raise.
        """
        model = self.find(name)
        if model is None or model.manifest.digest != manifest.digest:
            return False
        look = self._verified.look(manifest.blobs)
        return not look.absent and all(
            Recheck(blob, self._layout.blob(blob.digest)).run(check) for blob in look.doubtful
        )

    def weights_path(self, model: StoredModel) -> Path | None:
        """The file of the weights, if the model has any and it is here."""
        layer = model.manifest.layer(MODEL_LAYER)
        return self.blob_path(layer.digest) if layer and self.has_blob(layer.digest) else None

    def publication(self, name: ModelName, manifest: Manifest, check: Callable[[], None] = lambda: None) -> Publication:
        """Begins to bring a model in; `check` is called again and again while others are waited for, and may raise.
        Raises StoreError.
        """
        with self._preparing:
            if not self._prepared:
                self._prepare()
        return self._publication(name, manifest, check)

    def outlook(self, name: ModelName, manifest: Manifest) -> Publication:
        """What it would take to bring a model in: to be looked at, not to be entered. Nothing is written. Raises
        StoreError where there can be no store.
        """
        if (in_the_way := self._in_the_way) is not None:
            raise self._no_place(in_the_way)
        return self._publication(name, manifest)

    def _publication(
        self, name: ModelName, manifest: Manifest, check: Callable[[], None] = lambda: None
    ) -> Publication:
        return Publication(
            self._layout,
            name,
            manifest,
            verified=self._verified,
            unused=self._unused,
            leftovers=self._leftovers,
            check=check,
        )
