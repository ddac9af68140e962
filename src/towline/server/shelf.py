"""The store seen as a registry's repositories."""

from __future__ import annotations

from towline.errors import InvalidName
from towline.model.digest import Digest
from towline.model.manifest import Descriptor
from towline.model.name import DEFAULT_HOST
from towline.server.oci import Repository
from towline.store.store import Store, StoredModel


class Shelf:
    """What may be served: models that a registry could have sent. Blocking; may be used from several threads.

    Nothing but the list of repositories looks at more than one of them, however many the store has.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def tagged(self, repository: Repository, tag: str) -> StoredModel | None:
        """The model behind a tag."""
        try:
            names = repository.names(tag)
        except InvalidName:
            return None  # no such tag can exist
        found = (self._store.find(name) for name in names)
        return next((model for model in found if model and _servable(model)), None)

    def manifest(self, repository: Repository, digest: Digest) -> StoredModel | None:
        """The model of this repository whose manifest has this digest."""
        return next((model for model in self.models(repository) if model.manifest.digest == digest), None)

    def blob(self, repository: Repository, digest: Digest) -> Descriptor | None:
        """The blob, if it is here and a manifest of this repository names it: others are none of its business."""
        if not self._store.has_blob(digest):
            return None
        named = (model.manifest.blob(digest) for model in self.models(repository))
        return next(filter(None, named), None)

    def models(self, repository: Repository) -> list[StoredModel]:
        """The models of a repository, as they are now."""
        return [model for name in repository.names() for model in self._store.tags(name) if _servable(model)]

    def repositories(self, host: str = DEFAULT_HOST) -> list[str]:
        """`namespace/model` of all that came from this registry host, sorted."""
        models = (model for model in self._store.list() if _servable(model))
        return sorted({model.name.repository for model in models if model.name.host.lower() == host.lower()})


def _servable(model: StoredModel) -> bool:
    return model.manifest.config is not None
