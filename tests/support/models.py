"""Models as a registry holds them, made up, and the same ones whenever they are asked for."""

from __future__ import annotations

import functools
import io
import json
import mmap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from towline.demo.generated import write_gguf
from towline.model.digest import Digest
from towline.model.manifest import (
    CONFIG_TYPE,
    DOCKER_MANIFEST,
    LICENSE_LAYER,
    MODEL_LAYER,
    PARAMS_LAYER,
    TEMPLATE_LAYER,
)

SYSTEM_LAYER = "application/vnd.ollama.image.system"

_CONFIG: Mapping[str, object] = {
    "model_format": "gguf",
    "model_family": "llama",
    "model_families": ["llama"],
    "model_type": "135M",
    "file_type": "F32",
    "architecture": "amd64",
    "os": "linux",
}


@dataclass(frozen=True)
class Blob:
    """Bytes under their digest. `content` may lie in a file: it is mapped, not read."""

    media_type: str
    content: bytes | mmap.mmap = field(repr=False, compare=False)
    digest: Digest
    size: int

    @classmethod
    def of(cls, media_type: str, data: bytes | str) -> Self:
        """A blob of these bytes, or of this text."""
        data = data.encode() if isinstance(data, str) else data
        return cls(media_type, data, Digest.of(data), len(data))

    @classmethod
    def from_file(cls, media_type: str, path: Path) -> Self:
        """A blob of a file's content, which must stay as it is."""
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return cls(media_type, content, Digest.of(memoryview(content)), len(content))  # type: ignore[arg-type]

    @property
    def data(self) -> bytes:
        """All of it, in memory."""
        return self.content[:]

    @property
    def descriptor(self) -> dict[str, object]:
        """How a manifest names it."""
        return {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}


@dataclass(frozen=True)
class Model:
    """A model: its blobs, and the manifest's bytes, in the form in which Ollama's registry has them."""

    layers: tuple[Blob, ...]
    config: Blob
    manifest: bytes = field(repr=False)

    @classmethod
    def of(cls, layers: Iterable[Blob], **config: object) -> Self:
        """A model of these layers; `config` replaces fields of a small llama's."""
        layers = tuple(layers)
        rootfs = {"type": "layers", "diff_ids": [str(layer.digest) for layer in layers]}
        blob = Blob.of(CONFIG_TYPE, json.dumps({**_CONFIG, "rootfs": rootfs, **config}, separators=(",", ":")))
        manifest = {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": blob.descriptor,
            "layers": [layer.descriptor for layer in layers],
        }
        return cls(layers, blob, json.dumps(manifest, separators=(",", ":")).encode())

    @property
    def digest(self) -> Digest:
        """The manifest's."""
        return Digest.of(self.manifest)

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """Each distinct blob once: the layers in their order, then the config."""
        return tuple({blob.digest: blob for blob in (*self.layers, self.config)}.values())

    @property
    def weights(self) -> Blob:
        """The first layer that holds weights."""
        return next(layer for layer in self.layers if layer.media_type == MODEL_LAYER)

    @property
    def size(self) -> int:
        """Bytes of all distinct blobs: what a first pull fetches."""
        return sum(blob.size for blob in self.blobs)

    def with_layer(self, blob: Blob) -> Self:
        """The next version of this model: `blob` stands where the layers of its media type stood."""
        return type(self).of([layer for layer in self.layers if layer.media_type != blob.media_type] + [blob])

    def with_manifest(self, **fields: object) -> Self:
        """The same model under a manifest in which `fields` replace those of the top level."""
        return replace(self, manifest=json.dumps({**json.loads(self.manifest), **fields}).encode())


@functools.lru_cache(maxsize=8)
def weights(size: int, seed: int = 0) -> Blob:
    """A layer of weights: a GGUF of exactly `size` bytes, kept for the next who asks."""
    file = io.BytesIO()
    write_gguf(file, size=size, seed=seed)
    return Blob.of(MODEL_LAYER, file.getvalue())


def texts(seed: int = 0) -> tuple[Blob, ...]:
    """What stands beside the weights: template, license, system prompt and parameters."""
    return (
        Blob.of(TEMPLATE_LAYER, "{{ .System }} {{ .Prompt }}"),
        Blob.of(LICENSE_LAYER, "Permission is hereby granted, free of charge.\n" * 20),
        Blob.of(SYSTEM_LAYER, f"You are generated model number {seed}."),
        Blob.of(PARAMS_LAYER, '{"stop":["<|im_start|>","<|im_end|>"],"temperature":0.2}'),
    )


def generate(size: int = 8 << 20, *, layers: int = 1, seed: int = 0) -> Model:
    """A model whose `layers` layers of weights have `size` bytes together; the text layers come on top."""
    share, rest = divmod(size, layers)
    parts = [weights(share + (rest if index == 0 else 0), seed * 1000 + index) for index in range(layers)]
    return Model.of([*parts, *texts(seed)])


def tiny(seed: int = 0) -> Model:
    """A whole model of about 20 KB."""
    return generate(16 << 10, seed=seed)


def crowd(layers: int = 100, *, size: int = 4 << 10, seed: int = 0) -> Model:
    """A model of many small layers of `size` bytes each."""
    return generate(layers * size, layers=layers, seed=seed)
