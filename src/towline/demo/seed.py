"""A model laid into an empty store by hand, as Ollama keeps it: for a daemon to serve to others."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from towline.model.digest import Digest
from towline.model.manifest import (
    CONFIG_TYPE,
    DOCKER_MANIFEST,
    LICENSE_LAYER,
    MODEL_LAYER,
    PARAMS_LAYER,
    TEMPLATE_LAYER,
    Descriptor,
    Manifest,
)
from towline.model.name import ModelName


@dataclass(frozen=True)
class Recipe:
    """What a model is made of, before it has digests. `weights` writes them into a file."""

    name: str
    weights: Callable[[BinaryIO], None]
    template: str
    license: str
    params: str
    config: Mapping[str, object]


def lay(store: Path, recipe: Recipe) -> Manifest:
    """Writes blobs and manifest; the folder may be missing, and nobody else may be writing there."""
    layers = [
        _put(store, MODEL_LAYER, recipe.weights),
        _put(store, TEMPLATE_LAYER, _text(recipe.template)),
        _put(store, LICENSE_LAYER, _text(recipe.license)),
        _put(store, PARAMS_LAYER, _text(recipe.params)),
    ]
    rootfs = {"type": "layers", "diff_ids": [str(layer.digest) for layer in layers]}
    config = _put(store, CONFIG_TYPE, _text(_json({**recipe.config, "rootfs": rootfs})))
    wire = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": _wire(config),
        "layers": [_wire(layer) for layer in layers],
    }
    manifest = Manifest.parse(_json(wire).encode())
    target = manifest_path(store, recipe.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(manifest.raw)
    return manifest


def manifest_path(store: Path, name: str) -> Path:
    """Where Ollama's layout has the manifest of a model."""
    parsed = ModelName.parse(name)
    return store / "manifests" / parsed.host / parsed.namespace / parsed.model / parsed.tag


def blob_path(store: Path, digest: Digest) -> Path:
    """Where it has a blob."""
    return store / "blobs" / digest.file_name


class _Hashing:
    """Passes bytes on to a file and knows their digest."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self.size += len(data)
        return self._file.write(data)

    @property
    def digest(self) -> Digest:
        return Digest(self._hash.hexdigest())


def _put(store: Path, media_type: str, write: Callable[[BinaryIO], None]) -> Descriptor:
    store.joinpath("blobs").mkdir(parents=True, exist_ok=True)
    incoming = store / "incoming"
    with incoming.open("wb") as file:
        hashing = _Hashing(file)
        write(hashing)  # type: ignore[arg-type] # all that the writers use is `write`
    os.replace(incoming, blob_path(store, hashing.digest))
    return Descriptor(media_type, hashing.digest, hashing.size)


def _text(text: str) -> Callable[[BinaryIO], None]:
    def write(file: BinaryIO) -> None:
        file.write(text.encode())

    return write


def _wire(blob: Descriptor) -> dict[str, object]:
    return {"mediaType": blob.media_type, "digest": str(blob.digest), "size": blob.size}


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
