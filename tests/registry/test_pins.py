"""A pinned digest lets in the manifest that has it, and no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.models import tiny
from tests.support.registry import FaultRegistry
from towline.errors import InvalidManifest
from towline.model.digest import Digest
from towline.model.manifest import OCI_INDEX
from towline.model.name import ModelName
from towline.registry.client import Registry
from towline.settings import Settings


@pytest.fixture
def client(tmp_path: Path) -> Registry:
    return Registry(Settings(models=tmp_path))


def test_an_index_with_the_pinned_digest_lets_no_other_manifest_in(registry: FaultRegistry, client: Registry) -> None:
    model = tiny()
    name = registry.add(model, "library/pinned")
    entry = {"mediaType": "", "digest": str(model.digest), "size": len(model.manifest)}
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
    registry.put_manifest("library/pinned", "index", index, OCI_INDEX)
    with client.call() as call, pytest.raises(InvalidManifest):
        client.resolve(call, ModelName.parse(f"{name}@{Digest.of(index)}"))
    client.close()


def test_the_pinned_manifest_comes_though_its_tag_moved_on(registry: FaultRegistry, client: Registry) -> None:
    old, new = tiny(1), tiny(2)
    registry.add(old, "library/pinned")
    name = registry.add(new, "library/pinned")
    registry.put_manifest("library/pinned", "old", old.manifest)
    with client.call() as call:
        resolved = client.resolve(call, ModelName.parse(f"{name}@{old.digest}"))
    client.close()
    assert resolved.manifest.digest == old.digest
