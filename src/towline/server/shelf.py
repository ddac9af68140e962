"""The store seen as a registry's repositories."""

from __future__ import annotations

import threading
import time

from towline.errors import InvalidName
from towline.model.digest import Digest
from towline.model.manifest import Descriptor
from towline.model.name import DEFAULT_HOST
from towline.server.oci import Repository
from towline.store.store import Store, StoredModel

FRESH = 1.0
"""Seconds for which a look at the store serves: a blob is asked for in many ranges, and each would read every
manifest again. What is not found is always looked for anew."""


class Shelf:
    """What may be served. Blocking; may be used from several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._models: list[StoredModel] = []
        self._seen = float("-inf")

    def tagged(self, repository: Repository, tag: str) -> StoredModel | None:
        """The model behind a tag."""
        try:
            names = repository.names(tag)
        except InvalidName:
            return None  # no such tag can exist
        return next((model for name in names if (model := self._store.find(name))), None)

    def manifest(self, repository: Repository, digest: Digest) -> StoredModel | None:
        """The model of this repository whose manifest has this digest."""
        return next((model for model in self.models(repository) if model.manifest.digest == digest), None)

    def blob(self, repository: Repository, digest: Digest) -> Descriptor | None:
        """The blob, if a manifest of this repository names it: others of the store are none of its business."""
        return self._named(repository, self._recent(), digest) or self._named(repository, self._look(), digest)

    def models(self, repository: Repository) -> list[StoredModel]:
        """The models of a repository, as they are now."""
        return self._of(repository, self._look())

    def repositories(self, host: str = DEFAULT_HOST) -> list[str]:
        """`namespace/model` of all that came from this registry host, sorted."""
        return sorted({model.name.repository for model in self._look() if model.name.host.lower() == host.lower()})

    def _named(self, repository: Repository, models: list[StoredModel], digest: Digest) -> Descriptor | None:
        for model in self._of(repository, models):
            if blob := next((blob for blob in model.manifest.blobs if blob.digest == digest), None):
                return blob
        return None

    def _of(self, repository: Repository, models: list[StoredModel]) -> list[StoredModel]:
        wanted = {name.key[:3] for name in repository.names()}
        return [model for model in models if model.name.key[:3] in wanted]

    def _recent(self) -> list[StoredModel]:
        with self._lock:
            if time.monotonic() - self._seen < FRESH:
                return self._models
        return self._look()

    def _look(self) -> list[StoredModel]:
        models = self._store.list()
        with self._lock:
            self._models, self._seen = models, time.monotonic()
        return models
