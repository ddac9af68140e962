"""Manifests: what a model is made of."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated
from weakref import WeakValueDictionary

import msgspec

from towline.errors import InvalidManifest
from towline.model.digest import Digest

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"

MAX_MANIFEST_BYTES = 4 << 20
"""The OCI distribution specification asks registries to take at least this much. It has room for 20,000 layers of a
tensor each, as an Ollama names them, and for 37,000 with the shortest descriptors that can be.
"""

MAX_BLOB_BYTES = 1 << 46
"""64 TiB: more than any file system here would hold, little enough for every offset to fit its field."""

Int64 = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
"""What a Go program, and so an Ollama, reads as an `int`; more is no number to it."""

MODEL_LAYER = "application/vnd.ollama.image.model"
PROJECTOR_LAYER = "application/vnd.ollama.image.projector"
TEMPLATE_LAYER = "application/vnd.ollama.image.template"
PROMPT_LAYER = "application/vnd.ollama.image.prompt"  # what a template was called at first
LICENSE_LAYER = "application/vnd.ollama.image.license"
PARAMS_LAYER = "application/vnd.ollama.image.params"
TENSOR_LAYER = "application/vnd.ollama.image.tensor"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"


class Descriptor(msgspec.Struct, frozen=True):
    """A blob as a manifest names it; `size` is in bytes, from 0 to `MAX_BLOB_BYTES`.

    `origin` is what the layer was made from, a model's name or a file's, where the manifest says so (`from`).
    """

    media_type: str
    digest: Digest
    size: int
    origin: str = ""


class _WireDescriptor(msgspec.Struct):
    digest: str
    size: int
    media_type: str = msgspec.field(name="mediaType", default="")
    origin: str | None = msgspec.field(name="from", default=None)


class _Wire(msgspec.Struct):
    schema_version: int = msgspec.field(name="schemaVersion", default=2)
    media_type: str = msgspec.field(name="mediaType", default="")
    config: _WireDescriptor | None = None
    layers: list[_WireDescriptor] | msgspec.UnsetType | None = msgspec.UNSET
    manifests: list[_WireIndexEntry] | None = None


class _WirePlatform(msgspec.Struct):
    architecture: str = ""
    os: str = ""


class _WireIndexEntry(msgspec.Struct):
    digest: str
    size: int = 0
    media_type: str = msgspec.field(name="mediaType", default="")
    platform: _WirePlatform | None = None


class _FileDescriptor(msgspec.Struct):
    digest: str | None = None
    size: Int64 | None = None
    media_type: str | None = msgspec.field(name="mediaType", default=None)
    origin: str | None = msgspec.field(name="from", default=None)


class _File(msgspec.Struct):
    schema_version: int | None = msgspec.field(name="schemaVersion", default=None)
    media_type: str | None = msgspec.field(name="mediaType", default=None)
    config: _FileDescriptor | None = None
    layers: list[_FileDescriptor | None] | None = None


_decoder = msgspec.json.Decoder(_Wire)
_file_decoder = msgspec.json.Decoder(_File | None)

# The layers without which the list of an Ollama has nothing to say of a model.
_TELLING = (MODEL_LAYER, TEMPLATE_LAYER, PROMPT_LAYER)


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Manifest:
    """A model's manifest: the bytes as the registry sent them, and what they say.

    `layers` keeps the manifest's order, and is empty for a model that runs elsewhere; `blobs` has each distinct blob
    once, the layers in their order, then the config, which only a file that no registry sent may lack. `size` is the
    bytes of all layers and the config, as a list of models shows it: a blob that is named twice counts twice. `digest`
    is the SHA-256 of `raw`.
    """

    raw: bytes = field(repr=False)
    config: Descriptor | None
    layers: tuple[Descriptor, ...]
    blobs: tuple[Descriptor, ...] = field(repr=False)
    size: int
    digest: Digest
    _by_digest: Mapping[Digest, Descriptor] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, raw: bytes) -> Manifest:
        """Reads a Docker v2 or OCI image manifest.

        Raises InvalidManifest for anything that is not one, or whose digests or sizes cannot be: hostile bytes of any
        kind raise nothing else. The same bytes give the same manifest for as long as anybody has it.
        """
        digest = Digest.of(raw)
        known = _parsed.get(digest)
        if known is None:
            known = _parsed[digest] = cls._parse(raw, digest)
        return known

    @classmethod
    def _parse(cls, raw: bytes, digest: Digest) -> Manifest:
        wire = _decode(raw)
        if wire.manifests is not None and not isinstance(wire.layers, list):
            raise InvalidManifest(
                "the registry sent an index of several platforms, not one model; name the digest of one of its "
                "manifests: model@sha256:…"
            )
        if wire.config is None or wire.layers is msgspec.UNSET:
            missing = "config" if wire.config is None else "list of layers"
            raise InvalidManifest(f"the registry sent a manifest without a {missing}; it is not a model")
        layers = tuple(_descriptor(layer) for layer in wire.layers or ())
        config = _descriptor(wire.config)
        _one_size_each((*layers, config))
        return cls._of(raw, digest, layers, config, sum(blob.size for blob in (*layers, config)))

    @classmethod
    def stored(cls, raw: bytes) -> Manifest:
        """Reads a file of a store as the list of an Ollama reads it, which asks for less than a pull does.

        It may lack a config or layers, even be `{}`, and a layer whose digest is none is passed over, but for its size,
        unless the list would have to open it. Raises InvalidManifest, and nothing else, for what such a list hides.
        """
        digest = Digest.of(raw)
        if (known := _parsed.get(digest)) is not None:
            return known
        file = _decode_file(raw)
        named = [layer for layer in file.layers or () if layer is not None]
        layers = tuple(filter(None, (_stored_layer(layer) for layer in named)))
        config = _stored_layer(file.config, told=True) if file.config else None
        size = sum(layer.size or 0 for layer in (*named, file.config) if layer)
        return cls._of(raw, digest, layers, config, size)

    @classmethod
    def _of(
        cls, raw: bytes, digest: Digest, layers: tuple[Descriptor, ...], config: Descriptor | None, size: int
    ) -> Manifest:
        blobs = {blob.digest: blob for blob in (*layers, config) if blob}
        return cls(raw, config, layers, tuple(blobs.values()), size, digest, blobs)

    def blob(self, digest: Digest) -> Descriptor | None:
        """The blob of this digest, if it names one: found at once among thousands."""
        return self._by_digest.get(digest)

    def layer(self, media_type: str) -> Descriptor | None:
        """The first layer of this kind, if there is one."""
        return next((layer for layer in self.layers if layer.media_type == media_type), None)


_parsed: WeakValueDictionary[Digest, Manifest] = WeakValueDictionary()
"""Manifests of thousands of layers take long to read, and the same one is asked for again and again."""


def sole_entry(raw: bytes) -> Digest | None:
    """If `raw` is an index with exactly one entry that fits, its digest; None where it is no index at all.

    An entry fits when it is a manifest, not an attestation (those have the platform `unknown`). Raises
    InvalidManifest where none or several fit.
    """
    if Digest.of(raw) in _parsed:
        return None
    wire = _decode(raw)
    if wire.manifests is None or isinstance(wire.layers, list):
        return None
    fits = [
        entry
        for entry in wire.manifests
        if entry.media_type in (DOCKER_MANIFEST, OCI_MANIFEST, "")
        and (entry.platform is None or entry.platform.architecture != "unknown")
    ]
    if len(fits) != 1:
        raise InvalidManifest(
            f"the registry sent an index of {len(wire.manifests)} platforms, not one model; name the digest of one of "
            "its manifests: model@sha256:…"
        )
    return _digest(fits[0].digest)


def _decode_file(raw: bytes) -> _File:
    if len(raw) > MAX_MANIFEST_BYTES:
        raise InvalidManifest(f"the file is larger than {MAX_MANIFEST_BYTES >> 20} MiB; it is no manifest")
    try:
        return _file_decoder.decode(raw) or _File()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
        raise InvalidManifest("the file is no manifest; pull the model again") from None


def _stored_layer(file: _FileDescriptor, *, told: bool = False) -> Descriptor | None:
    if not file.digest:
        return None
    try:
        return _descriptor(_WireDescriptor(file.digest, file.size or 0, file.media_type or "", file.origin))
    except InvalidManifest:
        if told or file.media_type in _TELLING:
            raise
        return None


def _decode(raw: bytes) -> _Wire:
    if len(raw) > MAX_MANIFEST_BYTES:
        raise InvalidManifest(
            f"the registry sent a manifest larger than {MAX_MANIFEST_BYTES >> 20} MiB; it is not a model"
        )
    try:
        return _decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
        hint = " but a web page" if raw.lstrip()[:1] == b"<" else ""
        raise InvalidManifest(
            f"the registry did not send a manifest{hint}; check that the name points to a model registry"
        ) from None


def _descriptor(wire: _WireDescriptor) -> Descriptor:
    if not 0 <= wire.size <= MAX_BLOB_BYTES:
        raise InvalidManifest(
            "the registry sent a manifest with an impossible layer size; the model must be pushed again"
        )
    # Thousands of layers share a handful of types: one string each.
    return Descriptor(sys.intern(wire.media_type), _digest(wire.digest), wire.size, wire.origin or "")


def _digest(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except ValueError:
        raise InvalidManifest(
            f"the registry sent a manifest with an invalid digest {text[:40]!a}; the model must be pushed again"
        ) from None


def _one_size_each(blobs: Iterable[Descriptor]) -> None:
    sizes: dict[Digest, int] = {}
    for blob in blobs:
        if sizes.setdefault(blob.digest, blob.size) != blob.size:
            raise InvalidManifest(
                f"the registry sent a manifest that gives two sizes for {blob.digest}; the model must be pushed again"
            )
