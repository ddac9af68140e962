"""Looking at what came has to find what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from towline.demo import check, seed, tiny
from towline.errors import TowlineError
from towline.model.digest import Digest
from towline.model.manifest import Manifest


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with the generated model."""
    seed.lay(tmp_path, tiny.recipe())
    return tmp_path


@pytest.fixture
def manifest(store: Path) -> Manifest:
    """That model's."""
    return Manifest.parse(seed.manifest_path(store, tiny.NAME).read_bytes())


def test_a_right_store_is_verified(store: Path, manifest: Manifest) -> None:
    assert check.verify(store, tiny.NAME, manifest.digest) == manifest


def test_another_manifest_is_found(store: Path) -> None:
    with pytest.raises(TowlineError, match="manifest that was stored"):
        check.verify(store, tiny.NAME, Digest.of(b"another"))


@pytest.mark.parametrize("which", range(5))
def test_one_wrong_bit_is_found(store: Path, manifest: Manifest, which: int) -> None:
    path = seed.blob_path(store, manifest.blobs[which].digest)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(TowlineError, match=str(manifest.blobs[which].digest)):
        check.verify(store, tiny.NAME, manifest.digest)


def test_both_readers_tell_the_same(store: Path, manifest: Manifest) -> None:
    weights = seed.blob_path(store, manifest.layers[0].digest)
    package, own = check.read(weights), check._read_ourselves(weights)
    assert (package.reader, own.reader) != (own.reader, own.reader)
    assert (package.architecture, package.context_length, package.name, package.tensors) == (
        own.architecture,
        own.context_length,
        own.name,
        own.tensors,
    )


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"\0" * 4096)
    for read in (check.read, check._read_ourselves):
        with pytest.raises(TowlineError):
            read(tmp_path / "weights")
