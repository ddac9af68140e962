"""What a stored model is: what its config, its template and the head of its weights tell.

Told as Ollama tells it in its list (`server/model_list_cache.go`), which is not always what it tells of one model: the
list does not read a model's own vocabulary and chat template, and so knows less of it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec

from towline.files.regular import Irregular, open_regular, read_regular
from towline.model import gguf
from towline.model.manifest import (
    MODEL_LAYER,
    PROJECTOR_LAYER,
    PROMPT_LAYER,
    TEMPLATE_LAYER,
    Descriptor,
    Int64,
    Manifest,
)
from towline.model.template import BrokenTemplate, Template
from towline.server import shortage
from towline.server.parsers import PARSERS
from towline.store.store import Store, StoredModel
from towline.store.verified import Stamp, stamp

MAX_TEXT_BYTES = 1 << 20
"""Of a config or a template. Real ones have some kilobytes; a larger one is taken for one that cannot be read."""

_UNKNOWN = ("", "unknown")


class Config(msgspec.Struct):
    """Ollama's fields of an image config (`types/model/config.go`); `null` is the same as absent."""

    model_format: str | None = None
    model_family: str | None = None
    model_families: list[str] | None = None
    model_type: str | None = None
    file_type: str | None = None
    renderer: str | None = None
    parser: str | None = None
    remote_host: str | None = None
    remote_model: str | None = None
    capabilities: list[str] | None = None
    context_length: Int64 | None = None
    embedding_length: Int64 | None = None


class Details(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`details` of the list of models, in its order; a length that nothing tells is left out."""

    parent_model: str
    format: str
    family: str
    families: tuple[str, ...] | None
    parameter_size: str
    quantization_level: str
    context_length: int = 0
    embedding_length: int = 0


@dataclass(frozen=True, slots=True)
class Description:
    """What a model's blobs tell of it. The remote ones are set for a model that runs elsewhere."""

    details: Details
    capabilities: tuple[str, ...]
    remote_model: str
    remote_host: str


class _Hidden(Exception):
    """The model cannot be told of: an Ollama leaves it out of its list."""


@dataclass(frozen=True, slots=True)
class _Known:
    """`stamps` are those of the blobs that the description was read from, None for one that was missing."""

    description: Description | None
    stamps: dict[str, Stamp | None]
    final: bool


class Describer:
    """Describes models, and remembers for as long as their blobs stay as they are. May be used from several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, _Known] = {}

    def describe(self, models: Iterable[StoredModel]) -> Iterator[tuple[StoredModel, Description]]:
        """Of all models of the store, those that are listed, with what is told of them.

        Reads the disk, of each model once. Raises nothing for whatever lies in the store, and OSError where this
        process is short of files or memory.
        """
        last = self._known
        now: dict[str, Stamp | None] = {}  # models share blobs
        kept: dict[str, _Known] = {}
        for model in models:
            key = model.manifest.digest.hex
            known = kept.get(key) or last.get(key)
            if known is None or any(_stamp(path, now) != then for path, then in known.stamps.items()):
                known = self._read(model.manifest, now)
            if known.final:
                kept[key] = known
            if known.description:
                yield model, known.description
        self._known = kept

    def _read(self, manifest: Manifest, now: dict[str, Stamp | None]) -> _Known:
        stamps = {path: _stamp(path, now) for path in self._telling(manifest)}
        reading = _Reading(self._store)
        return _Known(reading.description(manifest), stamps, reading.final)

    def _telling(self, manifest: Manifest) -> Iterator[str]:
        """The blobs that a description is read from."""
        layers = (layer for layer in manifest.layers if layer.media_type in (MODEL_LAYER, TEMPLATE_LAYER, PROMPT_LAYER))
        for blob in (*layers, manifest.config):
            if blob:
                yield str(self._store.blob_path(blob.digest))


def _stamp(path: str, looked: dict[str, Stamp | None]) -> Stamp | None:
    """The stamp of the blob there, looked at once; None for one that is missing."""
    if path not in looked:
        try:
            looked[path] = stamp(os.stat(path))
        except OSError:
            looked[path] = None
    return looked[path]


class _Reading:
    """One reading of a model's blobs. `final` is False once one that is there could not be read."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.final = True

    def description(self, manifest: Manifest) -> Description | None:
        """None for a model that an Ollama does not list."""
        try:
            config = self._config(manifest)
            template = self._template(manifest)
        except _Hidden:
            return None
        weights = _last(manifest, MODEL_LAYER)
        remote = bool(config.remote_host or config.remote_model)
        head = self._head(weights) if weights and not remote else None
        return Description(
            details=_details(config, head, weights.origin if weights else ""),
            capabilities=capabilities(config, head, template, projects=_last(manifest, PROJECTOR_LAYER) is not None),
            remote_model=config.remote_model or "",
            remote_host=config.remote_host or "",
        )

    def _config(self, manifest: Manifest) -> Config:
        if manifest.config is None:
            return Config()
        try:
            return msgspec.json.decode(self._text(manifest.config), type=Config)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
            raise _Hidden from None

    def _template(self, manifest: Manifest) -> Template | None:
        """The last one, which is the one that counts; each must be one."""
        template = None
        for layer in manifest.layers:
            if layer.media_type in (TEMPLATE_LAYER, PROMPT_LAYER):
                try:
                    template = _parsed(self._text(layer))
                except BrokenTemplate:
                    raise _Hidden from None
        return template

    def _head(self, weights: Descriptor) -> gguf.Gguf | None:
        """The head of the weights; None where they are missing, or are in another form."""
        try:
            with open(open_regular(self._store.blob_path(weights.digest)), "rb") as file:
                head = gguf.read_until(file, "tokenizer.")
        except OSError as error:
            self._failed(error)
            return None
        except ValueError:
            return None
        return head if _is_sound(head) else None

    def _text(self, blob: Descriptor) -> bytes:
        try:
            return read_regular(self._store.blob_path(blob.digest), MAX_TEXT_BYTES)
        except OSError as error:
            self._failed(error)
            raise _Hidden from None

    def _failed(self, error: OSError) -> None:
        if shortage.what_is_short(error):
            raise error
        self.final = self.final and isinstance(error, (FileNotFoundError, Irregular))


@functools.lru_cache(maxsize=64)
def _parsed(text: bytes) -> Template:
    return Template.parse(text.decode("utf-8", "replace"))


def _last(manifest: Manifest, media_type: str) -> Descriptor | None:
    return next((layer for layer in reversed(manifest.layers) if layer.media_type == media_type), None)


def _is_sound(head: gguf.Gguf) -> bool:
    """Whether what a list reads of it has the types that it must have."""
    numbers = (head.metadata.get("general.file_type"), head.own("context_length"), head.own("embedding_length"))
    named = isinstance(head.metadata.get("general.architecture", ""), str)
    return named and all(number is None or type(number) is int for number in numbers)


def _details(config: Config, head: gguf.Gguf | None, parent: str) -> Details:
    quantization = config.file_type or ""
    if head and quantization in _UNKNOWN:
        quantization = head.file_type or quantization
    return Details(
        parent_model=parent,
        format=config.model_format or "",
        family=config.model_family or "",
        families=tuple(config.model_families) if config.model_families else None,
        parameter_size=config.model_type or "",
        quantization_level=quantization,
        context_length=config.context_length or _length(head, "context_length"),
        embedding_length=config.embedding_length or _length(head, "embedding_length"),
    )


def _length(head: gguf.Gguf | None, key: str) -> int:
    value = head.own(key) if head else None
    return value if isinstance(value, int) else 0


def capabilities(
    config: Config, head: gguf.Gguf | None, template: Template | None, *, projects: bool
) -> tuple[str, ...]:
    """What the model can do, by the signs that Ollama goes by, and in the order in which it finds them."""
    found = [*(_head_capabilities(head) if head else ()), *(config.capabilities or ())]
    names = template.names if template else frozenset()
    tools, thinking = PARSERS.get(config.parser or "", (False, False))
    if "tools" in names or tools:
        found.append("tools")
    if "suffix" in names:
        found.append("insert")
    if (template and template.thinks) or config.model_family in ("gptoss", "gpt-oss") or thinking:
        found.append("thinking")
    if projects:
        found.append("vision")
    if config.model_format == "safetensors" and config.renderer in ("gemma4", "gemma4-small", "gemma4-large"):
        found = [each for each in found if each not in ("vision", "audio")]
    return tuple(each for each in dict.fromkeys(found) if each)


def _head_capabilities(head: gguf.Gguf) -> Iterator[str]:
    signs = {f"{head.architecture}.vision.block_count": "vision", f"{head.architecture}.audio.block_count": "audio"}
    yield from (signs[key] for key in head.metadata if key in signs)
    yield "completion" if head.own("pooling_type") is None else "embedding"
