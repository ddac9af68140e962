"""docker-registry over a storage folder that is filled directly: pushing 5,000 layers takes minutes."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.docker_registry import DockerRegistry
from tests.support.models import Model

from bench.workspace import Workspace
from towline.model.digest import Digest


class Depot:
    """A running docker-registry."""

    def __init__(self, work: Workspace) -> None:
        self._work = work
        self._directory = work.fresh("docker-registry")
        self._registry = DockerRegistry(self._directory)
        self.host, self.port = self._registry.host, self._registry.port

    def hold(self, model: Model, repository: str) -> str:
        """Has the model from now on, filed as the registry itself files it; returns its name with host and port."""
        base = self._directory / "storage/docker/registry/v2"
        home = base / "repositories" / repository
        for blob in model.blobs:
            self._work.place(blob, base / "blobs/sha256" / blob.digest.hex[:2] / blob.digest.hex / "data")
            _link(home / "_layers/sha256" / blob.digest.hex / "link", blob.digest)
        digest = model.digest
        data = base / "blobs/sha256" / digest.hex[:2] / digest.hex / "data"
        data.parent.mkdir(parents=True, exist_ok=True)
        data.write_bytes(model.manifest)
        _link(home / "_manifests/revisions/sha256" / digest.hex / "link", digest)
        _link(home / "_manifests/tags/latest/current/link", digest)
        _link(home / "_manifests/tags/latest/index/sha256" / digest.hex / "link", digest)
        return f"{self.host}/{repository}:latest"

    def close(self) -> None:
        """Ends it and removes its files."""
        self._registry.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _link(path: Path, digest: Digest) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(str(digest))
