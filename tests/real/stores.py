"""What is in a store on disk, looked at from outside."""

from __future__ import annotations

from pathlib import Path

from tests.support.models import Blob, Model
from towline.demo.seed import blob_path, manifest_path


def check_stored(store: Path, name: str, model: Model) -> None:
    """Asserts that the store holds the model under this name, byte for byte."""
    assert manifest_path(store, name).read_bytes() == model.manifest
    for blob in model.blobs:
        assert blob_path(store, blob.digest).read_bytes() == blob.data, f"{blob} is stored with other bytes"


def published(store: Path) -> list[Path]:
    """Every manifest and every blob that a reader of the store would find."""
    manifests = [path for path in store.glob("manifests/**/*") if path.is_file()]
    return manifests + [path for path in store.glob("blobs/*") if path.is_file()]


def holds(store: Path, blob: Blob) -> bool:
    """Whether a reader of the store would find this blob."""
    return blob_path(store, blob.digest).exists()
