"""Looking at what a pull brought: is it what the manifest says, and is it a model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from towline.demo.seed import blob_path, manifest_path
from towline.errors import TowlineError
from towline.model.digest import Digest
from towline.model.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file of weights says about itself, and which reader read it."""

    reader: str
    architecture: str
    context_length: int
    name: str
    tensors: int


def verify(store: Path, name: str, expected: Digest) -> Manifest:
    """Hashes the manifest and every blob of the model again. Raises TowlineError where one is not what it must be."""
    manifest = Manifest.parse(manifest_path(store, name).read_bytes())
    if manifest.digest != expected:
        raise TowlineError(f"the manifest that was stored is {manifest.digest}, not {expected}")
    for blob in manifest.blobs:
        with blob_path(store, blob.digest).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != blob.digest.hex:
            raise TowlineError(f"the blob {blob.digest} in the store has the digest sha256:{found}")
    return manifest


def read(weights: Path) -> Facts:
    """Opens a GGUF with the `gguf` package, or without it by towline's own reader. Raises TowlineError."""
    try:
        import gguf
    except ImportError:
        return _read_ourselves(weights)
    try:
        reader = gguf.GGUFReader(weights)
    except ValueError as error:
        raise TowlineError(f"the gguf reader refuses the weights: {error}") from None
    architecture = str(reader.get_field("general.architecture").contents())
    return Facts(
        reader="the gguf package",
        architecture=architecture,
        context_length=int(reader.get_field(f"{architecture}.context_length").contents()),
        name=str(reader.get_field("general.name").contents()),
        tensors=len(reader.tensors),
    )


def _read_ourselves(weights: Path) -> Facts:
    from towline.model.gguf import read as read_gguf

    try:
        with weights.open("rb") as file:
            head = read_gguf(file)
    except ValueError as error:
        raise TowlineError(f"the weights cannot be read: {error}") from None
    context, name = head.own("context_length"), head.metadata.get("general.name", "")
    return Facts(
        reader="towline's own reader (pip install gguf for the other)",
        architecture=head.architecture,
        context_length=context if isinstance(context, int) else 0,
        name=name if isinstance(name, str) else "",
        tensors=head.tensor_count,
    )
